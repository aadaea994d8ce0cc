"""Train in an environment of the throughput benchmarks: one program for this project and for the original.

    python /path/to/benchmarks/train_script.py --env=bench_zero_vector --experiment=e --train_dir=/tmp/t ...

Which one runs is decided by the package `sample_factory` that the interpreter finds. Public names only. It is run as a
file, so that its neighbours can be imported although the interpreter of the original does not know this repository.
"""

from __future__ import annotations

import sys

from envs import ENV_NAMES, make_env

from sample_factory.cfg.arguments import parse_full_cfg, parse_sf_args
from sample_factory.envs.env_utils import register_env
from sample_factory.train import run_rl


def main() -> int:
    for name in ENV_NAMES:
        register_env(name, make_env)
    parser, _ = parse_sf_args()
    return run_rl(parse_full_cfg(parser))


if __name__ == "__main__":
    sys.exit(main())
