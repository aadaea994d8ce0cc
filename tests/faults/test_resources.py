"""Rows R: shared memory, limits, ports."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sample_factory.utils.network import is_udp_port_available, reserved_udp_port
from tests.faults.fault_run import REPOSITORY, SHARED_MEMORY

pytestmark = pytest.mark.multiproc
thorough = pytest.mark.faults

SHORT = "--train_for_env_steps=2000"
NEEDS_SHARED_MEMORY = pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="no /dev/shm on this system")


def small_shared_memory(size: str) -> tuple[str, ...]:
    """Prefix for a command that gets a /dev/shm of its own."""
    script = f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"'
    return ("unshare", "--mount", "--map-root-user", "sh", "-c", script, "sh")


def can_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*small_shared_memory("64k"), "true"], capture_output=True).returncode == 0


@pytest.mark.skipif(not can_mount(), reason="mount namespaces are not permitted here")
def test_R1_shared_memory_is_too_small(start_run):
    run = start_run(prefix=small_shared_memory("64k"))
    run.finish(40)
    run.assert_clean_end(1, r"Shared memory is too small: .* needed, 0\.1 MiB free in /dev/shm; lower --num_workers=2")


@thorough
@pytest.mark.skipif(not can_mount(), reason="mount namespaces are not permitted here")
def test_R1_shared_memory_that_suffices(start_run):
    """What was counted is enough: the run trains to its end in exactly such a memory."""
    run = start_run("--train_for_env_steps=100000", prefix=small_shared_memory("1m"))
    run.finish()
    run.assert_clean_end(0, "train_for_env_steps")


def test_R5_temporary_folder_with_a_long_name(start_run, tmp_path):
    """Paths of sockets are limited."""
    folder = tmp_path / "tmp" / ("long" * 30)
    folder.mkdir(parents=True)
    run = start_run(SHORT, variables={"TMPDIR": str(folder)})
    run.finish()
    run.assert_clean_end(0, "train_for_env_steps")


@thorough
def test_R2_soft_limit_of_open_files_is_raised(start_run):
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    run = start_run(SHORT, preexec=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (40, hard)))
    run.finish()
    run.assert_clean_end(0, "train_for_env_steps")
    assert "Raising the soft limit of open files" in run.output


def test_R2_hard_limit_of_open_files_is_named(start_run):
    run = start_run(SHORT, preexec=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (48, 48)))
    run.finish(40)
    run.assert_clean_end(1, r"Too few open files .* hard limit is 48 .*--num_workers=2", may_leave_temporary=True)


@NEEDS_SHARED_MEMORY
def test_R3_what_a_killed_run_left_is_removed_by_the_next(start_run):
    foreign = [SHARED_MEMORY / f"{name}-{os.getpid()}-test" for name in ("sem.mp", "torch", "sem.sf")]
    for path in foreign:
        path.touch()
    try:
        first = start_run()
        first.wait_for_training()
        # All at once, as a container does: nobody is left to clean up.
        first.send_to_group(signal.SIGSTOP)
        for process in first.processes():
            process.kill()
        first.process.wait()
        first.assert_no_process_left()
        assert first.shared_memory(), "there is something to remove"
        second = start_run(SHORT)
        second.finish()
        # By this run, or by another one on this machine.
        assert first.shared_memory() == [] and second.shared_memory() == []
        assert all(path.exists() for path in foreign), "not ours"
    finally:
        for path in foreign:
            path.unlink(missing_ok=True)


@thorough
@NEEDS_SHARED_MEMORY
def test_R3_names_of_a_living_run_are_kept(start_run, tmp_path):
    first = start_run()
    first.wait_for_training()
    names = first.shared_memory()
    assert names
    other = tmp_path / "other"
    other.mkdir()
    second = start_run(SHORT, folder=other)
    second.finish()
    assert first.shared_memory() == names
    first.send(signal.SIGTERM)
    first.finish()
    assert first.process.returncode == 143 and first.shared_memory() == []


HOLDER = """
import sys, time
from sample_factory.utils.network import reserved_udp_port
with reserved_udp_port(int(sys.argv[1])) as port:
    print(port, flush=True)
    time.sleep(600)
"""


def test_R5_port_that_is_taken_is_skipped_until_its_holder_is_gone():
    with reserved_udp_port(20000, num_tries=1000) as first:
        pass
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    argv = [sys.executable, "-c", HOLDER, str(first)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment, cwd=Path("/")) as holder:
        assert holder.stdout is not None
        held = int(holder.stdout.readline())
        assert held == first and is_udp_port_available(first)
        with reserved_udp_port(first) as port:
            assert port > first
        holder.kill()
    with reserved_udp_port(first) as port:
        assert port == first


def test_R5_number_of_tries_is_bounded():
    with (
        reserved_udp_port(20000, num_tries=1000) as taken,
        pytest.raises(RuntimeError, match=f"none of the 1 UDP ports from {taken} to {taken}"),
        reserved_udp_port(taken, num_tries=1),
    ):
        pass
