"""Rollouts choose between one thread and several by the duration of their steps."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from sample_factory.algo.utils import products
from sample_factory.algo.utils.products import product_with, set_product_threads
from sample_factory.ued import rollout_threads
from sample_factory.ued.curricula.playing import begin
from sample_factory.ued.envs.maze.builders import make_maze
from sample_factory.ued.models.actor_critic import ActorCritic
from sample_factory.ued.models.registration import make_student_model
from sample_factory.ued.rollout_threads import MeasuredThreads, set_rollout_threads
from sample_factory.ued.rollouts import Rollout, collect_rollout
from tests.unit.ued.models.specs import CORE_OPTIONS

SEVERAL = 4
NUM_STEPS = 40


class Machine:
    """A clock, and steps whose duration depends on the number of threads."""

    def __init__(self, **sec_per_step: float) -> None:
        self.now = 0.0
        self.threads = 1
        self.sec_per_step = {1: sec_per_step["one"], SEVERAL: sec_per_step["several"]}
        self.used: list[int] = []
        self.measured = MeasuredThreads(SEVERAL, self._set_threads, lambda: self.now)

    def _set_threads(self, number: int) -> None:
        self.threads = number

    def run(self, num_steps: int) -> float:
        """Seconds of a rollout; in between the number of threads is 1."""
        before = self.now
        self.measured.begin()
        for _ in range(num_steps):
            self.used.append(self.threads)
            self.now += self.sec_per_step[self.threads]
            self.measured.tick()
        self.measured.end()
        assert self.threads == 1
        return self.now - before


def test_the_faster_number_is_used() -> None:
    alone = Machine(one=3.0, several=2.0)
    alone.run(10_000)
    assert alone.used[0] == 1 and alone.used.count(1) < 300
    crowded = Machine(one=3.0, several=3.5)
    crowded.run(10_000)
    assert 0 < crowded.used.count(SEVERAL) < 300


def test_trials_become_rare_and_end_at_once_where_they_are_slow() -> None:
    machine = Machine(one=1.0, several=100.0)
    seconds = machine.run(50_000)
    assert machine.used.count(SEVERAL) < 30, "one slow step ends a trial"
    assert seconds < 1.06 * 50_000


@pytest.mark.parametrize("steps_per_rollout", [7, 100])
def test_neighbours_may_come_and_go(steps_per_rollout: int) -> None:
    machine = Machine(one=3.0, several=2.0)
    for _ in range(20_000 // steps_per_rollout):
        machine.run(steps_per_rollout)
    machine.sec_per_step[SEVERAL] = 60.0
    num_before = len(machine.used)
    for _ in range(20_000 // steps_per_rollout):
        machine.run(steps_per_rollout)
    assert machine.used[num_before:].count(SEVERAL) < 60
    machine.sec_per_step[SEVERAL] = 2.0
    num_before = len(machine.used)
    for _ in range(20_000 // steps_per_rollout):
        machine.run(steps_per_rollout)
    assert machine.used[num_before:].count(1) < 6000


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    set_rollout_threads(1)
    torch.set_num_threads(before)


ENV = make_maze(n_walls=40)


def student(core: str) -> ActorCritic:
    options = {**CORE_OPTIONS[core], "n_scalar_embeddings": 4}
    if core != "none":
        options["recurrent_hidden_dim"] = 256
    generator = torch.Generator().manual_seed(0)
    return make_student_model("default_student_cnn", ENV.observation_spec, ENV.num_actions, options, generator)


def rollout(model: ActorCritic, num_envs: int) -> Rollout:
    env, generator = ENV, torch.Generator().manual_seed(3)
    state, restart = begin(env, env.sample_levels(num_envs, generator), generator)
    return collect_rollout(env, state, model, NUM_STEPS, restart, generator)


def change_at_every_step(measured: MeasuredThreads, sec_per_step: float) -> None:
    """In place of the conclusions from a stretch."""
    measured._use(measured._other[measured._now])


@pytest.mark.parametrize("num_envs", [7, 32, 100])
@pytest.mark.parametrize("core", CORE_OPTIONS)
def test_results_do_not_depend_on_threads(
    core: str, num_envs: int, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = student(core)
    expected = rollout(model, num_envs)
    monkeypatch.setattr(rollout_threads, "_STRETCH", 1)
    monkeypatch.setattr(MeasuredThreads, "_judge", change_at_every_step)
    for number in (2, 4):
        set_rollout_threads(number)
        actual = rollout(model, num_envs)
        for name in ("actions", "rewards", "log_probs", "values", "last_values"):
            assert torch.equal(getattr(actual, name), getattr(expected, name)), name
        for part, other in zip(actual.final_carry, expected.final_carry, strict=True):
            assert torch.equal(part, other)


@pytest.mark.parametrize("num_rows", [1, 7, 32, 100])
@pytest.mark.parametrize(("num_outputs", "num_inputs"), [(16, 16), (100, 800), (1024, 416)])
def test_products_have_the_same_bits_with_any_number_of_threads(
    num_rows: int, num_inputs: int, num_outputs: int, one_thread: None
) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, x = (torch.randn(n, num_inputs, generator=generator) for n in (num_outputs, num_rows))
    multiply = product_with(weight, num_rows)
    expected = multiply(x)
    torch.testing.assert_close(expected, x @ weight.t(), atol=1e-3, rtol=1e-4)
    try:
        for number in (2, 3, 4):
            set_product_threads(number)
            assert torch.equal(multiply(x), expected)
            assert torch.get_num_threads() == 1
    finally:
        set_product_threads(1)


def test_only_steps_of_rollouts_have_them(one_thread: None, monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = student("lstm"), []
    monkeypatch.setattr(rollout_threads, "_STRETCH", 2)
    monkeypatch.setattr(MeasuredThreads, "_judge", change_at_every_step)
    plain_tick = MeasuredThreads.tick
    monkeypatch.setattr(
        MeasuredThreads, "tick", lambda self: (seen.append(products._threads.of_products), plain_tick(self))
    )
    set_rollout_threads(3)
    rollout(model, 8)
    assert seen[:6] == [1, 1, 3, 3, 1, 1] and len(seen) == NUM_STEPS
    assert products._threads.of_products == 1
    set_rollout_threads(1)
    rollout(model, 8)
    assert len(seen) == NUM_STEPS
