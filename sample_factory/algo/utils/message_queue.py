"""The queue of an event loop: many processes write, one reads, and any of them may be killed at any moment.

A queue in shared memory needs a lock, and a process killed while it holds the lock takes everybody else down with it.
Here the kernel is the lock: a datagram is in the socket or it is not. Nothing a killed process leaves behind can block
or corrupt anything; at most the rest of a message that was too long for one datagram never arrives, and is dropped.

A full socket never loses a message and never blocks the writer: what does not fit waits in the writing process and is
sent by :func:`flush_all`, which event loops call.
"""

from __future__ import annotations

import os
import pickle
import select
import socket
import struct
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from queue import Empty
from typing import Any

_MAX_PART_BYTES = 64 * 1024
_SOCKET_BUFFER_BYTES = 4 * 1024 * 1024  # the kernel gives less if its limit is lower
# writer, number of the message, part of it, parts in all
_HEADER = struct.Struct("<QIHH")

# Queues of this process with messages that did not fit.
_overfull: weakref.WeakSet[MessageQueue] = weakref.WeakSet()


def flush_all() -> None:
    """Try again to send what did not fit; costs nothing if there is none."""
    if _overfull:
        for queue in tuple(_overfull):
            queue.flush()


def is_supported() -> bool:
    """Sockets that keep message boundaries and order, and never refuse a writer for the number of messages: Linux."""
    return hasattr(socket, "SOCK_SEQPACKET") and os.path.isdir("/proc/self")


class MessageQueue:
    """Drop-in for the queues of ``signal_slot``: ``put_many(messages)`` anywhere, ``get_many`` in one process.

    Pickled while a process is started, it gives that process the same socket pair. Messages of one writer arrive in
    order.
    """

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self._reader, self._writer):
            end.setblocking(False)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER_BYTES)
        self._prepare()

    def _prepare(self) -> None:
        self._waiting: deque[bytes] = deque()  # parts that did not fit into the socket
        self._send_lock = threading.Lock()  # parts of one message stay together; of this process only
        self._writer_id = int.from_bytes(os.urandom(8), "little")
        self._num_written = 0
        self._buffer = bytearray(_HEADER.size + _MAX_PART_BYTES)
        self._incomplete: dict[int, tuple[int, list[bytes]]] = {}  # writer -> its message so far
        self._poll = select.poll()
        self._poll.register(self._reader, select.POLLIN)

    def __getstate__(self) -> dict[str, Any]:
        return {"reader": self._reader, "writer": self._writer}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._reader, self._writer = state["reader"], state["writer"]
        for end in (self._reader, self._writer):
            end.setblocking(False)
        self._prepare()

    # --- writing ---

    def put(self, message: Any, block: bool = True, timeout: float = 0.0) -> None:
        self.put_many((message,))

    def put_many(self, messages: Sequence[Any], block: bool = True, timeout: float = 0.0) -> None:
        """Never blocks and never fails for want of room, whatever ``block`` says."""
        data = pickle.dumps(tuple(messages), pickle.HIGHEST_PROTOCOL)
        num_parts = -(-len(data) // _MAX_PART_BYTES)
        with self._send_lock:
            self._num_written = (self._num_written + 1) & 0xFFFFFFFF
            for i in range(num_parts):
                header = _HEADER.pack(self._writer_id, self._num_written, i, num_parts)
                self._waiting.append(header + data[i * _MAX_PART_BYTES : (i + 1) * _MAX_PART_BYTES])
            self._send_waiting()

    def flush(self) -> None:
        with self._send_lock:
            self._send_waiting()

    def _send_waiting(self) -> None:
        try:
            while self._waiting:
                self._writer.send(self._waiting[0])
                self._waiting.popleft()
        except (BlockingIOError, InterruptedError):
            _overfull.add(self)
            return
        except OSError:  # closed: nobody will read it
            self._waiting.clear()
        _overfull.discard(self)

    # --- reading ---

    def get_many(self, block: bool = True, timeout: float = 1e3, max_messages_to_get: int = 10**9) -> list[Any]:
        """All messages that are there; waits for the first one.

        :raises queue.Empty: none came in time.
        """
        messages = self._drain()
        deadline = time.monotonic() + timeout
        while not messages:
            remaining = deadline - time.monotonic()
            if not block or remaining <= 0:
                raise Empty
            self._poll.poll(remaining * 1000)
            messages = self._drain()
        return messages

    def get_many_nowait(self, max_messages_to_get: int = 10**9) -> list[Any]:
        return self.get_many(block=False)

    def _drain(self) -> list[Any]:
        messages: list[Any] = []
        view = memoryview(self._buffer)
        try:
            while size := self._reader.recv_into(self._buffer):
                writer, number, part, num_parts = _HEADER.unpack_from(self._buffer)
                data = view[_HEADER.size : size]
                if num_parts == 1:
                    messages += pickle.loads(data)
                else:
                    messages += self._join(writer, number, part, num_parts, bytes(data))
        except (BlockingIOError, InterruptedError):
            pass
        return messages

    def _join(self, writer: int, number: int, part: int, num_parts: int, data: bytes) -> Sequence[Any]:
        """The messages that are complete with this part."""
        if part == 0:
            self._incomplete[writer] = (number, [])
        begun, parts = self._incomplete.get(writer, (number, []))
        if begun != number or len(parts) != part:  # the writer was killed in the middle, or this one begins in it
            self._incomplete.pop(writer, None)
            return ()
        parts.append(data)
        if len(parts) < num_parts:
            return ()
        del self._incomplete[writer]
        return tuple(pickle.loads(b"".join(parts)))

    # --- state ---

    def empty(self) -> bool:
        return not self._poll.poll(0)

    def qsize(self) -> int:
        """Only whether there is something: the kernel does not count messages."""
        return int(not self.empty())

    def close(self) -> None:
        self._reader.close()
        self._writer.close()
