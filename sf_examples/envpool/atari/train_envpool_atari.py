"""Train in Atari with EnvPool: ``python -m sf_examples.envpool.atari.train_envpool_atari --env=atari_pong ...``."""

from __future__ import annotations

import sys

from sample_factory.cfg.arguments import parse_full_cfg, parse_sf_args
from sample_factory.envs.env_utils import register_env
from sample_factory.train import run_rl
from sample_factory.utils.typing import Config, StatusCode
from sf_examples.envpool.atari.envpool_atari_params import add_atari_env_args, atari_envpool_override_defaults
from sf_examples.envpool.atari.envpool_atari_utils import ATARI_ENVS, make_atari_env


def register_atari_components() -> None:
    for spec in ATARI_ENVS:
        register_env(spec.name, make_atari_env)


def parse_atari_args(argv: list[str] | None = None, evaluation: bool = False) -> Config:
    parser, partial_cfg = parse_sf_args(argv=argv, evaluation=evaluation)
    add_atari_env_args(partial_cfg.env, parser, evaluation=evaluation)
    atari_envpool_override_defaults(partial_cfg.env, parser)
    return parse_full_cfg(parser, argv)


def main() -> StatusCode:
    register_atari_components()
    cfg = parse_atari_args()
    return run_rl(cfg)


if __name__ == "__main__":
    sys.exit(main())
