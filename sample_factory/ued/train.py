"""``python -m sample_factory.ued.train``: train students with a curriculum of levels."""

from __future__ import annotations

import pprint
import sys
from collections.abc import Sequence

from sample_factory.cfg.errors import ConfigError
from sample_factory.ued.config.parser import help_text
from sample_factory.ued.config.train_args import TrainArgs, parse_train_args
from sample_factory.utils.typing import StatusCode

PROG = "sample_factory.ued.train"
_USAGE_ERROR = 2


def parse_args(argv: Sequence[str] | None = None) -> TrainArgs:
    """Parse and check; prints all errors and exits with code 2 if there are any."""
    argv = sys.argv[1:] if argv is None else argv
    if "--help" in argv or "-h" in argv:
        print(help_text(PROG))
        sys.exit(0)
    try:
        return parse_train_args(argv)
    except ConfigError as exc:
        print("\n".join(f"{PROG}: error: {problem}" for problem in exc.problems), file=sys.stderr)
        sys.exit(_USAGE_ERROR)


def run(args: TrainArgs) -> StatusCode:
    """Train; returns the exit code: 0 finished, 1 failed, 2 interrupted by Ctrl-C, 143 ended by SIGTERM."""
    # Only now, so that help and errors of flags come at once.
    from sample_factory.ued.runs.launch import USER_ERRORS, run_training
    from sample_factory.ued.runs.meta import masked

    print(pprint.pformat(masked(args.config), indent=4), flush=True)
    try:
        return run_training(args)
    except USER_ERRORS as exc:
        print(f"{PROG}: error: {exc}", file=sys.stderr)
        return 1


def main(argv: Sequence[str] | None = None) -> StatusCode:
    return run(parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
