"""Two trainings on one machine in turns: each is stopped while the other is measured.

Compilation and warm-up happen once, and a slice of one side is compared with a slice of the other seconds later, so
that a load of the machine that comes and goes meets both.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.process_tree import unwind_on_sigterm
from benchmarks.ued_runs import LOG_FILE, Side

_POLL_SEC = 0.05


@dataclass(frozen=True)
class Slice:
    """What a training did between two rows of its log; seconds of the clock and of processors."""

    cycles: int
    wall_sec: float
    cpu_sec: float


class PausedTraining:
    """A training that runs only while it is measured. Use it as a context manager: it is killed at the end."""

    def __init__(self, side: Side, flags: Sequence[str], folder: Path, name: str) -> None:
        self.name = name
        self._console = folder / f"{name}.txt"
        self._log = folder / name / LOG_FILE
        self._log.unlink(missing_ok=True)
        unwind_on_sigterm()
        self._process = side.start([*flags, f"--log_dir={folder}", f"--xpid={name}"], self._console)
        self._usage = psutil.Process(self._process.pid)

    def __enter__(self) -> PausedTraining:
        return self

    def __exit__(self, *args: object) -> None:
        self._process.kill()
        self._process.wait()

    def warm_up(self, cycles: int, timeout: float) -> None:
        """Run this many cycles, then pause.

        Raises RuntimeError with the end of the console when the training ends or the time is over.
        """
        deadline = time.monotonic() + timeout
        self._wait(lambda: self._num_rows() >= cycles, deadline)
        os.kill(self._process.pid, signal.SIGSTOP)

    def measure(self, seconds: float, min_cycles: int, timeout: float = 3600.0) -> Slice:
        """Run at least this long and this many whole cycles, then pause. The cycle begun before does not count."""
        deadline = time.monotonic() + timeout
        before = self._num_rows()
        os.kill(self._process.pid, signal.SIGCONT)
        try:
            self._wait(lambda: self._num_rows() > before, deadline)
            first, start, cpu = self._num_rows(), time.monotonic(), self._cpu_sec()

            def is_over() -> bool:
                return time.monotonic() - start >= seconds and self._num_rows() >= first + min_cycles

            self._wait(is_over, deadline)
            at_end = self._num_rows()
            self._wait(lambda: self._num_rows() > at_end, deadline)
            return Slice(self._num_rows() - first, time.monotonic() - start, self._cpu_sec() - cpu)
        finally:
            os.kill(self._process.pid, signal.SIGSTOP)

    def _wait(self, condition: Callable[[], bool], deadline: float) -> None:
        while not condition():
            if self._process.poll() is not None or time.monotonic() > deadline:
                tail = "\n".join(self._console.read_text().splitlines()[-15:])
                raise RuntimeError(f"{self.name} ended or was too slow, exit status {self._process.poll()}\n{tail}")
            time.sleep(_POLL_SEC)

    def _num_rows(self) -> int:
        try:
            return self._log.read_bytes().count(b"\n") - 1
        except FileNotFoundError:
            return 0

    def _cpu_sec(self) -> float:
        times = self._usage.cpu_times()
        return times.user + times.system
