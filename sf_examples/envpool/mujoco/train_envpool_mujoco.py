"""Train in MuJoCo with EnvPool: ``python -m sf_examples.envpool.mujoco.train_envpool_mujoco --env=mujoco_ant ...``."""

from __future__ import annotations

import sys

from sample_factory.cfg.arguments import parse_full_cfg, parse_sf_args
from sample_factory.envs.env_utils import register_env
from sample_factory.train import run_rl
from sample_factory.utils.typing import Config, StatusCode
from sf_examples.envpool.mujoco.envpool_mujoco_params import add_mujoco_env_args, mujoco_envpool_override_defaults
from sf_examples.envpool.mujoco.envpool_mujoco_utils import MUJOCO_ENVS, make_mujoco_env


def register_mujoco_components() -> None:
    for spec in MUJOCO_ENVS:
        register_env(spec.name, make_mujoco_env)


def parse_mujoco_cfg(argv: list[str] | None = None, evaluation: bool = False) -> Config:
    parser, partial_cfg = parse_sf_args(argv=argv, evaluation=evaluation)
    add_mujoco_env_args(partial_cfg.env, parser, evaluation=evaluation)
    mujoco_envpool_override_defaults(partial_cfg.env, parser)
    return parse_full_cfg(parser, argv)


def main() -> StatusCode:
    register_mujoco_components()
    cfg = parse_mujoco_cfg()
    return run_rl(cfg)


if __name__ == "__main__":
    sys.exit(main())
