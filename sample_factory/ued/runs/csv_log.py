"""``logs.csv``: one row per logged cycle, with columns that are fixed before the first row."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sample_factory.cfg.errors import ConfigError

FILE_NAME = "logs.csv"
TICK, TIME = "_tick", "_time"
COUNTERS = ("steps", "sps", "real_steps", "real_sps")
# Behind the columns of minimax: steps that its counters leave out, and optimiser steps.
MORE_COUNTERS = ("mutation_steps", "teacher_steps", "scan_steps", "n_grad_updates")
_COMMENT = "# "


def columns_of(runner_columns: Sequence[str], evaluation_columns: Sequence[str]) -> list[str]:
    """All columns in their order; groups are sorted by name."""
    return [TICK, TIME, *sorted(runner_columns), *sorted(evaluation_columns), *COUNTERS, *MORE_COUNTERS]


class CsvLog:
    """Writes rows; every row is on its way to the disk before :meth:`write` returns.

    ``resume``: go on with an existing file. A row that was cut off by the death of the process is removed, and ticks
    that are there already are not written again. Without it the file starts anew.
    """

    def __init__(self, path: Path, columns: Sequence[str], *, resume: bool) -> None:
        self.path = path
        self.columns = list(columns)
        self._last_tick = -1
        if resume and path.exists() and path.stat().st_size > 0:
            self._last_tick = _repair(path, self.columns)
        else:
            path.write_text(_COMMENT + _line(self.columns), encoding="utf-8")

    def write(self, tick: int, row: Mapping[str, Any]) -> None:
        """Append a row; missing values are empty cells. KeyError for a value without a column."""
        unknown = row.keys() - set(self.columns)
        if unknown:
            raise KeyError(f"no columns for {sorted(unknown)}")
        if tick <= self._last_tick:
            return
        cells = [tick if name == TICK else row.get(name) for name in self.columns]
        with open(self.path, "a", encoding="utf-8", newline="") as file:
            file.write(_line(cells))
        self._last_tick = tick


def check_columns(path: Path, columns: Sequence[str]) -> None:
    """ConfigError if the file exists and has other columns, ValueError if its last row is none."""
    if not path.exists():
        return
    text, header = _read(path), _COMMENT + _line(columns)
    if header.startswith(text):
        return
    if not text.startswith(header):
        found = text.split("\n", 1)[0].removeprefix(_COMMENT).split(",")
        different = sorted(set(found) ^ set(columns))
        raise ConfigError(
            [
                f"{path} has other columns than this run ({', '.join(different[:5]) or 'in another order'}); "
                "continue with the flags the run was started with, or choose another --xpid"
            ]
        )
    last = _complete_lines(text).splitlines()[-1]
    if not last.startswith(_COMMENT) and not last.split(",", 1)[0].isdecimal():
        raise ValueError(
            f"{path} is damaged: its last line is no row of a log, {last[:40]!r}; remove it, or choose another --xpid"
        )


def read_log(path: Path) -> list[dict[str, str]]:
    """Rows of a log file as text by column."""
    with open(path, encoding="utf-8", newline="") as file:
        names = next(csv.reader([file.readline().removeprefix(_COMMENT)]))
        return [dict(zip(names, row, strict=True)) for row in csv.reader(file)]


def _repair(path: Path, columns: Sequence[str]) -> int:
    """Check the file, cut off an incomplete last line, and return the last tick (-1 if there is none)."""
    check_columns(path, columns)
    text = _read(path)
    complete = _complete_lines(text)
    if not complete:
        complete = _COMMENT + _line(columns)
    if complete != text:
        path.write_text(complete, encoding="utf-8")
    last = complete.splitlines()[-1]
    return -1 if last.startswith(_COMMENT) else int(last.split(",", 1)[0])


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")  # whatever damage is in there gets an error of its own


def _complete_lines(text: str) -> str:
    return text[: text.rfind("\n") + 1]


def _line(cells: Sequence[Any]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(["" if cell is None else cell for cell in cells])
    return buffer.getvalue()
