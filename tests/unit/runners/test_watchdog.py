"""Who is killed for showing no sign of life, and who is not."""

from __future__ import annotations

from typing import Any

import pytest

from sample_factory.algo.runners import watchdog as watchdog_module
from sample_factory.algo.runners.watchdog import Watchdog
from sample_factory.algo.utils.life_signs import BEATS, ENV, PHASE, RUNNING, STEPS, LifeSigns


class FakeProcess:
    name, pid = "rollout_proc1", 123

    def stacks(self) -> str:
        return "in step, line 7"


class FakeSupervisor:
    def __init__(self, *processes: Any) -> None:
        self.running = list(processes)
        self.killed: list[tuple[Any, str]] = []

    def kill(self, process: Any, cause: str) -> None:
        self.killed.append((process, cause))


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(watchdog_module, "time", clock)
    return clock


class Scene:
    """One process with a limit of 10 seconds, 100 while it starts."""

    def __init__(self, clock: Clock, timeout_sec: float = 10.0) -> None:
        self.clock, self.process = clock, FakeProcess()
        self.supervisor = FakeSupervisor(self.process)
        signs = LifeSigns(num_workers=2, num_policies=1, inference_workers_per_policy=1, share=False)
        self.words = signs.writer(signs.rollout_row(1))
        self.watchdog = Watchdog(self.supervisor, signs, startup_timeout_sec=100.0)  # type: ignore[arg-type]
        self.watchdog.watch(self.process, signs.rollout_row(1), timeout_sec, "--env_timeout")  # type: ignore[arg-type]
        self.watchdog.check()

    def let_go_by(self, seconds: float) -> None:
        for _ in range(int(seconds)):
            self.clock.now += 1.0
            self.watchdog.check()


def test_E6_silent_process_is_killed_after_its_limit(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene(clock)
    scene.words[PHASE], scene.words[ENV] = RUNNING, 3
    scene.let_go_by(10)
    assert scene.supervisor.killed == []
    scene.let_go_by(2)
    [(process, cause)] = scene.supervisor.killed
    assert process is scene.process
    assert cause == "showed no sign of life for 11 seconds (--env_timeout=10) and was killed"


@pytest.mark.parametrize("word", [BEATS, STEPS, ENV])
def test_E6_slow_process_that_changes_any_word_lives(clock: Clock, word: int) -> None:
    scene = Scene(clock)
    scene.words[PHASE] = RUNNING
    for _ in range(5):
        scene.let_go_by(9)
        scene.words[word] += 1
    assert scene.supervisor.killed == []


def test_starting_takes_as_long_as_it_may(clock: Clock) -> None:
    scene = Scene(clock)
    scene.let_go_by(100)
    assert scene.supervisor.killed == []
    scene.let_go_by(2)
    assert "--startup_timeout=100" in scene.supervisor.killed[0][1]


def test_time_in_which_everything_was_suspended_does_not_count(clock: Clock) -> None:
    scene = Scene(clock)
    scene.words[PHASE] = RUNNING
    clock.now += 10_000  # Ctrl-Z, or a closed lid
    scene.watchdog.check()
    assert scene.supervisor.killed == []


def test_process_that_is_gone_is_not_killed_and_its_successor_starts_from_zero(clock: Clock) -> None:
    scene = Scene(clock)
    scene.words[PHASE] = RUNNING
    scene.supervisor.running = []
    scene.let_go_by(50)
    scene.supervisor.running = [scene.process]
    scene.let_go_by(9)
    assert scene.supervisor.killed == []


def test_zero_is_no_limit(clock: Clock) -> None:
    scene = Scene(clock, timeout_sec=0.0)
    scene.words[PHASE] = RUNNING
    scene.let_go_by(1000)
    assert scene.supervisor.killed == []


@pytest.mark.parametrize(("timeout_sec", "period"), [(1.0, 0.25), (3.0, 0.75), (60.0, 1.0)])
def test_is_checked_several_times_within_the_limit(clock: Clock, timeout_sec: float, period: float) -> None:
    assert Scene(clock, timeout_sec).watchdog.check_period_sec == period
