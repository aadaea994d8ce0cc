"""Memory use of this process."""

from __future__ import annotations

import psutil


def memory_consumption_mb() -> float:
    """Resident memory of this process in MiB."""
    return psutil.Process().memory_info().rss / 2**20
