"""The promises of ChildProcess, with real processes and real signals."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading

import psutil
import pytest
from signal_slot.signal_slot import EventLoopObject

from sample_factory.algo.utils.child_process import ChildProcess, FinalError
from sample_factory.algo.utils.multiprocessing_utils import _PRELOADED_MODULES, get_mp_ctx

pytestmark = pytest.mark.multiproc


class Component(EventLoopObject):
    """Lives in the child; what it does first depends on ``mode``."""

    def __init__(self, loop, mode):
        super().__init__(loop, "component")
        self.mode = mode
        self.is_running = get_mp_ctx(serial=False).Event()

    def begin(self):
        if self.mode == "hang":
            get_stuck(self.is_running)
        self.is_running.set()
        if self.mode == "raise":
            raise ValueError("boom in the child")
        if self.mode == "stop":
            self.event_loop.stop()
        if self.mode == "exit":
            os._exit(7)
        if self.mode == "final":
            raise FinalError("no use to try again")


def get_stuck(is_running):
    is_running.set()
    threading.Event().wait()


def no_setup():
    return None


def raising_setup():
    raise RuntimeError("boom during set-up")


def require_variable():
    assert os.environ["SF_TEST_VARIABLE"] == "set after the fork server was started"


def start_child(mode="run", init_func=no_setup):
    process = ChildProcess("child", get_mp_ctx(serial=False), init_func)
    component = Component(process.event_loop, mode)
    process.event_loop.start.connect(component.begin)
    process.component = component
    process.start()
    return process


def test_child_ends_cleanly_when_its_loop_is_stopped():
    process = start_child("stop")
    process.join(30)
    assert (process.exitcode, process.error()) == (0, None)


@pytest.mark.parametrize(
    ("mode", "init_func", "text"),
    [("raise", no_setup, "boom in the child"), ("run", raising_setup, "boom during set-up")],
)
def test_exception_reaches_the_parent_with_its_traceback(mode, init_func, text):
    process = start_child(mode, init_func)
    process.join(30)
    error = process.error()
    assert process.exitcode == 1
    assert error.text.startswith("child (pid ") and not error.is_final
    assert "Traceback" in error.text and text in error.text


def test_silent_death_has_no_traceback_but_an_exit_code():
    process = start_child("exit")
    process.join(30)
    assert (process.exitcode, process.error()) == (7, None)


def test_child_sees_variables_set_after_the_fork_server_started(monkeypatch):
    start_child("stop").join(30)  # the fork server runs from now on
    monkeypatch.setenv("SF_TEST_VARIABLE", "set after the fork server was started")
    process = start_child("stop", require_variable)
    process.join(30)
    assert process.exitcode == 0, process.error()


def test_sigint_is_left_to_the_main_process_and_sigterm_ends_a_child_nobody_stops():
    process = start_child("run")
    assert process.component.is_running.wait(30)
    os.kill(process.pid, signal.SIGINT)
    os.kill(process.pid, signal.SIGTERM)
    process.join(30)
    assert process.exitcode == 128 + signal.SIGTERM


def test_q39_children_die_with_a_killed_main_process():
    script = textwrap.dedent(
        """
        import sys, time
        from tests.integration.test_child_process import start_child
        if __name__ == "__main__":
            print(start_child("run").pid, flush=True)
            time.sleep(600)
        """
    )
    main = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    child = psutil.Process(int(main.stdout.readline()))
    main.kill()
    main.wait()
    _gone, alive = psutil.wait_procs([child], timeout=5)
    assert not alive


def report_own_memory(sender):
    sender.send((gc.get_freeze_count(), [module for module in _PRELOADED_MODULES if module not in sys.modules]))


def test_what_the_fork_server_has_loaded_is_not_touched_by_garbage_collections_of_its_children():
    """A full collection in a child would make private copies of nearly all of it."""
    mp_ctx = get_mp_ctx(serial=False)
    if mp_ctx.get_start_method() != "forkserver":
        return  # nothing is shared on this platform
    receiver, sender = mp_ctx.Pipe(duplex=False)
    process = mp_ctx.Process(target=report_own_memory, args=(sender,))
    process.start()
    num_frozen, not_loaded = receiver.recv()
    process.join(30)
    assert num_frozen > 100_000
    assert not_loaded == []


def test_error_that_would_come_again_says_so():
    process = start_child("final")
    process.join(30)
    assert process.error().is_final


def test_renewed_child_takes_over_the_component_and_its_queue():
    process = start_child("exit")
    process.join(30)
    process.component.mode = "run"
    process.component.event_loop.stop()  # nobody reads it yet: it is for the next process
    process.renew()
    assert process.num_restarts == 1
    process.start()
    process.join(30)
    assert (process.exitcode, process.error()) == (0, None)
    assert process.component.is_running.is_set()


@pytest.mark.parametrize(("stopped", "expected"), [(False, "in get_stuck"), (True, "no stack")])
def test_stacks_show_where_a_child_is_stuck(stopped, expected):
    process = start_child("hang")
    assert process.component.is_running.wait(30)
    if stopped:
        os.kill(process.pid, signal.SIGSTOP)
    try:
        assert expected in process.stacks()
        assert process.is_alive()
    finally:
        process.kill()
        process.join()
