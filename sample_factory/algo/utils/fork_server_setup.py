"""Imported by the fork server only (first of its preloaded modules): makes it outlive signals sent to the whole group.

The fork server is the parent of all worker processes and they die with it. When SIGTERM or SIGHUP reaches the process
group, the main process saves and stops the workers; the fork server must not end them before. SIGUSR1, which asks for a
checkpoint, must not end anybody. The server exits by itself when the main process is gone, but looks only when it has
loaded everything, which takes seconds: until then a thread looks (``fork_server_ready`` ends it, because a process
should have a single thread when it forks). Should somebody have stopped the server (SIGSTOP), the kernel continues it
when the main process is gone. Output that nobody reads is dropped, here and in all its children.

What environments have started (simulators, processes of vector environments) outlives a worker that is killed. The
server adopts such orphans and ends them when the main process is gone. It learns that from the kernel: the pipe it
looks at otherwise may be open in one of them.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import threading
import warnings

import psutil

from sample_factory.algo.utils.parent_death import adopt_orphans, signal_on_parent_death
from sample_factory.utils.standard_streams import survive_lost_output

_LEFT_TO_THE_MAIN_PROCESS = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)

for _sig in _LEFT_TO_THE_MAIN_PROCESS:
    signal.signal(_sig, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_UNBLOCK, _LEFT_TO_THE_MAIN_PROCESS)  # see multiprocessing_utils.start_servers
survive_lost_output()

_CHECK_PERIOD_SEC = 0.5
_ORPHANS_GRACE_SEC = 2.0
_is_loaded = threading.Event()


def _die_with_the_main_process(main_pid: int) -> None:
    while not _is_loaded.wait(_CHECK_PERIOD_SEC):
        if os.getppid() != main_pid:
            os._exit(1)


_main_pid, _own_pid = os.getppid(), os.getpid()
_watch = threading.Thread(target=_die_with_the_main_process, args=(_main_pid,), daemon=True)
_watch.start()


def _end_descendants() -> None:
    """At the end of the server: ask whoever is left to end, kill those that do not."""
    signal.signal(signal.SIGCONT, signal.SIG_DFL)
    descendants = psutil.Process().children(recursive=True)
    for process in descendants:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    _, alive = psutil.wait_procs(descendants, timeout=_ORPHANS_GRACE_SEC)
    for process in {*alive, *psutil.Process().children(recursive=True)}:
        with contextlib.suppress(psutil.Error):
            process.kill()


def _end_without_the_main_process(*_: object) -> None:
    """Handler of SIGCONT, which main processes send as well (``wake_fork_server``), and which children inherit. It may
    come while the server ends already, where an exception would be printed.
    """
    if os.getpid() == _own_pid and os.getppid() != _main_pid:
        _end_descendants()
        os._exit(0)


adopt_orphans()
warnings.filterwarnings("ignore", "forkserver: waitpid returned unexpected pid")  # an orphan that has ended
atexit.register(_end_descendants)  # its children do not take this over: they leave through os._exit
signal.signal(signal.SIGCONT, _end_without_the_main_process)
signal_on_parent_death(signal.SIGCONT)


def loading_is_done() -> None:
    """From now on the server itself notices the end of the main process."""
    _is_loaded.set()
    _watch.join()
