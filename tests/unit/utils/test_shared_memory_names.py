"""Left-over semaphores are removed if, and only if, their process is certainly gone."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sample_factory.utils import shared_memory_names
from sample_factory.utils.shared_memory_names import claim_semaphore_names, remove_stale_names

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux")

NAMESPACE = os.stat("/proc/self/ns/pid").st_ino


def start_time(pid: int) -> int:
    found = shared_memory_names._start_time(pid)
    assert found is not None
    return found


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.fixture
def names(tmp_path):
    me, start = os.getpid(), start_time(os.getpid())
    stale = [f"sem.sf-{NAMESPACE}-{dead_pid()}-{start}-abc_1", f"sem.sf-{NAMESPACE}-{me}-{start + 1}-reused00"]
    kept = [
        f"sem.sf-{NAMESPACE}-{me}-{start}-abcd",  # alive
        f"sem.sf-{NAMESPACE + 1}-{dead_pid()}-{start}-abcd",  # another container
        "sem.mp-abcd",
        f"sem.sf-{NAMESPACE}-x-1-abcd",
        f"torch_{dead_pid()}_1_2",
        f"sem.sf-{NAMESPACE}-{dead_pid()}-{start}-a-b",
    ]
    for name in stale + kept:
        (tmp_path / name).write_text("")
    return stale, kept


def test_only_names_of_dead_processes_are_removed(tmp_path, names):
    stale, kept = names
    assert sorted(remove_stale_names(tmp_path)) == sorted(stale)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)
    assert remove_stale_names(tmp_path) == []


def test_absent_folder(tmp_path):
    assert remove_stale_names(tmp_path / "absent") == []


def test_semaphores_carry_the_identity_of_this_process(monkeypatch):
    config = multiprocessing.process.current_process()._config
    monkeypatch.setitem(config, "semprefix", config.get("semprefix", "/mp"))
    claim_semaphore_names()
    semaphore = multiprocessing.get_context("forkserver").Semaphore(0)
    assert semaphore._semlock.name.startswith(f"/sf-{NAMESPACE}-{os.getpid()}-{start_time(os.getpid())}-")
    assert shared_memory_names._NAME.match(f"sem.{semaphore._semlock.name[1:]}")


def test_start_times():
    assert shared_memory_names._start_time(dead_pid()) is None
    assert start_time(os.getpid()) >= start_time(os.getppid())
