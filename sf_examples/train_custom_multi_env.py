"""A custom multi-agent environment whose agents are inactive from time to time.

python -m sf_examples.train_custom_multi_env --env=my_custom_multi_env_v1 --experiment=example --device=cpu
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from sample_factory.algo.utils.context import global_model_factory
from sample_factory.cfg.arguments import parse_full_cfg, parse_sf_args
from sample_factory.envs.env_utils import RewardShapingInterface, TrainingInfoInterface, register_env
from sample_factory.train import run_rl
from sample_factory.utils.typing import Config, StatusCode
from sf_examples.train_custom_env_custom_model import make_custom_encoder, override_default_params

ENV_NAME = "my_custom_multi_env_v1"

_INITIAL_INACTIVE_STEPS = 3
_INACTIVITY_PROBABILITY = 0.005
_MAX_INACTIVE_STEPS = 48

Obs = list[np.ndarray]


class CustomMultiEnv(gym.Env, TrainingInfoInterface, RewardShapingInterface):
    """Two agents that have to take the same action. Lists hold one entry per agent; the environment resets itself."""

    is_multiagent = True

    def __init__(self, full_env_name: str, cfg: Config, render_mode: str | None = None):
        TrainingInfoInterface.__init__(self)
        self.name = full_env_name
        self.cfg = cfg
        self.render_mode = render_mode
        self.num_agents = 2
        self.observation_space = gym.spaces.Box(low=0, high=1, shape=(1, 8, 8), dtype=np.float32)
        self.action_space = gym.spaces.Discrete(2)
        self.curr_episode_steps = 0
        self.inactive_steps = [_INITIAL_INACTIVE_STEPS] * self.num_agents
        self.reward_shaping: list[dict[str, float]] = [{"rew": -1.0} for _ in range(self.num_agents)]
        self.obs: Obs | None = None

    def reset(  # type: ignore[override]
        self, *, seed: int | None = None, options: dict | None = None
    ) -> tuple[Obs, list[dict]]:
        super().reset(seed=seed)
        self.curr_episode_steps = 0
        if self.obs is None:
            shape = self.observation_space.shape
            self.obs = [self.np_random.random(shape, dtype=np.float32) for _ in range(self.num_agents)]
        return self.obs, [{} for _ in range(self.num_agents)]

    def step(  # type: ignore[override]
        self, actions: Sequence[int]
    ) -> tuple[Obs, list[float], list[bool], list[bool], list[dict]]:
        assert self.obs is not None, "reset() must be called before step()"
        self._update_activity()
        is_active = [steps <= 0 for steps in self.inactive_steps]
        if actions[0] == actions[1]:
            rewards = [0.0] * self.num_agents
        else:
            rewards = [
                float(scheme["rew"]) if active else 0.0
                for scheme, active in zip(self.reward_shaping, is_active, strict=True)
            ]

        self.curr_episode_steps += 1
        time_out = self.curr_episode_steps >= self.cfg.custom_env_episode_len
        infos = [{"is_active": active, "time_outs": time_out} for active in is_active]
        terminated, truncated = [time_out] * self.num_agents, [time_out] * self.num_agents
        if time_out:
            self.obs, infos = self.reset()
        return self.obs, rewards, terminated, truncated, infos

    def _update_activity(self) -> None:
        for agent_idx, steps in enumerate(self.inactive_steps):
            if steps > 0:
                self.inactive_steps[agent_idx] -= 1
            elif self.np_random.random() < _INACTIVITY_PROBABILITY:
                self.inactive_steps[agent_idx] = int(self.np_random.integers(1, _MAX_INACTIVE_STEPS + 1))

    def render(self) -> None:
        return None

    def get_default_reward_shaping(self) -> dict[str, Any]:
        return self.reward_shaping[0]

    def set_reward_shaping(self, reward_shaping: dict[str, Any], agent_idx: int | slice) -> None:
        if isinstance(agent_idx, int):
            agent_idx = slice(agent_idx, agent_idx + 1)
        for idx in range(*agent_idx.indices(self.num_agents)):
            self.reward_shaping[idx] = reward_shaping


def make_custom_multi_env_func(
    full_env_name: str, cfg: Config | None = None, _env_config: Any = None, render_mode: str | None = None
) -> CustomMultiEnv:
    assert cfg is not None
    return CustomMultiEnv(full_env_name, cfg, render_mode=render_mode)


def add_extra_params_func(parser: argparse.ArgumentParser) -> None:
    """Flags of this environment."""
    parser.add_argument("--custom_env_episode_len", default=10, type=int, help="Episode length in the custom env")


def register_custom_components() -> None:
    register_env(ENV_NAME, make_custom_multi_env_func)
    global_model_factory().register_encoder_factory(make_custom_encoder)


def parse_custom_args(argv: list[str] | None = None, evaluation: bool = False) -> Config:
    parser, _ = parse_sf_args(argv=argv, evaluation=evaluation)
    add_extra_params_func(parser)
    override_default_params(parser)
    return parse_full_cfg(parser, argv)


def main() -> StatusCode:
    register_custom_components()
    cfg = parse_custom_args()
    return run_rl(cfg)


if __name__ == "__main__":
    sys.exit(main())
