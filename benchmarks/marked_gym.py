"""Train a Gymnasium environment with Sample Factory or the original, leaving a mark when the first step is made.

Run by the Python of either, with the path of the mark in the environment variable FIRST_STEP_MARK. Uses names both
packages have in public, and nothing else: the same program is measured twice.
"""

from __future__ import annotations

import os
import sys

import gymnasium as gym

from sample_factory.cfg.arguments import parse_full_cfg, parse_sf_args
from sample_factory.envs.env_utils import register_env
from sample_factory.train import run_rl


class MarkFirstStep(gym.Wrapper):
    """Creates the file at the first step of the process, unless another process was faster."""

    is_marked = False

    def step(self, action):
        if not MarkFirstStep.is_marked:
            MarkFirstStep.is_marked = True
            try:
                os.close(os.open(os.environ["FIRST_STEP_MARK"], os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                pass
        return self.env.step(action)


def make_env(full_env_name, cfg=None, env_config=None, render_mode=None):
    return MarkFirstStep(gym.make(full_env_name, render_mode=render_mode))


def main() -> int:
    parser, partial_cfg = parse_sf_args(sys.argv[1:])
    register_env(partial_cfg.env, make_env)
    return run_rl(parse_full_cfg(parser, sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(main())
