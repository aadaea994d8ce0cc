"""Network helpers for environments that talk over UDP."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

MAX_PORT = 65535


def is_udp_port_available(port: int) -> bool:
    """True if a UDP socket can be bound to the port on all interfaces right now."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind(("", port))
        except OSError:
            return False
    return True


@contextmanager
def reserved_udp_port(first: int, num_tries: int = 100, step: int = 1) -> Iterator[int]:
    """The first of ``first``, ``first + step``... that no program uses and no other caller has reserved.

    Inside the block no other caller gets the same port, in whatever process of this machine: the TCP port of the same
    number is the lock, and the operating system gives it back when its holder dies. The UDP port itself stays free for
    the program that is to use it.

    RuntimeError after ``num_tries`` ports.
    """
    last = first + step * (num_tries - 1)
    for port in range(first, min(last, MAX_PORT) + 1, step):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as lock:
            try:
                lock.bind(("127.0.0.1", port))
                # Only one socket may listen, even where several could be bound.
                lock.listen(1)
            except OSError:
                continue
            if is_udp_port_available(port):
                yield port
                return
    raise RuntimeError(f"none of the {num_tries} UDP ports from {first} to {last} is free: choose another first port")
