from __future__ import annotations

import multiprocessing
import subprocess
import sys

import psutil
import pytest

from sample_factory.utils.memory import memory_consumption_mb
from sample_factory.utils.utils import (
    cores_for_worker_process,
    join_or_kill,
    kill,
    kill_processes,
    list_child_processes,
    set_process_cpu_affinity,
)

SLEEP = "import time; time.sleep(100)"
PARENT = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, '-c', '{SLEEP}'])
print(child.pid, flush=True)
child.wait()
"""


@pytest.mark.parametrize(
    ("num_workers", "cpu_count", "expected"),
    [
        (6, 4, [[0], [1], [2], [3], [0, 1], [2, 3]]),
        (3, 4, [None] * 3),
        (2, 8, [[0, 1, 2, 3], [4, 5, 6, 7]]),
        (4, 4, [[0], [1], [2], [3]]),
        (1, 2, [[0, 1]]),
    ],
)
def test_cores_for_worker_process(num_workers, cpu_count, expected):
    assert [cores_for_worker_process(i, num_workers, cpu_count) for i in range(num_workers)] == expected


def test_affinity_uses_allowed_cores_only():
    process = psutil.Process()
    allowed = process.cpu_affinity()
    try:
        set_process_cpu_affinity(0, len(allowed))
        assert process.cpu_affinity() == [sorted(allowed)[0]]
    finally:
        process.cpu_affinity(allowed)


@pytest.mark.multiproc
def test_kill_reaches_descendants():
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        grandchild = psutil.Process(int(parent.stdout.readline()))
        assert {p.pid for p in list_child_processes()} >= {parent.pid, grandchild.pid}
        kill(parent.pid)
        assert parent.wait(timeout=10) == -9
        grandchild.wait(timeout=10)
    kill(parent.pid)  # already gone: fine
    assert not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE


@pytest.mark.multiproc
def test_kill_processes():
    with subprocess.Popen([sys.executable, "-c", SLEEP]) as child:
        process = psutil.Process(child.pid)
        kill_processes([process])
        assert child.wait(timeout=10) == -9
        kill_processes([process])


def _wait_forever() -> None:
    multiprocessing.Event().wait()


@pytest.mark.multiproc
def test_join_or_kill_ends_a_process_that_does_not_stop():
    process = multiprocessing.get_context("spawn").Process(target=_wait_forever)
    process.start()
    join_or_kill(process, timeout=0.1)
    process.join(timeout=10)
    assert process.exitcode == -9


def test_memory_is_plausible():
    assert 5 < memory_consumption_mb() < 100000
