"""Signals that end a run, turned into requests the runner looks at between two steps of its loop.

=========================  =====================================================  =========
signal                     what the runner does                                   exit code
=========================  =====================================================  =========
SIGINT (Ctrl-C)            save, stop every component, exit                       2
SIGINT a second time       kill the workers without saving, exit                  2
SIGTERM, SIGHUP            save, stop every component, exit                       143, 129
=========================  =====================================================  =========
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from sample_factory.algo.utils.misc import ExperimentStatus
from sample_factory.utils.typing import StatusCode

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class TerminationSignals:
    """Context manager that records signals instead of dying of them. Outside the main thread it changes nothing."""

    def __init__(self) -> None:
        self.received: list[signal.Signals] = []
        self._previous: dict[signal.Signals, Callable[[int, FrameType | None], Any] | int | None] = {}

    def __enter__(self) -> TerminationSignals:
        if threading.current_thread() is threading.main_thread():
            for sig in _SIGNALS:
                # A run started in the background of a script inherits "ignore SIGINT"; the others must work there, too.
                if signal.getsignal(sig) != signal.SIG_IGN:
                    self._previous[sig] = signal.signal(sig, self._on_signal)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        for sig, handler in self._previous.items():
            signal.signal(sig, handler)

    def _on_signal(self, signum: int, _frame: FrameType | None) -> None:
        self.received.append(signal.Signals(signum))
        if self.received.count(signal.SIGINT) > 2:
            os._exit(ExperimentStatus.INTERRUPTED)  # the workers die with this process

    def stop_requested(self) -> bool:
        return bool(self.received)

    def kill_requested(self) -> bool:
        return self.received.count(signal.SIGINT) > 1

    def status(self) -> StatusCode:
        """Exit code of an interrupted run."""
        first = self.received[0]
        return ExperimentStatus.INTERRUPTED if first == signal.SIGINT else 128 + int(first)

    def describe(self) -> str:
        return self.received[0].name
