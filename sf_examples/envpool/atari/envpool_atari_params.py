"""Parameters for Atari in EnvPool: what differs from ``sf_examples.atari.atari_params``."""

from __future__ import annotations

import argparse

from sf_examples.atari.atari_params import atari_override_defaults
from sf_examples.envpool.envpool_utils import add_envpool_common_args


def add_atari_env_args(env: str, parser: argparse.ArgumentParser, evaluation: bool = False) -> None:
    parser.add_argument("--env_agents", default=2, type=int, help="Games stepped together in one environment")
    if evaluation:
        parser.add_argument("--render_mode", default="human", type=str, help="How EnvPool renders")
    add_envpool_common_args(env, parser)


def atari_envpool_override_defaults(env: str, parser: argparse.ArgumentParser) -> None:
    atari_override_defaults(env, parser)
    parser.set_defaults(
        num_workers=4,
        env_agents=64,
        batched_sampling=True,
        normalize_input=False,
        normalize_returns=False,
        async_rl=True,
    )
