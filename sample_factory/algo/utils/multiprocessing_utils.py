"""Multiprocessing context and locks."""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import multiprocessing.util
import os
import signal
import tempfile
from contextlib import suppress
from functools import lru_cache
from multiprocessing.context import BaseContext
from types import TracebackType
from typing import Any

from sample_factory.utils.logging import log
from sample_factory.utils.typing import MpLock

# Imported once by the fork server; every child then starts with them in (copy-on-write) memory. What is missing here
# costs every process its import and private memory. The first and the last one prepare the server itself.
_PRELOADED_MODULES = [
    "sample_factory.algo.utils.fork_server_setup",
    "torch",
    "numpy.ma",
    "gymnasium.envs.classic_control",
    "faster_fifo",
    "multiprocessing.popen_forkserver",
    "sample_factory.train",
    "sample_factory.envs.create_env",
    "sample_factory.envs.gymnasium_compat",
    "sample_factory.algo.utils.make_env",
    "sample_factory.algo.utils.fork_server_ready",
]

_MAX_SOCKET_PATH = 100  # bytes; Linux allows 107, other systems 103
_EXAMPLE_OF_SOCKET = "pymp-12345678/listener-12345678"
_SHORT_TEMPORARY_FOLDER = "/tmp"


@lru_cache(maxsize=1)
def _parallel_ctx() -> BaseContext:
    """Fork server where the platform has one, else spawn.

    A fork server gives children the semantics of spawn (fresh interpreter state, picklable arguments, no inherited
    threads) without paying a second of imports and 160 MB per process.
    """
    if "forkserver" in multiprocessing.get_all_start_methods():
        _choose_folder_for_sockets()
        ctx = multiprocessing.get_context("forkserver")
        ctx.set_forkserver_preload(list(_PRELOADED_MODULES))
        return ctx
    return multiprocessing.get_context("spawn")


def _choose_folder_for_sockets() -> None:
    """The fork server listens on a socket in a temporary folder, whose path may have about a hundred characters: too
    few for the folders that some batch systems put TMPDIR to.
    """
    if len(os.path.join(tempfile.gettempdir(), _EXAMPLE_OF_SOCKET)) <= _MAX_SOCKET_PATH:
        return
    usual, tempfile.tempdir = tempfile.tempdir, _SHORT_TEMPORARY_FOLDER
    try:
        multiprocessing.util.get_temp_dir()  # it is made once, and removed at exit
    except OSError as exc:
        log.warning(f"Sockets of the fork server go to {usual}, where they may not work: {exc}")
    finally:
        tempfile.tempdir = usual


def get_mp_ctx(serial: bool) -> BaseContext | None:
    """``None`` in serial mode, else the one context all processes of a run are started with."""
    return None if serial else _parallel_ctx()


def start_servers() -> None:
    """Start the processes Python itself needs, its resource tracker and the fork server, before anything else.

    Signals to the process group that are the main process's business would end them. They are blocked meanwhile, which
    both inherit: the tracker never takes them, the fork server ignores them as soon as it can (``fork_server_setup``).
    """
    ctx = _parallel_ctx()
    blocked = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        multiprocessing.resource_tracker.ensure_running()
        if ctx.get_start_method() == "forkserver":
            multiprocessing.forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


class FakeLock:
    """Lock of the serial mode: there is nobody to exclude."""

    def acquire(self, *args: Any, **kwargs: Any) -> bool:
        return True

    def release(self) -> None:
        return None

    def __enter__(self) -> FakeLock:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        return None


def get_mp_lock(mp_ctx: BaseContext | None = None) -> MpLock:
    return (mp_ctx or multiprocessing).Lock()  # type: ignore[union-attr]


def get_lock(serial: bool = False, mp_ctx: BaseContext | None = None) -> MpLock:
    return FakeLock() if serial else get_mp_lock(mp_ctx)


def wake_fork_server() -> None:
    """Continue a fork server that somebody has stopped (SIGSTOP): whoever starts a process waits for it, and it cannot
    end while it is stopped.
    """
    pid = getattr(multiprocessing.forkserver._forkserver, "_forkserver_pid", None)  # type: ignore[attr-defined]
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
