"""Learning although environments crash and stall now and then, and what the kernel does when memory is short."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.faults.fault_run import FaultRun
from tests.soak.test_chaos import FLAGS

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]

REWARD_GOAL = 450.0


def test_E11_crashing_and_stalling_environments_still_learn(tmp_path: Path) -> None:
    run = FaultRun(tmp_path, *FLAGS, "--env_timeout=2", fault="raise_p:0.0003,hang_p:0.00003")
    try:
        run.wait_until(lambda: _reward(run) >= REWARD_GOAL, f"reward {REWARD_GOAL}", timeout_sec=600)
        run.send(signal.SIGTERM)
        assert run.finish(60) == 143
        faults = run.result()["faults"]
        assert faults["env_failures"] > 20 and faults["worker_restarts"] > 0, faults
        run.assert_clean_end(143, "SIGTERM")
    finally:
        run.kill_everything()


def _reward(run: FaultRun) -> float:
    lines = [line for line in list(run.lines) if "Avg episode reward" in line and "nan" not in line]
    return float(lines[-1].split("'")[1]) if lines else 0.0


class MemoryGroup:
    """A control group for processes that get no more memory; both versions of the interface."""

    def __init__(self) -> None:
        root = Path("/sys/fs/cgroup")
        self.is_v1 = (root / "memory").is_dir()
        self.path = (root / "memory" if self.is_v1 else root) / f"sf_test_{os.getpid()}"

    def create(self) -> None:
        try:
            self.path.mkdir()
            limit = self.path / ("memory.limit_in_bytes" if self.is_v1 else "memory.max")
            limit.write_text(str(8 << 20))  # what a process has when it comes in is not counted
        except OSError as exc:
            pytest.skip(f"no memory control groups here: {exc}")

    def take(self, pid: int) -> None:
        (self.path / "cgroup.procs").write_text(str(pid))

    def remove(self) -> None:
        self.path.rmdir()


def test_R4_main_process_without_memory(tmp_path: Path) -> None:
    """It is killed when it takes more than its group may have, and everybody else with it."""
    group, trigger = MemoryGroup(), tmp_path / "take_memory"
    group.create()
    run = FaultRun(tmp_path, "--save_every_sec=1", variables={"FAULT_MEMORY": str(trigger)})
    try:
        run.wait_until(run.checkpoints, "a checkpoint")
        group.take(run.pid)
        trigger.touch()
        assert run.finish(120) == -signal.SIGKILL  # asserts that nobody is left
        before = run.saved_env_steps()
        again = FaultRun(tmp_path)
        again.wait_for_training()
        again.wait_for_more_frames()
        again.send(signal.SIGTERM)
        assert again.finish(60) == 143
        assert again.saved_env_steps() > before > 0
        again.kill_everything()
    finally:
        run.kill_everything()
        group.remove()
