"""``python -m sample_factory.ued.train``: train students with a curriculum of levels."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from sample_factory.cfg.errors import ConfigError
from sample_factory.ued.config.checks import USAGE_ERROR
from sample_factory.ued.config.parser import help_text
from sample_factory.ued.config.train_args import TrainArgs, parse_train_args
from sample_factory.utils.standard_streams import survive_lost_output
from sample_factory.utils.typing import StatusCode

PROG = "sample_factory.ued.train"


def parse_args(argv: Sequence[str] | None = None) -> TrainArgs:
    """Parse and check; prints all errors and exits with code 2 if there are any."""
    argv = sys.argv[1:] if argv is None else argv
    if "--help" in argv or "-h" in argv:
        print(help_text(PROG))
        sys.exit(0)
    try:
        return parse_train_args(argv)
    except ConfigError as exc:
        _report(exc)
        sys.exit(USAGE_ERROR)


def run(args: TrainArgs) -> StatusCode:
    """Train; returns the exit code: 0 finished, 1 failed, 2 wrong flags or Ctrl-C, 143 SIGTERM."""
    # Only now, so that help and errors of flags come at once.
    from sample_factory.ued.runs.launch import USER_ERRORS, run_training

    try:
        return run_training(args)
    except ConfigError as exc:
        _report(exc)
        return USAGE_ERROR
    except USER_ERRORS as exc:
        print(f"{PROG}: error: {exc}", file=sys.stderr)
        return 1


def _report(error: ConfigError) -> None:
    print("\n".join(f"{PROG}: error: {problem}" for problem in error.problems), file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> StatusCode:
    survive_lost_output()
    return run(parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
