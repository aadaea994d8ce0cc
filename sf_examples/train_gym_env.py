"""Train an agent in any Gymnasium environment.

python -m sf_examples.train_gym_env --env=CartPole-v1 --experiment=cartpole --train_dir=./train_dir
python -m sf_examples.enjoy_gym_env --env=CartPole-v1 --experiment=cartpole --train_dir=./train_dir
"""

from __future__ import annotations

import sys
from typing import Any

from sample_factory.cfg.arguments import parse_full_cfg, parse_sf_args
from sample_factory.envs.env_utils import register_env
from sample_factory.envs.gymnasium_compat import make_gym_env
from sample_factory.train import run_rl
from sample_factory.utils.typing import Config, Env, StatusCode


def make_gym_env_func(
    full_env_name: str, cfg: Config | None = None, env_config: Any = None, render_mode: str | None = None
) -> Env:
    return make_gym_env(full_env_name, cfg, env_config, render_mode)


def register_custom_components() -> None:
    """Only an example of registration: every other Gymnasium id is found without it."""
    register_env("CartPole-v1", make_gym_env_func)


def parse_custom_args(argv: list[str] | None = None, evaluation: bool = False) -> Config:
    parser, _ = parse_sf_args(argv=argv, evaluation=evaluation)
    return parse_full_cfg(parser, argv)


def main() -> StatusCode:
    register_custom_components()
    cfg = parse_custom_args()
    return run_rl(cfg)


if __name__ == "__main__":
    sys.exit(main())
