"""A program and all its descendants: CPU seconds, memory, end.

The caller becomes the *subreaper* of its descendants (Linux): a process whose parent is gone becomes a child of the
caller, so nothing escapes the accounts. CPU time is exact at any moment, also for processes that were too short-lived
to be seen: what a parent has waited for is in its own counters, what the caller has waited for is added here.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_TICKS_PER_SEC = os.sysconf("SC_CLK_TCK")
_POLL_SEC = 0.01
# Fields of /proc/<pid>/stat after the name: parent; user and system time, own and of the children waited for.
_PPID, _TIMES = 1, slice(11, 15)


@dataclass(frozen=True)
class ProcessInfo:
    """One process: its CPU seconds include those of the children it has waited for."""

    pid: int
    parent: int
    name: str
    cpu_sec: float


@dataclass(frozen=True)
class MemoryUse:
    """In MB of 10^6 bytes. ``private``: pages nobody else has; ``pss``: shared pages count by their share;
    ``shm``: the part of ``pss`` that is memory made to be shared, named or not.
    """

    private_mb: float
    pss_mb: float
    shm_mb: float


def processes() -> Iterator[ProcessInfo]:
    """Every process of the machine; those that end meanwhile are left out."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text()
        except OSError:
            continue
        name, rest = stat[stat.index("(") + 1 : stat.rindex(")")], stat[stat.rindex(")") + 2 :].split()
        yield ProcessInfo(int(entry.name), int(rest[_PPID]), name, sum(map(int, rest[_TIMES])) / _TICKS_PER_SEC)


def descendants(root: int) -> list[ProcessInfo]:
    """All processes below ``root``, in no particular order."""
    children: dict[int, list[ProcessInfo]] = {}
    for process in processes():
        children.setdefault(process.parent, []).append(process)
    found, todo = [], [root]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += [process.pid for process in below]
    return found


def memory_of(pid: int) -> MemoryUse:
    """:raises OSError: the process is gone."""
    kib: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        key, value = line.split()[:2]
        kib[key.rstrip(":")] = int(value)
    private, pss, shm = kib["Private_Clean"] + kib["Private_Dirty"], kib["Pss"], kib["Pss_Shmem"]
    return MemoryUse(*(amount * 1024 / 1e6 for amount in (private, pss, shm)))


def unwind_on_sigterm() -> None:
    """A benchmark that is told to end unwinds, and with it ends what it has started."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))


class ProcessTree:
    """A program started as a child of this process. Only one at a time; the caller may have no other children."""

    def __init__(self, command: Sequence[str], cwd: str, env: Mapping[str, str]) -> None:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1)
        unwind_on_sigterm()
        self._reaped_sec = 0.0
        self.exit_code: int | None = None
        self.started_at = time.time()
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=cwd, env=env
        )

    def lines(self) -> Iterator[str]:
        """Output of all processes, until the last one is gone or has closed it."""
        assert self.process.stdout is not None
        yield from self.process.stdout

    def cpu_sec(self) -> float:
        """User and system time of the program and everything it has started so far."""
        self._reap()
        return self._reaped_sec + sum(process.cpu_sec for process in descendants(os.getpid()))

    def wait(self) -> float:
        """Until the last descendant is gone; returns the seconds since the epoch then."""
        while self._reap():
            time.sleep(_POLL_SEC)
        return time.time()

    def kill(self) -> None:
        """End everything that is left, at once."""
        while self._reap():
            for process in descendants(os.getpid()):
                os.kill(process.pid, signal.SIGKILL)
            time.sleep(_POLL_SEC)

    def _reap(self) -> bool:
        """Collect the children that have ended; whether any is left."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            self._reaped_sec += usage.ru_utime + usage.ru_stime
            if pid == self.process.pid:
                self.exit_code = self.process.returncode = os.waitstatus_to_exitcode(status)
