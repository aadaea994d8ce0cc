"""EnvPool: many environments stepped by C++ threads (``pip install envpool``)."""

from __future__ import annotations

import argparse
import os

from sample_factory.utils.utils import is_module_available


def envpool_available() -> bool:
    return is_module_available("envpool")


def add_envpool_common_args(env: str, parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--envpool_num_threads", default=os.cpu_count(), type=int, help="Threads used by one EnvPool instance"
    )
    parser.add_argument(
        "--envpool_thread_affinity_offset",
        default=-1,
        type=int,
        help="First core the threads of EnvPool are bound to; -1: no binding",
    )
