"""Train or evaluate a Gymnasium environment with the original Sample Factory, through its public API only.

Run by the Python of an environment that has `sample-factory` installed, from a folder that has no package of this name:

    /path/to/python original_gym.py train --env=Acrobot-v1 --experiment=e --train_dir=/tmp/t ...
    /path/to/python original_gym.py evaluate --env=Acrobot-v1 --experiment=e --train_dir=/tmp/t ...
"""

from __future__ import annotations

import os
import sys

# The wheel loads its own checkpoints with a default of torch.load that newer versions of PyTorch changed.
os.environ.setdefault("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")

import gymnasium as gym

from sample_factory.cfg.arguments import parse_full_cfg, parse_sf_args
from sample_factory.enjoy import enjoy
from sample_factory.envs.env_utils import register_env
from sample_factory.train import run_rl


def make_env(full_env_name, cfg=None, env_config=None, render_mode=None):
    return gym.make(full_env_name, render_mode=render_mode)


def main() -> int:
    mode, argv = sys.argv[1], sys.argv[2:]
    parser, partial_cfg = parse_sf_args(argv, evaluation=mode == "evaluate")
    cfg = parse_full_cfg(parser, argv)
    register_env(partial_cfg.env, make_env)
    if mode == "train":
        return run_rl(cfg)
    status, reward = enjoy(cfg)
    print(f"average reward {reward:.3f}")
    return status


if __name__ == "__main__":
    sys.exit(main())
