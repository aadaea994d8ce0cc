"""Signals that end a run or ask for a checkpoint, from the first moment of a run to the last.

=========================  =====================================================  ==================================
signal                     what happens                                           exit code
=========================  =====================================================  ==================================
SIGINT (Ctrl-C)            save, stop every component, exit                       2
SIGINT a second time       kill the workers without saving, exit                  2
SIGINT a third time        exit at once                                           2
SIGTERM                    save, stop every component, exit                       143, or ``--requeue_exit_code``
SIGHUP                     save, stop every component, exit                       129
SIGUSR1                    save and go on; with ``--requeue_exit_code`` as above  -, or ``--requeue_exit_code``
=========================  =====================================================  ==================================

While a run is being prepared there is nothing to save: the first signal that stops it raises
:class:`TerminationRequested` in the main thread, wherever that is. Later the runner asks between two steps of its loop.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from sample_factory.algo.utils.misc import ExperimentStatus
from sample_factory.utils.typing import StatusCode
from sample_factory.utils.utils import log

SAVE_SIGNAL = signal.SIGUSR1
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, SAVE_SIGNAL)
_REQUEUED = (signal.SIGTERM, SAVE_SIGNAL)


class TerminationRequested(BaseException):
    """A signal ended the preparation of a run. No ``Exception``: nobody may take it for an error of an environment."""


def status_of_exception(exc: BaseException) -> StatusCode:
    """Exit code of a run that an exception in the main process ended.

    An environment or an observer may leave the program, which is no success, and may have replaced our handlers, so
    that Ctrl-C comes as an exception.
    """
    if isinstance(exc, KeyboardInterrupt):
        return ExperimentStatus.INTERRUPTED
    if isinstance(exc, SystemExit) and isinstance(exc.code, int):
        return exc.code or ExperimentStatus.FAILURE
    return ExperimentStatus.FAILURE


class TerminationSignals:
    """Context manager that records signals instead of dying of them. Outside the main thread it changes nothing.

    It may be entered again while it is active. ``on_exit_at_once`` is called before the process ends without going
    through the rest of the program (third SIGINT).
    """

    def __init__(self, requeue_exit_code: StatusCode | None = None) -> None:
        self.requeue_exit_code = requeue_exit_code
        self.received: list[signal.Signals] = []
        self.on_exit_at_once: Callable[[], None] = lambda: None
        self._previous: dict[signal.Signals, Callable[[int, FrameType | None], Any] | int | None] = {}
        self._depth = 0
        self._is_raising = False
        self._num_saves_done = 0

    def __enter__(self) -> TerminationSignals:
        self._depth += 1
        if self._depth == 1 and threading.current_thread() is threading.main_thread():
            for sig in _SIGNALS:
                # A run started in the background of a script inherits "ignore SIGINT"; the others must work there, too.
                if signal.getsignal(sig) != signal.SIG_IGN:
                    self._previous[sig] = signal.signal(sig, self._on_signal)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._depth -= 1
        if self._depth == 0:
            for sig, handler in self._previous.items():
                signal.signal(sig, handler)
            self._previous.clear()

    def warn_if_sigint_is_ignored(self) -> None:
        if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
            log.warning(
                "SIGINT is ignored in this process, as in everything a script starts in the background: "
                f"`kill -TERM {os.getpid()}` saves and stops this run"
            )

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Within it, a signal that stops the run raises :class:`TerminationRequested`."""
        self._is_raising = True
        try:
            self._raise_if_requested()
            yield
            # The exception may have been lost in a place that ignores all exceptions, such as a destructor.
            self._raise_if_requested()
        finally:
            self._is_raising = False

    def _raise_if_requested(self) -> None:
        if self.stop_requested():
            raise TerminationRequested(self.describe())

    def _on_signal(self, signum: int, _frame: FrameType | None) -> None:
        sig = signal.Signals(signum)
        self.received.append(sig)
        if sig == signal.SIGINT:
            self._on_impatience()
        if self._is_raising and self.stop_requested():
            self._is_raising = False  # once: the second signal must not interrupt the clean-up after the first
            raise TerminationRequested(self.describe())

    def _on_impatience(self) -> None:
        """The main thread may be waiting for a process: what nobody wants to wait for is killed right here."""
        count = self.received.count(signal.SIGINT)
        if count > 1:
            for process in multiprocessing.active_children():
                process.kill()
        if count > 2:
            self.on_exit_at_once()
            os._exit(ExperimentStatus.INTERRUPTED)

    # --- what was received ---

    def stop_requested(self) -> bool:
        return self._first_stop() is not None

    def kill_requested(self) -> bool:
        return self.received.count(signal.SIGINT) > 1

    def take_save_request(self) -> bool:
        """True once per signal that asks for a checkpoint."""
        num_requests = self.received.count(SAVE_SIGNAL)
        is_new = num_requests > self._num_saves_done
        self._num_saves_done = num_requests
        return is_new

    def status(self) -> StatusCode:
        """Exit code of an interrupted run."""
        first = self._first_stop()
        assert first is not None
        if first == signal.SIGINT:
            return ExperimentStatus.INTERRUPTED
        if first in _REQUEUED and self.requeue_exit_code is not None:
            return self.requeue_exit_code
        return 128 + int(first)

    def describe(self) -> str:
        """Name of the signal that ended the run."""
        first = self._first_stop()
        assert first is not None
        return f"{first.name}, twice: not saved" if self.kill_requested() else first.name

    def _first_stop(self) -> signal.Signals | None:
        # A copy: handlers may add to the list at any time.
        for sig in tuple(self.received):
            if sig != SAVE_SIGNAL or self.requeue_exit_code is not None:
                return sig
        return None
