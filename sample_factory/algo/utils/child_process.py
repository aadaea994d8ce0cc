"""The process every worker component runs in.

Promises, checked by tests:

1. The child dies when the main process dies, for whatever reason and however busy the child is.
2. An exception anywhere on the child's loop reaches the main process with its traceback; the child's exit code is
then 1.
3. Ctrl-C in the terminal and SIGTERM to the process group do not kill the child before the main process had the
chance to
   save and stop everything; a SIGTERM to one child alone ends it.
4. The child sees the environment variables of the main process, although the fork server was started earlier.
5. A child that died can be replaced (:meth:`ChildProcess.renew`): the new process takes over the component and its
queue, and gets pipes of its own.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal as os_signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from multiprocessing.util import Finalize
from typing import Any

from signal_slot.signal_slot import EventLoopObject, EventLoopProcess, configure_logger

from sample_factory.algo.utils.multiprocessing_utils import get_mp_ctx, wake_fork_server
from sample_factory.algo.utils.parent_death import signal_on_parent_death
from sample_factory.algo.utils.poll_loop import PollingEventLoop
from sample_factory.algo.utils.stack_dumps import dump_on_request, request_dump
from sample_factory.utils import processes
from sample_factory.utils.logging import console_level, log, set_console_level

# A SIGTERM that was meant for the whole group is followed by a stop message from the main process within this time.
_SIGTERM_GRACE_SEC = 5.0
_EXIT_CODE_PARENT_DIED = 70
_EXIT_PRIORITY = 10  # before multiprocessing joins its children at exit
_EXIT_CODE_SIGTERM = 128 + os_signal.SIGTERM


class FinalError(RuntimeError):
    """An error that would come again: starting the process once more is no use."""


@dataclass(frozen=True)
class ChildError:
    """``text``: process and traceback."""

    text: str
    is_final: bool


class ChildProcess(EventLoopProcess):
    """Process with a :class:`PollingEventLoop`. ``init_func(*args)`` runs first in the child."""

    def __init__(self, unique_process_name: str, mp_ctx: BaseContext, init_func: Callable[..., None], args: tuple = ()):
        # The parent class would create a plain EventLoop; everything else of it is used as it is.
        self.num_restarts = 0
        self._make_process(unique_process_name, mp_ctx)
        self._init_func = init_func
        self.set_init_func_args(args)
        self.event_loop = PollingEventLoop(f"{unique_process_name}_evt_loop")
        EventLoopObject.__init__(self, self.event_loop, unique_process_name)
        self._environ = dict(os.environ)
        self._console_level = console_level()

    def _make_process(self, name: str, mp_ctx: BaseContext) -> None:
        self._process = mp_ctx.Process(target=self._target, name=name)  # type: ignore[attr-defined]
        self._error_receiver, self._error_sender = mp_ctx.Pipe(duplex=False)
        self._stack_receiver, self._stack_sender = mp_ctx.Pipe(duplex=False)

    def renew(self) -> None:
        """After the process has died: make it startable again."""
        mp_ctx = get_mp_ctx(serial=False)
        assert mp_ctx is not None and not self.is_alive()
        for end in (self._error_receiver, self._error_sender, self._stack_receiver, self._stack_sender):
            end.close()
        self._make_process(self.name, mp_ctx)
        self.num_restarts += 1

    def stacks(self) -> str:
        """Where its threads are just now."""
        pid = self.pid
        return "(not started)" if pid is None else request_dump(pid, self._stack_receiver)

    @property
    def sentinel(self) -> int:
        return self._process.sentinel

    def start(self) -> None:
        self._environ = dict(os.environ)
        self._console_level = console_level()
        wake_fork_server()
        super().start()
        # The child has them now. While somebody else could write, nobody would learn that it died in the middle.
        self._error_sender.close()
        self._stack_sender.close()
        # Without this, an exception in the main process would end in multiprocessing waiting for its children for ever.
        Finalize(self, _kill_if_alive, args=(self._process,), exitpriority=_EXIT_PRIORITY)

    def kill(self) -> None:
        """With all that was started by environments in it: they cannot end that any more."""
        if self.pid is not None and self.is_alive():
            processes.kill(self.pid)

    def error(self) -> ChildError | None:
        """What the child sent before it died, if anything."""
        try:
            return self._error_receiver.recv() if self._error_receiver.poll() else None
        except (EOFError, OSError):
            return None

    def _target(self) -> None:
        try:
            os.environ.clear()
            os.environ.update(self._environ)
            set_console_level(self._console_level)
            faulthandler.enable()
            dump_on_request(self._stack_sender)
            configure_logger(log)
            die_with_parent()
            ignore_terminal_signals(self.event_loop)
            self._init_func(*self._args, **self._kwargs)
            self.event_loop.exec()
        except BaseException as exc:
            text = f"{self.name} (pid {os.getpid()}):\n{traceback.format_exc()}"
            self._error_sender.send(ChildError(text, is_final=isinstance(exc, FinalError)))
            for obj in list(self.event_loop.objects.values()):
                if hasattr(obj, "on_crash"):
                    obj.on_crash()
            sys.stderr.flush()
            raise SystemExit(1) from None


def _kill_if_alive(process: Any) -> None:
    if process.is_alive():
        process.kill()


def die_with_parent() -> None:
    """Kill this process when the main process is gone: kernel signal where there is one, and a thread on its
    sentinel.
    """
    signal_on_parent_death(os_signal.SIGKILL)
    parent = multiprocessing.parent_process()

    def wait_for_parent() -> None:
        if parent is not None:
            parent.join()
            os._exit(_EXIT_CODE_PARENT_DIED)

    threading.Thread(target=wait_for_parent, name="parent_watch", daemon=True).start()


def ignore_terminal_signals(event_loop: PollingEventLoop) -> None:
    """SIGINT and SIGHUP are the main process's business; SIGTERM ends this process unless a stop message follows."""
    os_signal.signal(os_signal.SIGINT, os_signal.SIG_IGN)
    os_signal.signal(os_signal.SIGHUP, os_signal.SIG_IGN)

    def on_sigterm(*_: Any) -> None:
        log.info("SIGTERM received, waiting %.0f seconds for the main process to stop this one", _SIGTERM_GRACE_SEC)

        def end_if_nobody_stops_us() -> None:
            time.sleep(_SIGTERM_GRACE_SEC)
            if not is_stopping(event_loop):
                os._exit(_EXIT_CODE_SIGTERM)

        threading.Thread(target=end_if_nobody_stops_us, name="sigterm_watch", daemon=True).start()

    os_signal.signal(os_signal.SIGTERM, on_sigterm)


def is_stopping(event_loop: PollingEventLoop) -> bool:
    owner = event_loop.owner
    return event_loop.should_terminate or bool(getattr(owner, "is_stopped", False))
