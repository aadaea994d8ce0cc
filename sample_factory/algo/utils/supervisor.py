"""Watches the processes of a run.

The supervisor looks at process sentinels, not at heartbeats, so a death is noticed within a fraction of a second even
if the component never reported anything. It does not restart or stop anybody itself; the runner does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait as wait_for_sentinels

from signal_slot.signal_slot import EventLoop, EventLoopObject

from sample_factory.algo.utils.child_process import ChildError, ChildProcess
from sample_factory.algo.utils.multiprocessing_utils import wake_fork_server
from sample_factory.algo.utils.periodic_timer import PeriodicTimer
from sample_factory.utils.utils import log

_CHECK_PERIOD_SEC = 0.2
_KILL_TIMEOUT_SEC = 5.0


@dataclass(frozen=True)
class ProcessExit:
    """How a process ended. ``error``: what it sent before, if it could. ``cause``: why it was killed, if it was us."""

    name: str
    exitcode: int | None
    error: ChildError | None
    cause: str | None = None

    @property
    def is_clean(self) -> bool:
        return self.exitcode == 0 and self.error is None

    def __str__(self) -> str:
        if self.cause is not None:
            return f"process {self.name} {self.cause}"
        code = self.exitcode or 0
        how = f"was killed by signal {-code}" if code < 0 else f"exited with {code}"
        why = f": {self.error.text.strip().splitlines()[-1]}" if self.error is not None else ""
        return f"process {self.name} {how}{why}"


class Supervisor(EventLoopObject):
    def __init__(self, event_loop: EventLoop, on_exit: Callable[[ChildProcess, ProcessExit], None]) -> None:
        super().__init__(event_loop, "Supervisor")
        self._on_exit = on_exit
        self._running: list[ChildProcess] = []
        self._kill_causes: dict[ChildProcess, str] = {}
        self._timer = PeriodicTimer(event_loop, _CHECK_PERIOD_SEC)
        self._timer.timeout.connect(self.check)

    def watch(self, processes: Sequence[ChildProcess]) -> None:
        """Processes that have been started."""
        self._running.extend(processes)

    @property
    def running(self) -> list[ChildProcess]:
        return list(self._running)

    def check(self) -> None:
        wake_fork_server()  # it is the parent of all, and the one that learns of deaths
        by_sentinel = {process.sentinel: process for process in self._running}
        for sentinel in wait_for_sentinels(list(by_sentinel), timeout=0) if by_sentinel else ():
            process = by_sentinel[sentinel]  # type: ignore[index]
            process.join()
            self._running.remove(process)
            cause = self._kill_causes.pop(process, None)
            self._on_exit(process, ProcessExit(process.name, process.exitcode, process.error(), cause))

    def kill(self, process: ChildProcess, cause: str) -> None:
        """End a process that hangs; its exit is reported like any other, with this cause."""
        self._kill_causes[process] = cause
        process.kill()

    def join_or_kill(self, timeout_sec: float) -> list[str]:
        """Wait for all processes together at most this long, then kill what is left; returns the names of the
        killed.
        """
        wake_fork_server()
        deadline = time.monotonic() + timeout_sec
        for process in self._running:
            process.join(max(0.0, deadline - time.monotonic()))
        killed = [process for process in self._running if process.is_alive()]
        for process in killed:
            where = f"; its threads were here:\n{process.stacks()}" if timeout_sec > 0 else ""
            log.error(f"Process {process.name} did not stop, killing it{where}")
            process.kill()
        for process in killed:
            process.join(_KILL_TIMEOUT_SEC)
        self._running.clear()
        return [process.name for process in killed]
