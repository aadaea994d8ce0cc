"""Evaluate an agent of ``sf_examples.mujoco.train_mujoco`` in many environments at once, without rendering."""

from __future__ import annotations

import sys

from sample_factory.cfg.arguments import checkpoint_override_defaults, parse_full_cfg, parse_sf_args
from sample_factory.eval import do_eval
from sample_factory.utils.typing import StatusCode
from sf_examples.mujoco.mujoco_params import add_mujoco_env_args, mujoco_override_defaults
from sf_examples.mujoco.train_mujoco import register_mujoco_components


def main() -> StatusCode:
    register_mujoco_components()
    parser, partial_cfg = parse_sf_args(evaluation=True)
    add_mujoco_env_args(partial_cfg.env, parser)
    mujoco_override_defaults(partial_cfg.env, parser)
    # what the agent was trained with becomes the default, so the command line can still change it
    checkpoint_override_defaults(partial_cfg, parser)
    return do_eval(parse_full_cfg(parser))


if __name__ == "__main__":
    sys.exit(main())
