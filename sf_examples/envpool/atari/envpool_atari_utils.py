"""Atari games in EnvPool."""

from __future__ import annotations

from typing import Any

from sample_factory.utils.typing import Config, Env
from sf_examples.atari.atari_utils import ATARI_ENVS as CLASSIC_ATARI_ENVS
from sf_examples.atari.atari_utils import ATARI_H, ATARI_W, AtariSpec
from sf_examples.envpool.envpool_wrappers import envpool_seed, make_envpool_env

ATARI_ENVS = [
    AtariSpec(spec.name, spec.env_id.replace("NoFrameskip-v4", "-v5"), spec.default_timeout)
    for spec in CLASSIC_ATARI_ENVS
]


def atari_env_by_name(name: str) -> AtariSpec:
    """:raises ValueError: unknown name."""
    for spec in ATARI_ENVS:
        if spec.name == name:
            return spec
    raise ValueError(f"Unknown Atari env {name!r}, known: {[spec.name for spec in ATARI_ENVS]}")


def make_atari_env(env_name: str, cfg: Config | None, env_config: Any, render_mode: str | None = None) -> Env:
    """``cfg.env_agents`` games, observations ``uint8 [env_agents, 4, 84, 84]``."""
    assert cfg is not None
    spec = atari_env_by_name(env_name)
    kwargs: dict[str, Any] = {}
    if spec.default_timeout is not None:
        kwargs["max_episode_steps"] = spec.default_timeout
    return make_envpool_env(
        spec.env_id,
        num_envs=cfg.env_agents,
        seed=envpool_seed(cfg.seed, env_config),
        render_mode=render_mode,
        num_threads=cfg.envpool_num_threads,
        thread_affinity_offset=cfg.envpool_thread_affinity_offset,
        reward_clip=True,
        episodic_life=True,
        frame_skip=cfg.env_frameskip,
        stack_num=cfg.env_framestack,
        img_height=ATARI_H,
        img_width=ATARI_W,
        **kwargs,
    )
