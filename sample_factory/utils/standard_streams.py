"""Standard output that nobody reads any more must not end a training.

``train ... | head -1`` closes the pipe, a closed terminal answers every write with an error, and ``>&-`` starts a
program without standard streams. A pipe that nobody empties (``Popen(..., stdout=PIPE)``), or a terminal that is held
with Ctrl-S, takes nothing for ever: it is waited for once, for some seconds. What cannot be printed is dropped; the log
file has it.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
from typing import Any, TextIO

_STANDARD_DESCRIPTORS = (0, 1, 2)

_FULL_TIMEOUT_SEC = 5.0
# A pipe that can take something takes as much as that without blocking (PIPE_BUF bytes; a character has up to 4).
_CHUNK_CHARACTERS = 1024


class LenientStream:
    """Text stream that drops what its file does not take any more. Everything else is the stream's own."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._is_full = False
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.reconfigure(line_buffering=True)  # a full buffer is more than a pipe may take

    def write(self, text: str) -> int:
        try:
            for start in range(0, len(text), _CHUNK_CHARACTERS):
                self._is_full = not self._can_take_some(0.0 if self._is_full else _FULL_TIMEOUT_SEC)
                if self._is_full:
                    break
                self._stream.write(text[start : start + _CHUNK_CHARACTERS])
                if len(text) > _CHUNK_CHARACTERS:
                    self._stream.flush()
        except (OSError, ValueError):  # ValueError: the file object is closed
            self._give_up()
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        try:
            if self._can_take_some(0.0):  # the end of a process flushes, and is not to wait
                self._stream.flush()
        except (OSError, ValueError):
            self._give_up()

    def _can_take_some(self, timeout_sec: float) -> bool:
        """Whether the next write does not block, as far as one can know; waits for it to be so."""
        poll = select.poll()
        try:
            poll.register(self._stream.fileno(), select.POLLOUT)
        except (OSError, ValueError):  # closed, or no file of the system
            return True
        return bool(poll.poll(timeout_sec * 1000))

    def _give_up(self) -> None:
        """Point the descriptor to nowhere: what is in buffers, and output of C libraries, is dropped without errors."""
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def survive_lost_output() -> None:
    """Make ``sys.stdout`` and ``sys.stderr`` of this process lenient, and its descriptors 0 to 2 open ones.

    Calling it again changes nothing. Streams that a program has replaced by its own objects are left alone.
    """
    for descriptor in _STANDARD_DESCRIPTORS:
        try:
            os.fstat(descriptor)
        except OSError:
            # Otherwise the next file that is opened gets this number, and C libraries print into it.
            os.open(os.devnull, os.O_RDWR)
    if sys.stdout is sys.__stdout__:
        sys.stdout = LenientStream(sys.stdout or _nowhere(1))  # type: ignore[assignment]
    if sys.stderr is sys.__stderr__:
        sys.stderr = LenientStream(sys.stderr or _nowhere(2))  # type: ignore[assignment]


def _nowhere(descriptor: int) -> TextIO:
    """Stands in for the stream a program was started without: libraries rely on there being one."""
    return open(descriptor, "w", encoding="utf-8", closefd=False)
