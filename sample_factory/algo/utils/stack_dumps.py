"""Where is it stuck: stacks of all threads of a process that does not answer any more.

The process that may get stuck opens a pipe to the main process and registers a handler in C, which runs even while
Python code cannot (``faulthandler``). The main process sends the signal and reads what comes.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import time
from multiprocessing.connection import Connection, wait

_FIRST_LINE_SEC = 1.0
_NEXT_LINES_SEC = 0.1
_CHUNK_BYTES = 65536
_UNKNOWN = "(no stack: the process is stopped, or waits in the kernel)"


def dump_on_request(sender: Connection) -> None:
    """In the process that may get stuck: write the stacks into this pipe on SIGUSR2."""
    if hasattr(faulthandler, "register"):
        faulthandler.register(signal.SIGUSR2, file=sender.fileno(), all_threads=True)


def request_dump(pid: int, receiver: Connection) -> str:
    """Stacks of the threads of process ``pid``, innermost call first; takes at most a second or two."""
    if not hasattr(faulthandler, "register"):
        return _UNKNOWN
    try:
        os.kill(pid, signal.SIGUSR2)
    except ProcessLookupError:
        return "(no stack: the process is gone)"
    text, timeout = "", _FIRST_LINE_SEC
    deadline = time.monotonic() + 2 * _FIRST_LINE_SEC
    while time.monotonic() < deadline and wait([receiver], timeout):
        chunk = os.read(receiver.fileno(), _CHUNK_BYTES)
        if not chunk:
            break
        text += chunk.decode(errors="replace")
        timeout = _NEXT_LINES_SEC
    return text.rstrip() or _UNKNOWN
