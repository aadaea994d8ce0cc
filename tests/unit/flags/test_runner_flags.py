"""Every flag about reports, checkpoints, life signs and trackers is obeyed by the runner; time is set by hand."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from signal_slot import signal_slot
from signal_slot.signal_slot import EventLoopObject, Timer

from sample_factory.algo.learning.learner_worker import LearnerWorker
from sample_factory.algo.runners import heartbeats as heartbeats_module
from sample_factory.algo.runners import periodic_duties as periodic_duties_module
from sample_factory.algo.runners import runner as runner_module
from sample_factory.algo.runners.result import RunResult
from sample_factory.algo.runners.runner import Runner
from sample_factory.algo.runners.runner_parallel import ParallelRunner
from sample_factory.algo.runners.runner_serial import SerialRunner
from sample_factory.algo.sampling.inference_worker import InferenceWorker
from sample_factory.algo.sampling.rollout_worker import RolloutWorker
from sample_factory.algo.utils import periodic_timer
from sample_factory.algo.utils.poll_loop import PollingEventLoop
from sample_factory.algo.utils.shared_buffers import BufferMgr
from sample_factory.monitoring.dashboard import LiveView, PlainView, SilentView
from sample_factory.monitoring.run_view import RunnerView
from sample_factory.pbt.population_based_training import PopulationBasedTraining
from sample_factory.train import make_runner
from sample_factory.utils.logging import log
from tests.unit.flags.sampling_setup import env_info_of, sampling_cfg
from tests.unit.learning.learner_setup import make_cfg


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (signal_slot, periodic_timer, periodic_duties_module, runner_module, heartbeats_module):
        monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def runner_with(tmp_path: Path) -> Iterator[Any]:
    runners: list[Runner] = []

    def make(*flags: str) -> Runner:
        folder = tmp_path / str(len(runners))
        runners.append(make_runner(make_cfg(folder, "--env=CartPole-v1", "--ui=none", *flags))[1])
        return runners[-1]

    yield make
    for runner in runners:
        runner._close()


@pytest.fixture
def logged(runner_with: Any) -> Iterator[list[str]]:
    """Warnings and worse."""
    lines: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    handler = Collect(logging.WARNING)
    log.addHandler(handler)
    yield lines
    log.removeHandler(handler)


def advance(loop: Any, clock: Clock, seconds: int) -> None:
    """Let time go by in steps of a second; the loop does what is due."""
    Timer(loop, 0.0)  # keeps the loop from waiting for real time to pass
    for _ in range(seconds):
        clock.now += 1.0
        loop.process_events()  # timers fire
        loop.process_events()  # slots are called


# --- intervals ---


def test_intervals(runner_with: Any, clock: Clock) -> None:
    """--experiment_summaries_interval, --save_every_sec, --save_best_every_sec, --save_milestones_sec,
    --heartbeat_reporting_interval"""
    expected = {
        "_write_summaries": ("--experiment_summaries_interval=7", 7),
        "_save_periodic": ("--save_every_sec=11", 11),
        "_save_best_policies": ("--save_best_every_sec=3", 3),
        "_save_milestones": ("--save_milestones_sec=13", 13),
        "_check_heartbeats": ("--heartbeat_reporting_interval=17", 17),
    }
    runner = runner_with("--heartbeat_interval=5", *(flag for flag, _ in expected.values()))
    calls: dict[str, list[float]] = {slot: [] for slot in expected}
    for slot, times in calls.items():
        setattr(runner, slot, lambda times=times: times.append(clock.now))
    advance(runner.event_loop, clock, 60)
    assert calls == {slot: [float(t) for t in range(n, 61, n)] for slot, (_, n) in expected.items()}


def test_no_milestones_by_default(runner_with: Any, clock: Clock) -> None:
    runner = runner_with("--save_milestones_sec=-1")
    calls: list[float] = []
    runner._save_milestones = lambda: calls.append(clock.now)
    advance(runner.event_loop, clock, 30)
    assert calls == []


def test_flush_summaries_interval(runner_with: Any) -> None:
    assert runner_with("--flush_summaries_interval=77").writers[0].flush_secs == 77


def test_stats_avg(runner_with: Any) -> None:
    runner = runner_with("--stats_avg=3")
    for reward in (100.0, 1.0, 2.0, 3.0):
        runner._process_msg({"episodic": {"reward": reward}, "policy_id": 0})
    assert runner.metrics.mean("reward", 0) == 2.0


# --- best policies ---


class BestReceiver(EventLoopObject):
    def __init__(self, loop: Any) -> None:
        super().__init__(loop, "BestReceiver")
        self.received: list[tuple[int, str, float]] = []

    def on_best(self, *args: Any) -> None:
        self.received.append(args)


def test_save_best_metric_and_after(runner_with: Any, clock: Clock) -> None:
    """--save_best_metric, --save_best_after"""
    runner = runner_with("--save_best_metric=kills", "--save_best_after=1000", "--save_best_every_sec=1")
    receiver = BestReceiver(runner.event_loop)
    runner.save_best.connect(receiver.on_best)
    runner._process_msg({"episodic": {"reward": 50.0, "kills": 3.0}, "policy_id": 0})
    runner._process_msg({"learner_env_steps": 999, "policy_id": 0})
    advance(runner.event_loop, clock, 2)
    assert receiver.received == []
    runner._process_msg({"learner_env_steps": 1000, "policy_id": 0})
    advance(runner.event_loop, clock, 1)
    advance(runner.event_loop, clock, 1)
    assert set(receiver.received) == {(0, "kills", 3.0)}


@pytest.mark.parametrize(("metric", "num_warnings"), [("kills", 0), ("deaths", 1)])
def test_unknown_best_metric_is_said_once(runner_with: Any, logged: list[str], metric: str, num_warnings: int) -> None:
    runner = runner_with(f"--save_best_metric={metric}", "--save_best_after=0")
    runner._process_msg({"learner_env_steps": 1000, "policy_id": 0})
    logged.clear()
    runner._save_best_policies()
    assert logged == []  # no episode has ended
    runner._process_msg({"episodic": {"reward": 50.0, "kills": 3.0}, "policy_id": 0})
    for _ in range(2):
        runner._save_best_policies()
    assert len(logged) == num_warnings
    assert all("--save_best_metric=deaths" in line and "episodes report kills, reward" in line for line in logged)


# --- ends and life signs ---


def test_train_for_seconds_and_env_steps(runner_with: Any, clock: Clock) -> None:
    """--train_for_seconds, --train_for_env_steps"""
    runner = runner_with("--train_for_seconds=30", "--train_for_env_steps=500")
    runner.components_to_stop = {"somebody"}
    runner._training_since = clock.now
    advance(runner.event_loop, clock, 29)
    assert not runner.stopped
    advance(runner.event_loop, clock, 2)
    assert runner.stopped and "--train_for_seconds=30" in runner.stop_cause

    runner = runner_with("--train_for_env_steps=500")
    runner.components_to_stop = {"somebody"}
    runner._process_msg({"learner_env_steps": 500, "policy_id": 0})
    runner._after_training_iteration(1)
    assert not runner.stopped
    runner._process_msg({"learner_env_steps": 501, "policy_id": 0})
    runner._after_training_iteration(2)
    assert runner.stopped and runner.status == 0


def test_fault_timeout(runner_with: Any, clock: Clock) -> None:
    """Components that do not stop are waited for so long, then the loop ends without them."""
    runner = runner_with("--fault_timeout=25")
    runner.components_to_stop = {"one that hangs"}
    runner._stop_training()
    clock.now += 24
    assert not runner._interrupted()
    clock.now += 2
    assert runner._interrupted()


def heard_of(runner: Runner) -> Any:
    runner.heartbeats = heartbeats_module.Heartbeats(
        [("Batcher", "b"), ("LearnerWorker", "l")],
        runner.cfg.heartbeat_reporting_interval,
        runner.cfg.startup_timeout,
    )
    runner.components_to_stop = {"b", "l"}
    return runner.heartbeats


def test_startup_timeout(runner_with: Any, clock: Clock) -> None:
    """A component that never gave a life sign ends the run when its time is over."""
    runner = runner_with("--serial_mode=False", "--startup_timeout=50", "--heartbeat_reporting_interval=10000")
    heard_of(runner).receive(type("Batcher", (), {}), "b", "process", 0)
    runner._check_deadlines()
    clock.now += 49
    runner._check_deadlines()
    assert not runner.stopped
    clock.now += 2
    runner._check_deadlines()
    assert runner.stopped and runner.status == 1
    assert "components l did not start" in runner.stop_cause and "--startup_timeout=50" in runner.stop_cause


def test_heartbeat_reporting_interval(runner_with: Any, clock: Clock) -> None:
    """Silence of all components of a type for longer than this ends the run."""
    runner = runner_with("--serial_mode=False", "--heartbeat_reporting_interval=40")
    beats = heard_of(runner)
    for kind, name in (("Batcher", "b"), ("LearnerWorker", "l")):
        beats.receive(type(kind, (), {}), name, "process", 0)
    clock.now += 39
    runner._check_heartbeats()
    assert not runner.stopped
    beats.receive(type("Batcher", (), {}), "b", "process", 0)
    clock.now += 2
    runner._check_heartbeats()
    assert runner.stopped and runner.stop_cause == "all components of type LearnerWorker have stopped responding"


def test_components_that_have_stopped_owe_no_life_sign(runner_with: Any, clock: Clock) -> None:
    runner = runner_with("--serial_mode=False", "--heartbeat_reporting_interval=40")
    beats = heard_of(runner)
    beats.forget("b")
    beats.receive(type("LearnerWorker", (), {}), "l", "process", 0)
    clock.now += 39
    runner._check_heartbeats()
    runner._check_deadlines()
    assert not runner.stopped


def test_life_signs_do_not_end_a_serial_run(runner_with: Any, clock: Clock) -> None:
    """There they wait in the queue of the very loop that is busy."""
    runner = runner_with("--serial_mode=True", "--heartbeat_reporting_interval=40", "--startup_timeout=10")
    heard_of(runner).receive(type("Batcher", (), {}), "b", "process", 0)
    clock.now += 1000
    runner._check_heartbeats()
    runner._check_deadlines()
    assert not runner.stopped


class Listener(EventLoopObject):
    def __init__(self, loop: Any) -> None:
        super().__init__(loop, "Listener")
        self.num_beats: dict[str, int] = {}

    def on_heartbeat(self, component_type: type, object_id: str, process_name: str, queue_size: int) -> None:
        self.num_beats[object_id] = self.num_beats.get(object_id, 0) + 1


def test_heartbeat_interval(tmp_path: Path, clock: Clock) -> None:
    """All four kinds of components give a life sign at once and then one per interval."""
    from sample_factory.algo.learning.batcher import Batcher

    cfg = sampling_cfg("--heartbeat_interval=4")
    cfg.train_dir = str(tmp_path)
    env_info, loop = env_info_of(cfg), PollingEventLoop("loop", serial_mode=True)
    buffers = BufferMgr(cfg, env_info)
    batcher = Batcher(loop, 0, buffers, cfg, env_info)
    learner = LearnerWorker(loop, cfg, env_info, buffers, batcher, 0)
    inference = InferenceWorker(loop, 0, 0, buffers, learner.param_server, cfg, env_info)
    rollout = RolloutWorker(loop, 0, buffers, cfg, env_info)
    listener = Listener(loop)
    for component in (batcher, learner, inference, rollout):
        component.heartbeat.connect(listener.on_heartbeat)
        component.start_heartbeat()
    advance(loop, clock, 13)
    assert set(listener.num_beats.values()) == {1 + 3} and len(listener.num_beats) == 4


# --- what is assembled ---


def test_serial_mode(runner_with: Any) -> None:
    assert isinstance(runner_with("--serial_mode=True"), SerialRunner)
    assert isinstance(runner_with("--serial_mode=False"), ParallelRunner)


def test_with_pbt(runner_with: Any) -> None:
    observers = runner_with("--with_pbt=True", "--num_policies=2").observers
    assert [type(o) for o in observers] == [PopulationBasedTraining]
    assert [type(o) for o in runner_with("--with_pbt=False", "--num_policies=2").observers] == []


@pytest.mark.parametrize("ui, cls", [("none", SilentView), ("plain", PlainView), ("rich", LiveView)])
def test_ui(runner_with: Any, ui: str, cls: type) -> None:
    assert type(runner_with(f"--ui={ui}").view._view) is cls


class RecordingView:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, float | None]] = []

    def update(self, snapshot: Any) -> None:
        self.calls.append(("update", snapshot.percent))

    def finish(self, snapshot: Any) -> None:
        self.calls.append(("finish", snapshot.percent))

    def stop(self) -> None:
        self.calls.append(("stop", None))


def test_the_view_ends_with_the_numbers_of_the_end(runner_with: Any) -> None:
    runner = runner_with("--train_for_env_steps=1000")
    runner.view = RunnerView(view := RecordingView())  # type: ignore[arg-type]
    runner._process_msg({"learner_env_steps": 700, "policy_id": 0})
    runner._report()
    runner._process_msg({"learner_env_steps": 1024, "policy_id": 0})
    runner._stop_view()
    assert view.calls == [("update", 70.0), ("finish", 100.0), ("stop", None)]


def test_a_view_that_fails_does_not_disturb_the_end(runner_with: Any, logged: list[str]) -> None:
    runner = runner_with()
    runner.view = RunnerView(view := RecordingView())  # type: ignore[arg-type]
    view.finish = lambda snapshot: 1 / 0  # type: ignore[assignment, return-value]
    runner._stop_view()
    assert view.calls == [("stop", None)]
    assert "ZeroDivisionError" in logged[-1]


def test_results_name_policies_in_their_order(runner_with: Any) -> None:
    runner = runner_with("--num_policies=3")
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    for policy_id in (2, 0, 1):
        runner._process_msg({"learner_env_steps": 10 * policy_id, "policy_id": policy_id})
    log.addHandler(handler)
    runner._log_profiles()
    log.removeHandler(handler)
    assert any(line.startswith("Collected {0: 0, 1: 10, 2: 20}") for line in lines)
    assert list(RunResult.of(runner).env_steps) == [0, 1, 2]


@pytest.mark.parametrize("behavior, is_kept", [("resume", True), ("restart", False), ("overwrite", False)])
def test_restart_behavior(tmp_path: Path, behavior: str, is_kept: bool) -> None:
    """--restart_behavior: an existing experiment is continued or put aside."""
    earlier = tmp_path / "test" / "notes.txt"
    earlier.parent.mkdir()
    earlier.write_text("of the earlier run")
    (earlier.parent / "config.json").write_text(json.dumps({"env": "CartPole-v1", "experiment": "test"}))
    flags = ("--env=CartPole-v1", "--ui=none", f"--restart_behavior={behavior}")
    make_runner(make_cfg(tmp_path, *flags))[1]._close()
    assert earlier.exists() is is_kept
    assert len(list(tmp_path.glob("test*/notes.txt"))) == 1, "nothing is ever lost"


# --- Weights & Biases ---


class RecordingWandb:
    """The part of the client that is called; `init` keeps its arguments."""

    errors = SimpleNamespace(CommError=ConnectionError)
    Settings = dict

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.run = None

    def init(self, **kwargs: Any) -> Any:
        self.calls.append(kwargs)
        config = SimpleNamespace(update=lambda *args, **kwargs: None)
        return SimpleNamespace(config=config, define_metric=lambda *args, **kwargs: None)


def test_wandb_flags(runner_with: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--with_wandb, --wandb_user, --wandb_project, --wandb_group, --wandb_job_type, --wandb_tags, --wandb_dir"""
    wandb = RecordingWandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)  # type: ignore[arg-type]
    runner_with("--with_wandb=False")
    assert wandb.calls == []

    flags = ("--wandb_user=me", "--wandb_project=p", "--wandb_group=g", "--wandb_job_type=j", "--wandb_tags", "a", "b")
    runner = runner_with("--with_wandb=True", f"--wandb_dir={tmp_path / 'w'}", *flags)
    (call,) = wandb.calls
    names = ("entity", "project", "group", "job_type", "tags", "dir")
    assert tuple(call[name] for name in names) == ("me", "p", "g", "j", ["a", "b"], str(tmp_path / "w"))
    assert call["id"] == runner.cfg.wandb_unique_id

    runner_with("--with_wandb=True", f"--wandb_dir={tmp_path / 'w'}")
    assert wandb.calls[1]["group"] == "CartPole-v1", "the group is the environment unless one is given"
