from __future__ import annotations

import copy
import pickle
import re

from sample_factory.utils import timing as timing_module
from sample_factory.utils.timing import AvgTime, Timing, global_profiler, init_global_profiler


class Clock:
    """Stands in for `perf_counter`, so that durations are exact."""

    def __init__(self, monkeypatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(timing_module, "perf_counter", lambda: self.now)


def spend(clock: Clock, context, seconds: float) -> None:
    with context:
        clock.now += seconds


def test_kinds_of_measurement(monkeypatch):
    clock, timing = Clock(monkeypatch), Timing()
    for seconds in (1.0, 2.0, 6.0):
        spend(clock, timing.timeit("last"), seconds)
        spend(clock, timing.add_time("total"), seconds)
        spend(clock, timing.time_avg("avg", 2), seconds)
    assert (timing.last, timing["total"], timing.avg.value) == (6.0, 9.0, 4.0)
    assert isinstance(timing.avg, AvgTime) and str(timing.avg) == "4.0000"


def test_durations_are_never_zero(monkeypatch):
    clock, timing = Clock(monkeypatch), Timing()
    spend(clock, timing.timeit("nothing"), 0.0)
    assert timing.nothing == 1e-8


def test_tree_groups_leaves_and_separates_call_paths(monkeypatch):
    clock, timing = Clock(monkeypatch), Timing("Worker profile")
    for _ in range(2):
        with timing.add_time("outer"):
            spend(clock, timing.add_time("step"), 1.0)
            with timing.add_time("inner"):
                spend(clock, timing.add_time("step"), 0.25)
            spend(clock, timing.add_time("wait"), 0.5)
    spend(clock, timing.timeit("once"), 0.125)

    assert timing.tree_str().splitlines() == [
        "Worker profile tree view:",
        "once: 0.1250",
        "outer: 3.5000",
        "  step: 2.0000, wait: 1.0000",
        "  inner: 0.5000",
        "    step: 0.5000",
    ]
    assert str(timing) == timing.tree_str()
    assert timing.step == 2.5  # flat keys accumulate across paths


def test_a_key_may_contain_itself(monkeypatch):
    clock, timing = Clock(monkeypatch), Timing()
    with timing.add_time("f"):
        clock.now += 1.0
        spend(clock, timing.add_time("f"), 2.0)
    assert timing.tree_str().splitlines()[1:] == ["f: 3.0000", "  f: 2.0000"]


def test_q44_flat_str_has_no_private_entries(monkeypatch):
    clock, timing = Clock(monkeypatch), Timing()
    spend(clock, timing.add_time("a"), 1.0)
    spend(clock, timing.time_avg("b"), 2.0)
    assert timing.flat_str() == "a: 1.0000, b: 2.0000"


def test_keys_may_be_named_like_methods(monkeypatch):
    clock, timing = Clock(monkeypatch), Timing()
    spend(clock, timing.add_time("items"), 1.0)
    spend(clock, timing.timeit("get"), 2.0)
    spend(clock, timing.time_avg("step"), 3.0)
    assert timing.flat_str() == "items: 1.0000, get: 2.0000, step: 3.0000"


def test_the_stack_survives_exceptions():
    timing = Timing()
    try:
        with timing.add_time("outer"), timing.add_time("inner"):
            raise KeyError
    except KeyError:
        pass
    with timing.add_time("after"):
        pass
    assert re.sub(r"\d\.\d+", "x", timing.tree_str()).splitlines()[1:] == ["after: x", "outer: x", "  inner: x"]


def test_copies_can_be_sent_and_continued(monkeypatch):
    clock, timing = Clock(monkeypatch), Timing("name")
    spend(clock, timing.add_time("a"), 1.0)
    for clone in (pickle.loads(pickle.dumps(timing)), copy.deepcopy(timing)):
        assert type(clone) is Timing and clone.tree_str() == timing.tree_str()
        spend(clock, clone.add_time("a"), 2.0)
        assert (clone.a, timing.a) == (3.0, 1.0)
        assert "a: 3.0000" in clone.tree_str()


def test_global_profiler_can_be_replaced():
    mine = Timing("mine")
    init_global_profiler(mine)
    assert global_profiler() is mine
