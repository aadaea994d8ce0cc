"""Runs of both sides of the UED benchmarks: how they are started, and what is in their logs."""

from __future__ import annotations

import contextlib
import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.results_io import REPOSITORY
from sample_factory.algo.runners.termination import TerminationSignals

RESULTS_DIR = REPOSITORY / "benchmarks" / "results" / "ued"
LOG_FILE = "logs.csv"
CONTINUES = "--from_last_checkpoint=True"
_POLL_SEC = 0.2

Row = dict[str, float | None]


@dataclass(frozen=True)
class Side:
    """One of the two implementations: its name in files and the beginning of its command line."""

    name: str
    command: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()

    def start(self, flags: Sequence[str], console: Path) -> subprocess.Popen[str]:
        """Start a training; its console goes to a file."""
        env = {**os.environ, **dict(self.environment)}
        with open(console, "w") as out:
            return subprocess.Popen(
                [*self.command, *flags], stdout=out, stderr=subprocess.STDOUT, text=True, cwd=REPOSITORY, env=env
            )


def ours(*flags: str, num_threads: int | None = 1) -> Side:
    """This repository, with further flags; ``num_threads=None`` leaves threads to the program."""
    threads = (("OMP_NUM_THREADS", str(num_threads)),) if num_threads is not None else ()
    paths = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = (sys.executable, "-m", "sample_factory.ued.train", *flags)
    return Side("here", command, (*threads, ("PYTHONPATH", paths)))


def minimax(python: str, cache: Path, device: str = "cpu") -> Side:
    """``minimax-lib`` in an environment of its own. Compiled programs are kept, so that further seeds start sooner."""
    environment = {
        "JAX_PLATFORMS": device,
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "PYTHONPATH": "",
    }
    return Side("minimax", (python, "-m", "minimax.train"), tuple(environment.items()))


def wait_for(start: Callable[[], subprocess.Popen[str]], timeout: float | None = None) -> int:
    """Start a process and wait for its exit status; one that takes longer than ``timeout`` seconds is killed.

    Signals that stop this program are passed on and end it only after the process, which may have hours of training to
    save. (``subprocess.run`` kills a child a quarter of a second after Ctrl-C, and leaves it behind on SIGTERM.)
    """
    with TerminationSignals() as signals:
        process = start()
        is_told, seconds = False, 0.0
        while process.poll() is None:
            if signals.stop_requested() and not is_told:
                is_told = True
                process.terminate()  # also after Ctrl-C, which only a terminal sends to both
            if timeout is not None and seconds >= timeout:
                process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_POLL_SEC)
            seconds += _POLL_SEC
        if signals.stop_requested():
            raise SystemExit(signals.status())
    return process.returncode


def read_log(path: Path) -> list[Row]:
    """Rows of a ``logs.csv`` of either side; cells without a number are None. No file: no rows."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines()
    if not lines:
        return []
    names = lines[0].removeprefix("# ").split(",")
    rows = [row for row in csv.reader(lines[1:]) if len(row) == len(names)]
    return [{name: _number(cell) for name, cell in zip(names, row, strict=True)} for row in rows]


def num_updates(rows: Sequence[Row]) -> int:
    """Updates that a run has behind it."""
    return int(rows[-1]["n_updates"] or 0) if rows else 0


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def run_if_needed(side: Side, flags: Sequence[str], folder: Path, name: str, updates: int, timeout: float) -> list[Row]:
    """The log of a finished run; trains first unless this run is already there. With the flag `CONTINUES` it goes on.

    Raises RuntimeError with the end of the console when the training fails or takes longer than ``timeout`` seconds.
    """
    log = folder / name / LOG_FILE
    if num_updates(read_log(log)) >= updates:
        return read_log(log)
    if CONTINUES not in flags:
        shutil.rmtree(folder / name, ignore_errors=True)  # what an interrupted run left would be mixed with this one's
    folder.mkdir(parents=True, exist_ok=True)
    console = folder / f"{name}.txt"
    status = wait_for(lambda: side.start([*flags, f"--log_dir={folder}", f"--xpid={name}"], console), timeout)
    rows = read_log(log)
    if status != 0 or num_updates(rows) < updates:
        tail = "\n".join(console.read_text().splitlines()[-15:])
        raise RuntimeError(f"{name}: {num_updates(rows)} of {updates} updates, exit status {status}\n{tail}")
    return rows
