"""A stand-in for CUDA graphs, which need a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class RepeatedWork:
    """Does the work again at every replay, on the memory that was recorded. ``num_made``: set it to 0 before a test."""

    num_made = 0

    def __init__(self, work: Callable[[], Any], num_rehearsals: int = 0, **_: Any) -> None:
        RepeatedWork.num_made += 1
        self._work = work
        for _ in range(num_rehearsals):
            work()

    def replay(self) -> Any:
        return self._work()


def fail(*_: Any, **__: Any) -> None:
    """Work that cannot be recorded."""
    raise RuntimeError("operation not permitted when stream is capturing")
