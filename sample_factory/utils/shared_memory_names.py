"""Names in shared memory that say whose they are, so that what a killed run left can be removed by the next one.

Shared tensors and queues lose their name as soon as they exist. Semaphores keep theirs until Python's resource tracker
removes it, which does not happen when everything is killed at once (out of memory, a container that is stopped). They
are called ``sem.sf-<pid namespace>-<pid>-<start time>-<random>``: a name of a process that is gone is removed, whatever
is not named like that is never touched.
"""

from __future__ import annotations

import contextlib
import multiprocessing.process
import os
import re
from pathlib import Path

SHARED_MEMORY_DIR = Path("/dev/shm")
_NAME = re.compile(r"^sem\.sf-(?P<namespace>\d+)-(?P<pid>\d+)-(?P<start>\d+)-[^-]+$")
_START_TIME_FIELD = 19  # of /proc/<pid>/stat behind the name of the program (field 22 of proc(5))


def claim_semaphore_names() -> None:
    """Let semaphores made by this process and its children from now on carry its identity. Linux only."""
    start_time = _start_time(os.getpid())
    if start_time is None:
        return
    # The one place where multiprocessing takes the first part of the names from; children inherit it.
    config = multiprocessing.process.current_process()._config  # type: ignore[attr-defined]
    config["semprefix"] = f"/sf-{_pid_namespace()}-{os.getpid()}-{start_time}"


def remove_stale_names(directory: Path = SHARED_MEMORY_DIR) -> list[str]:
    """Remove the semaphores of runs that are gone; returns their names.

    Processes of another pid namespace (a container that shares /dev/shm) cannot be seen and count as alive.
    """
    if not directory.is_dir() or _start_time(os.getpid()) is None:
        return []
    removed = []
    for path in directory.glob("sem.sf-*"):
        match = _NAME.match(path.name)
        if match is None or int(match["namespace"]) != _pid_namespace():
            continue
        if _start_time(int(match["pid"])) == int(match["start"]):
            continue
        with contextlib.suppress(OSError):  # another run sweeps as well, or the file is another user's
            path.unlink()
            removed.append(path.name)
    return removed


def _pid_namespace() -> int:
    return os.stat("/proc/self/ns/pid").st_ino


def _start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None if there is none, or no /proc."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (OSError, UnicodeDecodeError):
        return None
    return int(text.rpartition(")")[2].split()[_START_TIME_FIELD])
