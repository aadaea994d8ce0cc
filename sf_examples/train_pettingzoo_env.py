"""Train a policy that plays a PettingZoo game against itself (``pip install pettingzoo[classic]``).

python -m sf_examples.train_pettingzoo_env --env=tictactoe_v3 --experiment=example --device=cpu --use_rnn=False
"""

from __future__ import annotations

import sys
from typing import Any

import gymnasium as gym
from torch import Tensor, nn

from sample_factory.algo.utils.context import global_model_factory
from sample_factory.algo.utils.torch_utils import calc_num_elements
from sample_factory.cfg.arguments import parse_full_cfg, parse_sf_args
from sample_factory.envs.env_utils import register_env
from sample_factory.envs.pettingzoo_envs import PettingZooParallelEnv
from sample_factory.model.encoder import Encoder
from sample_factory.model.model_utils import create_mlp, nonlinearity
from sample_factory.train import run_rl
from sample_factory.utils.typing import Config, Env, ObsSpace, StatusCode

ENV_NAME = "tictactoe_v3"


class CustomEncoder(Encoder):
    """Three small convolutions over the board and an MLP: ``[N, C, H, W] -> [N, get_out_size()]``."""

    def __init__(self, cfg: Config, obs_space: ObsSpace):
        super().__init__(cfg)
        assert isinstance(obs_space, gym.spaces.Dict)
        obs_shape = obs_space["obs"].shape
        assert obs_shape is not None
        self.conv_head = nn.Sequential(
            nn.Conv2d(obs_shape[0], 32, 2, padding=1),
            nonlinearity(cfg),
            nn.Conv2d(32, 64, 2, padding=1),
            nonlinearity(cfg),
            nn.Conv2d(64, 128, 2, padding=1),
            nonlinearity(cfg),
        )
        self.conv_head_out_size = calc_num_elements(self.conv_head, obs_shape)
        self.mlp_head = create_mlp(cfg.encoder_conv_mlp_layers, self.conv_head_out_size, nonlinearity(cfg))
        self.encoder_out_size = calc_num_elements(self.mlp_head, (self.conv_head_out_size,))

    def forward(self, obs_dict: dict[str, Tensor]) -> Tensor:
        return self.mlp_head(self.conv_head(obs_dict["obs"].float()).flatten(start_dim=1))

    def get_out_size(self) -> int:
        return self.encoder_out_size


def make_custom_encoder(cfg: Config, obs_space: ObsSpace) -> Encoder:
    return CustomEncoder(cfg, obs_space)


def make_pettingzoo_env(
    full_env_name: str, cfg: Config | None = None, env_config: Any = None, render_mode: str | None = None
) -> Env:
    from pettingzoo.classic import tictactoe_v3
    from pettingzoo.utils import turn_based_aec_to_parallel

    return PettingZooParallelEnv(turn_based_aec_to_parallel(tictactoe_v3.env(render_mode=render_mode)))


def register_custom_components() -> None:
    register_env(ENV_NAME, make_pettingzoo_env)
    global_model_factory().register_encoder_factory(make_custom_encoder)


def parse_custom_args(argv: list[str] | None = None, evaluation: bool = False) -> Config:
    parser, _ = parse_sf_args(argv=argv, evaluation=evaluation)
    return parse_full_cfg(parser, argv)


def main() -> StatusCode:
    register_custom_components()
    cfg = parse_custom_args()
    return run_rl(cfg)


if __name__ == "__main__":
    sys.exit(main())
