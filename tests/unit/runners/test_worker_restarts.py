"""When a process that died is replaced, when not, and what comes first."""

from __future__ import annotations

from typing import Any

import pytest

from sample_factory.algo.runners import worker_restarts as module
from sample_factory.algo.runners.worker_restarts import WorkerRestarts
from sample_factory.algo.sampling.sampler import ParallelSampler
from sample_factory.algo.utils.life_signs import BEATS
from sample_factory.algo.utils.poll_loop import PollingEventLoop
from sample_factory.algo.utils.shared_buffers import BufferMgr
from tests.unit.flags.test_sampling_flags import env_info_of, sampling_cfg


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Scene:
    """Two rollout workers, two policies. Processes are never started for real."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *flags: str, max_restarts: int = 3) -> None:
        self.clock = Clock()
        monkeypatch.setattr(module, "time", self.clock)
        cfg = sampling_cfg("--num_workers=2", "--num_policies=2", "--serial_mode=False", *flags)
        env_info = env_info_of(cfg)
        self.buffers = BufferMgr(cfg, env_info)
        servers: dict[int, Any] = {0: None, 1: None}
        monkeypatch.setattr("sample_factory.algo.sampling.inference_worker.make_parameter_client", lambda *_: None)
        self.sampler = ParallelSampler(PollingEventLoop("loop"), self.buffers, servers, cfg, env_info)
        self.told: list[int] = []
        self.started: list[str] = []
        self.watched: list[str] = []
        monkeypatch.setattr(self.sampler, "restart", lambda process: self.started.append(process.name))
        self.restarts = WorkerRestarts(
            self.sampler, max_restarts, [0, 1], self.told.append, lambda process: self.watched.append(process.name)
        )

    def process(self, name: str) -> Any:
        return next(process for process in self.sampler.processes if process.name == name)

    def let_go_by(self, seconds: float) -> None:
        self.clock.now += seconds
        self.restarts.start_those_due()

    def answer(self, worker_idx: int) -> None:
        for policy_id in (0, 1):
            self.restarts.batcher_is_ready(policy_id, worker_idx)


def test_E7_rollout_worker_waits_for_all_batchers_and_the_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch)
    assert scene.restarts.begin(scene.process("rollout_proc1")) is None
    assert scene.told == [1]
    scene.restarts.batcher_is_ready(0, 1)
    scene.restarts.batcher_is_ready(1, 0)  # about another worker
    scene.let_go_by(100)
    assert scene.started == []
    scene.restarts.batcher_is_ready(1, 1)
    scene.let_go_by(0)
    assert scene.started == scene.watched == ["rollout_proc1"]
    assert scene.restarts.num_restarts == 1
    scene.let_go_by(100)
    assert len(scene.started) == 1


def test_L4_inference_worker_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch, "--inference_placement=separate")
    scene.restarts.begin(scene.process("inference_proc1-0"))
    scene.let_go_by(0.4)
    assert scene.started == []
    scene.let_go_by(0.2)
    assert scene.started == ["inference_proc1-0"] and scene.told == []


def test_E7_words_of_the_dead_worker_are_put_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch)
    channel, signs = scene.buffers.channel, scene.buffers.life_signs
    for worker_idx in (0, 1):
        channel.post_request(worker_idx, 0, [0, 1], 0, 0, partial=False)
        signs.writer(signs.rollout_row(worker_idx))[BEATS] = 5
    scene.restarts.begin(scene.process("rollout_proc1"))
    scene.answer(1)
    scene.let_go_by(1)
    assert channel.is_answered(1, 0, [0, 1]) and not channel.is_answered(0, 0, [0, 1])
    assert signs.read(signs.rollout_row(1)) == (0, 0, 0, 0) and signs.read(signs.rollout_row(0))[BEATS] == 5


def test_E8_budget_is_per_process_and_hour_and_the_pause_doubles(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch, max_restarts=3)
    process = scene.process("rollout_proc0")
    for pause in (0.5, 1.0, 2.0):
        assert scene.restarts.begin(process) is None
        scene.answer(0)
        num_started = len(scene.started)
        scene.let_go_by(pause - 0.1)
        assert len(scene.started) == num_started
        scene.let_go_by(0.2)
        assert len(scene.started) == num_started + 1
    refusal = scene.restarts.begin(process)
    assert refusal == "it was replaced 3 times within an hour already (--max_worker_restarts)"
    assert scene.restarts.begin(scene.process("rollout_proc1")) is None
    scene.clock.now += 3600
    assert scene.restarts.begin(process) is None


def test_other_processes_are_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Scene(monkeypatch).restarts.begin(object()) is not None  # type: ignore[arg-type]


def test_end_of_the_run_cancels_what_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch)
    process = scene.process("rollout_proc0")
    scene.restarts.begin(process)
    scene.answer(0)
    assert scene.restarts.cancel() == [process]
    scene.let_go_by(100)
    assert scene.started == []
