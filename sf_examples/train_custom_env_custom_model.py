"""A custom environment with reward shaping, and a custom encoder for its observations.

python -m sf_examples.train_custom_env_custom_model --env=my_custom_env_v1 --experiment=example --device=cpu
python -m sf_examples.enjoy_custom_env_custom_model --env=my_custom_env_v1 --experiment=example
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import gymnasium as gym
import numpy as np
from torch import Tensor, nn

from sample_factory.algo.utils.context import global_model_factory
from sample_factory.algo.utils.torch_utils import calc_num_elements
from sample_factory.cfg.arguments import parse_full_cfg, parse_sf_args
from sample_factory.envs.env_utils import RewardShapingInterface, TrainingInfoInterface, register_env
from sample_factory.model.encoder import Encoder
from sample_factory.model.model_utils import nonlinearity
from sample_factory.train import run_rl
from sample_factory.utils.typing import Config, ObsSpace, StatusCode

ENV_NAME = "my_custom_env_v1"


class CustomEnv(gym.Env, TrainingInfoInterface, RewardShapingInterface):
    """Random images; the reward is proportional to the action, so the best policy always takes the last action."""

    def __init__(self, full_env_name: str, cfg: Config, render_mode: str | None = None):
        TrainingInfoInterface.__init__(self)
        self.name = full_env_name
        self.cfg = cfg
        self.render_mode = render_mode
        self.curr_episode_steps = 0
        self.observation_space = gym.spaces.Box(low=0, high=1, shape=(1, 10, 10), dtype=np.float32)
        self.action_space = gym.spaces.Discrete(cfg.custom_env_num_actions)
        self.reward_shaping: dict[str, float] = {"action_rew_coeff": 0.01}

    def _obs(self) -> np.ndarray:
        return self.np_random.random(self.observation_space.shape, dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.curr_episode_steps = 0
        return self._obs(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        assert isinstance(action, (int, np.int32, np.int64)), f"{type(action)=}"
        reward = float(action * self.reward_shaping["action_rew_coeff"])
        terminated = truncated = self.curr_episode_steps >= self.cfg.custom_env_episode_len
        self.curr_episode_steps += 1
        return self._obs(), reward, terminated, truncated, {}

    def render(self) -> None:
        return None

    def get_default_reward_shaping(self) -> dict[str, Any]:
        return self.reward_shaping

    def set_reward_shaping(self, reward_shaping: dict[str, Any], agent_idx: int | slice) -> None:
        self.reward_shaping = reward_shaping


def make_custom_env_func(
    full_env_name: str, cfg: Config | None = None, _env_config: Any = None, render_mode: str | None = None
) -> CustomEnv:
    assert cfg is not None
    return CustomEnv(full_env_name, cfg, render_mode=render_mode)


def add_extra_params(parser: argparse.ArgumentParser) -> None:
    """Flags of this environment."""
    parser.add_argument("--custom_env_num_actions", default=10, type=int, help="Number of actions in the custom env")
    parser.add_argument("--custom_env_episode_len", default=1000, type=int, help="Episode length in the custom env")


def override_default_params(parser: argparse.ArgumentParser) -> None:
    """Defaults that suit this environment better; the command line still wins."""
    parser.set_defaults(rnn_size=128)


class CustomEncoder(Encoder):
    """Two convolutions, flattened: ``[N, 1, 10, 10] -> [N, get_out_size()]``."""

    def __init__(self, cfg: Config, obs_space: ObsSpace):
        super().__init__(cfg)
        assert isinstance(obs_space, gym.spaces.Dict)
        obs_shape = obs_space["obs"].shape
        assert obs_shape is not None
        self.conv_head = nn.Sequential(
            nn.Conv2d(obs_shape[0], 8, 3, stride=2),
            nonlinearity(cfg),
            nn.Conv2d(8, 16, 2, stride=1),
            nonlinearity(cfg),
        )
        self.encoder_out_size = calc_num_elements(self.conv_head, obs_shape)

    def forward(self, obs_dict: dict[str, Tensor]) -> Tensor:
        return self.conv_head(obs_dict["obs"]).flatten(start_dim=1)

    def get_out_size(self) -> int:
        return self.encoder_out_size


def make_custom_encoder(cfg: Config, obs_space: ObsSpace) -> Encoder:
    return CustomEncoder(cfg, obs_space)


def register_custom_components() -> None:
    register_env(ENV_NAME, make_custom_env_func)
    global_model_factory().register_encoder_factory(make_custom_encoder)


def parse_custom_args(argv: list[str] | None = None, evaluation: bool = False) -> Config:
    parser, _ = parse_sf_args(argv=argv, evaluation=evaluation)
    add_extra_params(parser)
    override_default_params(parser)
    return parse_full_cfg(parser, argv)


def main() -> StatusCode:
    register_custom_components()
    cfg = parse_custom_args()
    return run_rl(cfg)


if __name__ == "__main__":
    sys.exit(main())
