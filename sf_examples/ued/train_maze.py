"""Train an agent with memory in mazes, with a curriculum over them, in the asynchronous runner.

python -m sf_examples.ued.train_maze --env=maze_with_levels --curriculum=accel --maze_n_walls=0 --experiment=accel
python -m sf_examples.ued.train_maze --env=maze_with_levels --curriculum=dr --experiment=dr
"""

from __future__ import annotations

import argparse
import sys

import torch
from gymnasium import spaces
from torch import Tensor, nn

from sample_factory.algo.utils.context import global_model_factory
from sample_factory.cfg.arguments import parse_full_cfg, parse_sf_args
from sample_factory.envs.env_utils import register_env
from sample_factory.model.encoder import Encoder
from sample_factory.model.model_utils import nonlinearity
from sample_factory.train import run_rl
from sample_factory.utils.typing import Config, ObsSpace, StatusCode
from sf_examples.ued.maze_gym import DIRECTION_KEY, ENV_NAME, IMAGE_KEY, add_maze_args, make_maze_env

_NUM_FILTERS, _KERNEL_SIZE = 16, 3


class MazeEncoder(Encoder):
    """One convolution over the view, beside the direction: ``[N, get_out_size()]``."""

    def __init__(self, cfg: Config, obs_space: ObsSpace) -> None:
        super().__init__(cfg)
        assert isinstance(obs_space, spaces.Dict)
        image, direction = obs_space[IMAGE_KEY].shape, obs_space[DIRECTION_KEY].shape
        assert image is not None and direction is not None
        self.view = nn.Sequential(nn.Conv2d(image[0], _NUM_FILTERS, _KERNEL_SIZE), nonlinearity(cfg), nn.Flatten())
        side = image[1] - _KERNEL_SIZE + 1
        self._out_size = _NUM_FILTERS * side * side + direction[0]

    def forward(self, obs_dict: dict[str, Tensor]) -> Tensor:
        return torch.cat([self.view(obs_dict[IMAGE_KEY]), obs_dict[DIRECTION_KEY]], dim=1)

    def get_out_size(self) -> int:
        return self._out_size


def make_maze_encoder(cfg: Config, obs_space: ObsSpace) -> Encoder:
    return MazeEncoder(cfg, obs_space)


def override_default_params(parser: argparse.ArgumentParser) -> None:
    """A small recurrent network, and a curriculum."""
    parser.set_defaults(
        env=ENV_NAME,
        device="cpu",
        num_workers=2,
        num_envs_per_worker=32,
        worker_num_splits=2,
        rollout=64,
        batch_size=1024,
        num_batches_per_epoch=4,
        num_epochs=4,
        use_rnn=True,
        rnn_type="lstm",
        rnn_size=64,
        nonlinearity="relu",
        learning_rate=1e-3,
        gamma=0.995,
        exploration_loss_coeff=0.005,
        max_grad_norm=0.5,
        normalize_input=False,
        curriculum="plr",
        curriculum_buffer_size=512,
        curriculum_temp=0.3,
        decorrelate_envs_on_one_worker=False,
        train_for_env_steps=2_000_000,
    )


def register_custom_components() -> None:
    register_env(ENV_NAME, make_maze_env)
    global_model_factory().register_encoder_factory(make_maze_encoder)


def parse_custom_args(argv: list[str] | None = None, evaluation: bool = False) -> Config:
    parser, _ = parse_sf_args(argv=argv, evaluation=evaluation)
    add_maze_args(parser)
    override_default_params(parser)
    return parse_full_cfg(parser, argv)


def main() -> StatusCode:
    register_custom_components()
    cfg = parse_custom_args()
    return run_rl(cfg)


if __name__ == "__main__":
    sys.exit(main())
