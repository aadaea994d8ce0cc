"""How launched experiments ended, and the table that says why some failed."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from os.path import join
from pathlib import Path

from sample_factory.algo.runners.result import read_result
from sample_factory.utils.logging import LOG_FILE_NAME

MAX_CAUSE_LENGTH = 160
_NUM_TAIL_BYTES = 16384


@dataclass(frozen=True, slots=True)
class Outcome:
    """End of one experiment; `cause` is empty when it succeeded."""

    name: str
    exit_code: int | None
    cause: str = ""

    @property
    def failed(self) -> bool:
        return self.exit_code != 0


def outcome_table(outcomes: Iterable[Outcome]) -> str:
    """Text table of the failed experiments with exit code and cause."""
    rows = [("experiment", "exit", "cause")]
    rows += [(o.name, "-" if o.exit_code is None else str(o.exit_code), o.cause) for o in outcomes if o.failed]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return "\n".join(f"  {name:<{widths[0]}}  {code:>{widths[1]}}  {cause}" for name, code, cause in rows)


def describe_exit(exit_code: int, experiment_dir: str) -> str:
    """Why a process ended: its signal, what it says itself in ``result.json``, or the last line of its log."""
    if exit_code == 0:
        return ""
    if exit_code < 0:
        try:
            return f"killed by {signal.Signals(-exit_code).name}"
        except ValueError:
            return f"killed by signal {-exit_code}"
    result = read_result(experiment_dir)
    if result is not None and result.get("exit_code") == exit_code:
        return shortened(str(result.get("cause")))
    return last_line(join(experiment_dir, LOG_FILE_NAME)) or "see its output above"


def last_line(path: str) -> str:
    """Last non-empty line of a text file, shortened; "" if there is none."""
    try:
        with Path(path).open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _NUM_TAIL_BYTES))
            lines = file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    text = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return shortened(text)


def shortened(text: str) -> str:
    """On one line, and not longer than a row of the table."""
    text = " ".join(text.split())
    return text if len(text) <= MAX_CAUSE_LENGTH else text[: MAX_CAUSE_LENGTH - 3] + "..."


def command_argv(command: str) -> list[str]:
    """Split a command line without a shell; a leading `python` means the running interpreter."""
    argv = shlex.split(command)
    if argv and argv[0].startswith("python"):
        argv[0] = sys.executable
    return argv


def env_prefix(env_vars: Mapping[str, str] | None) -> str:
    """`env A=1 B=2 ` for use in front of a command inside a job script."""
    if not env_vars:
        return ""
    return " ".join(["env", *(shlex.quote(f"{key}={value}") for key, value in env_vars.items())]) + " "
