"""Download an experiment: ``python -m sample_factory.huggingface.load_from_hub -r user/name -d train_dir``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from sample_factory.huggingface.huggingface_utils import load_from_hf


def load_argparser() -> argparse.ArgumentParser:
    """The command line of this module."""
    parser = argparse.ArgumentParser(prog="python -m sample_factory.huggingface.load_from_hub", description=__doc__)
    parser.add_argument("-r", "--hf_repository", required=True, help="Repository on the hub: user/name", type=str)
    parser.add_argument(
        "-d", "--train_dir", default="./train_dir", help="The experiment is stored in a folder below this one", type=str
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = load_argparser().parse_args(argv)
    load_from_hf(args.train_dir, args.hf_repository)
    return 0


if __name__ == "__main__":
    sys.exit(main())
