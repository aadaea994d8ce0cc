"""Train in Atari: ``python -m sf_examples.atari.train_atari --env=atari_breakout --experiment=breakout``."""

from __future__ import annotations

import sys

from sample_factory.cfg.arguments import parse_full_cfg, parse_sf_args
from sample_factory.envs.env_utils import register_env
from sample_factory.train import run_rl
from sample_factory.utils.typing import Config, StatusCode
from sf_examples.atari.atari_params import atari_override_defaults
from sf_examples.atari.atari_utils import ATARI_ENVS, make_atari_env


def register_atari_envs() -> None:
    for spec in ATARI_ENVS:
        register_env(spec.name, make_atari_env)


def register_atari_components() -> None:
    register_atari_envs()


def parse_atari_args(argv: list[str] | None = None, evaluation: bool = False) -> Config:
    parser, partial_cfg = parse_sf_args(argv=argv, evaluation=evaluation)
    atari_override_defaults(partial_cfg.env, parser)
    return parse_full_cfg(parser, argv)


def main() -> StatusCode:
    register_atari_components()
    cfg = parse_atari_args()
    return run_rl(cfg)


if __name__ == "__main__":
    sys.exit(main())
