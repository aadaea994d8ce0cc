"""Network helpers for environments that talk over UDP."""

from __future__ import annotations

import socket


def is_udp_port_available(port: int) -> bool:
    """True if a UDP socket can be bound to the port on all interfaces right now."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind(("", port))
        except OSError:
            return False
    return True
