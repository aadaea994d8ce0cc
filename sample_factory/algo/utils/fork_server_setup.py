"""Imported by the fork server only (first of its preloaded modules): makes it outlive signals sent to the whole group.

The fork server is the parent of all worker processes and they die with it. When SIGTERM or SIGHUP reaches the process
group, the main process saves and stops the workers; the fork server must not end them before. SIGUSR1, which asks for a
checkpoint, must not end anybody. The server exits by itself when the main process is gone, but looks only when it has
loaded everything, which takes seconds: until then a thread looks (``fork_server_ready`` ends it, because a process
should have a single thread when it forks). Should somebody have stopped the server (SIGSTOP), the kernel continues it
when the main process is gone. Output that nobody reads is dropped, here and in all its children.
"""

from __future__ import annotations

import os
import signal
import threading

from sample_factory.algo.utils.parent_death import signal_on_parent_death
from sample_factory.utils.standard_streams import survive_lost_output

_LEFT_TO_THE_MAIN_PROCESS = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)

for _sig in _LEFT_TO_THE_MAIN_PROCESS:
    signal.signal(_sig, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_UNBLOCK, _LEFT_TO_THE_MAIN_PROCESS)  # see multiprocessing_utils.start_servers
survive_lost_output()
signal_on_parent_death(signal.SIGCONT)

_CHECK_PERIOD_SEC = 0.5
_is_loaded = threading.Event()


def _die_with_the_main_process(main_pid: int) -> None:
    while not _is_loaded.wait(_CHECK_PERIOD_SEC):
        if os.getppid() != main_pid:
            os._exit(1)


_watch = threading.Thread(target=_die_with_the_main_process, args=(os.getppid(),), daemon=True)
_watch.start()


def loading_is_done() -> None:
    """From now on the server itself notices the end of the main process."""
    _is_loaded.set()
    _watch.join()
