"""Train an agent with memory in the T-maze; compare with ``--use_rnn=False``, which cannot get above a reward of 0.

python -m sf_examples.train_tmaze --env=memory_tmaze --experiment=tmaze --rnn_type=gru --device=cpu
python -m sample_factory.enjoy --env=memory_tmaze --experiment=tmaze --no_render --max_num_episodes=100
"""

from __future__ import annotations

import argparse
import sys

from sample_factory.cfg.arguments import parse_full_cfg, parse_sf_args
from sample_factory.envs.env_utils import register_env
from sample_factory.train import run_rl
from sample_factory.utils.typing import Config, StatusCode
from sf_examples.envs.tmaze import ENV_NAME, add_tmaze_args, make_tmaze_env


def override_default_params(parser: argparse.ArgumentParser) -> None:
    """A small network and enough environments to solve the task in about a minute on two cores."""
    parser.set_defaults(
        device="cpu",
        num_workers=2,
        num_envs_per_worker=16,
        worker_num_splits=2,
        rollout=32,
        batch_size=1024,
        num_epochs=2,
        use_rnn=True,
        rnn_size=32,
        encoder_mlp_layers=[32],
        learning_rate=3e-3,
        gamma=0.99,
        exploration_loss_coeff=0.005,
        normalize_input=False,
        train_for_env_steps=400_000,
        decorrelate_experience_max_seconds=0,
    )


def register_custom_components() -> None:
    register_env(ENV_NAME, make_tmaze_env)


def parse_custom_args(argv: list[str] | None = None, evaluation: bool = False) -> Config:
    parser, _ = parse_sf_args(argv=argv, evaluation=evaluation)
    add_tmaze_args(parser)
    override_default_params(parser)
    return parse_full_cfg(parser, argv)


def main() -> StatusCode:
    register_custom_components()
    cfg = parse_custom_args()
    return run_rl(cfg)


if __name__ == "__main__":
    sys.exit(main())
