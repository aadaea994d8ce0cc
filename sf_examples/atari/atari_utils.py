"""The 57 Atari games with the classic preprocessing (``pip install ale-py opencv-python-headless``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym

from sample_factory.envs.env_wrappers import (
    ClipRewardEnv,
    EpisodicLifeEnv,
    FireResetEnv,
    MaxAndSkipEnv,
    NoopResetEnv,
    NumpyObsWrapper,
)
from sample_factory.envs.gymnasium_compat import gymnasium_wrapper, import_env_plugin
from sample_factory.utils.typing import Config, Env

ATARI_W = ATARI_H = 84
_MAX_NOOPS = 30

_GAME_LIST = """
    Alien Amidar Assault Asterix Asteroids Atlantis BankHeist BattleZone BeamRider Berzerk Bowling Boxing Breakout
    Centipede ChopperCommand CrazyClimber Defender DemonAttack DoubleDunk Enduro FishingDerby Freeway Frostbite
    Gopher Gravitar Hero IceHockey Jamesbond Kangaroo Krull KungFuMaster MontezumaRevenge MsPacman NameThisGame
    Phoenix Pitfall Pong PrivateEye Qbert Riverraid RoadRunner Robotank Seaquest Skiing Solaris SpaceInvaders
    StarGunner Surround Tennis TimePilot Tutankham UpNDown Venture VideoPinball WizardOfWor YarsRevenge Zaxxon
"""

_SPECIAL_NAMES = {
    "Asteroids": "atari_asteroid",
    "KungFuMaster": "atari_kongfumaster",
    "MontezumaRevenge": "atari_montezuma",
    "PrivateEye": "atari_privateye",
}
_TIMEOUTS = {"MontezumaRevenge": 18000}


@dataclass
class AtariSpec:
    """Name of a game here, its Gymnasium id and its episode limit in agent steps, if not the usual one."""

    name: str
    env_id: str
    default_timeout: int | None = None
    has_timer: bool = False


ATARI_ENVS = [
    AtariSpec(_SPECIAL_NAMES.get(game, f"atari_{game.lower()}"), f"{game}NoFrameskip-v4", _TIMEOUTS.get(game))
    for game in _GAME_LIST.split()
]


def atari_env_by_name(name: str) -> AtariSpec:
    """:raises ValueError: unknown name."""
    for spec in ATARI_ENVS:
        if spec.name == name:
            return spec
    raise ValueError(f"Unknown Atari env {name!r}, known: {[spec.name for spec in ATARI_ENVS]}")


def make_atari_env(env_name: str, cfg: Config | None, env_config: Any, render_mode: str | None = None) -> Env:
    """Observations ``uint8 [cfg.env_framestack, 84, 84]``."""
    assert cfg is not None
    spec = atari_env_by_name(env_name)
    env: Env = gym.make(import_env_plugin(spec.env_id), render_mode=render_mode)
    if spec.default_timeout is not None:
        env._max_episode_steps = spec.default_timeout
    env = gym.wrappers.RecordEpisodeStatistics(env)
    env = NoopResetEnv(env, noop_max=_MAX_NOOPS)
    env = MaxAndSkipEnv(env, skip=cfg.env_frameskip)
    env = EpisodicLifeEnv(env)
    if "FIRE" in env.unwrapped.get_action_meanings():
        env = FireResetEnv(env)
    env = ClipRewardEnv(env)
    env = gymnasium_wrapper("ResizeObservation")(env, (ATARI_H, ATARI_W))
    env = gymnasium_wrapper("GrayscaleObservation")(env)
    env = gymnasium_wrapper("FrameStackObservation")(env, cfg.env_framestack)
    return NumpyObsWrapper(env)
