"""Finds processes that hang: those whose life signs stay the same for too long.

A process that is merely slow changes its words (see ``life_signs``) with every environment it steps and every look at
its messages; one that is stuck in an environment, in C code or in a stopped state does not. Its stacks are logged, then
it is killed, and the supervisor reports it like any other death.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from sample_factory.algo.utils.child_process import ChildProcess
from sample_factory.algo.utils.life_signs import ENV, PHASE, STARTING, LifeSigns
from sample_factory.algo.utils.supervisor import Supervisor
from sample_factory.utils.utils import log

MAX_CHECK_PERIOD_SEC = 1.0


@dataclass
class Watched:
    """``timeout_sec``: without any life sign, once it runs; ``flag`` is where that number comes from."""

    process: ChildProcess
    row: int
    timeout_sec: float
    flag: str
    last_words: tuple[int, ...] = ()
    silent_sec: float = 0.0


class Watchdog:
    def __init__(self, supervisor: Supervisor, life_signs: LifeSigns, startup_timeout_sec: float) -> None:
        self._supervisor, self._life_signs = supervisor, life_signs
        self._startup_timeout_sec = startup_timeout_sec
        self._watched: list[Watched] = []
        self._checked_at = time.monotonic()

    def watch(self, process: ChildProcess, row: int, timeout_sec: float, flag: str) -> None:
        """``timeout_sec=0``: this process may be silent for ever."""
        if timeout_sec > 0:
            self._watched.append(Watched(process, row, timeout_sec, flag))

    @property
    def check_period_sec(self) -> float:
        shortest = min((watched.timeout_sec for watched in self._watched), default=MAX_CHECK_PERIOD_SEC)
        return min(MAX_CHECK_PERIOD_SEC, shortest / 4)

    def check(self) -> None:
        """To be called every :attr:`check_period_sec`."""
        now = time.monotonic()
        # If this process was suspended, so were the others: that time does not count.
        elapsed_sec = min(now - self._checked_at, 2 * MAX_CHECK_PERIOD_SEC)
        self._checked_at = now
        running = set(self._supervisor.running)
        for watched in self._watched:
            words = self._life_signs.read(watched.row)
            if words != watched.last_words or watched.process not in running:
                watched.last_words, watched.silent_sec = words, 0.0
                continue
            watched.silent_sec += elapsed_sec
            is_starting = words[PHASE] == STARTING
            limit = self._startup_timeout_sec if is_starting else watched.timeout_sec
            if watched.silent_sec > limit:
                flag = "--startup_timeout" if is_starting else watched.flag
                self._kill(watched, f"showed no sign of life for {watched.silent_sec:.0f} seconds ({flag}={limit:g})")

    def _kill(self, watched: Watched, cause: str) -> None:
        process = watched.process
        log.error(
            f"Process {process.name} (pid {process.pid}) {cause} and is killed; the last environment of the worker it "
            f"worked on was number {watched.last_words[ENV]}. Its threads were here:\n{process.stacks()}"
        )
        watched.silent_sec = 0.0
        self._supervisor.kill(process, f"{cause} and was killed")
