"""Carries log lines of worker processes to the process that shows the live view.

The view listens on a datagram socket whose name follows from its process id, so workers find it without any set-up,
whatever way and whenever they were started. The socket lives in Linux's abstract namespace: no file is created. On
other systems, or while no view runs, sending fails at once and the worker prints to its own stderr.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import struct
import sys
import threading
from collections.abc import Callable

MAX_LINE_BYTES = 32768
STOP_TIMEOUT_SEC = 2.0
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


def _address(pid: int) -> str:
    return f"\0sample_factory_live_view_{pid}"


def send_to_live_view(level: int, text: str) -> bool:
    """Hand a formatted log line to the live view of the parent process; False if there is none."""
    parent = multiprocessing.parent_process()
    if parent is None or parent.pid is None or sys.platform != "linux":
        return False
    payload = f"{level} {text}".encode("utf-8", errors="replace")[:MAX_LINE_BYTES]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto(payload, _address(parent.pid))
    except OSError:  # nobody listens, or the reader is too slow: never wait for a display
        return False
    return True


class LiveLogReceiver:
    """Calls `on_line(level, text)` from a thread for each line sent by a worker of this process."""

    def __init__(self, on_line: Callable[[int, str], None]) -> None:
        self._on_line = on_line
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to listen; does nothing where abstract sockets do not exist."""
        if sys.platform != "linux" or self._socket is not None:
            return
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            sock.bind(_address(os.getpid()))
        except OSError:  # another view of this process listens already
            sock.close()
            return
        self._socket = sock
        self._thread = threading.Thread(target=self._receive, args=(sock,), name="live_log", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop listening; lines that have already arrived are delivered first."""
        if self._socket is None or self._thread is None:
            return
        # Bounded waits: a signal handler may call this while the interrupted code holds the lock of the console.
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
            sock.settimeout(STOP_TIMEOUT_SEC)
            sock.sendto(b"", _address(os.getpid()))  # an empty datagram ends the thread after all earlier ones
        self._thread.join(STOP_TIMEOUT_SEC)
        self._socket.close()
        self._socket = self._thread = None

    def _receive(self, sock: socket.socket) -> None:
        """Consumes datagrams, waits for the next one; unblocked by the workers and by `stop`."""
        while True:
            try:
                payload, ancillary, _, _ = sock.recvmsg(MAX_LINE_BYTES, socket.CMSG_SPACE(_CREDENTIALS.size))
            except OSError:  # closed by `stop` after its time limit
                return
            if not _sent_by_this_user(ancillary):
                continue
            if not payload:
                return
            level, _, text = payload.decode("utf-8", errors="replace").partition(" ")
            if level.isdecimal():
                self._on_line(int(level), text)


def _sent_by_this_user(ancillary: list[tuple[int, int, bytes]]) -> bool:
    # Abstract sockets have no file permissions, so other users of the machine could write to the terminal.
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
            return _CREDENTIALS.unpack(data[: _CREDENTIALS.size])[1] == os.getuid()
    return False
