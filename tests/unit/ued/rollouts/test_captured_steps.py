"""Rollouts in stretches, on memory of their own and without the host, are the rollouts of single steps.

Instead of a CUDA graph, which needs a GPU, the work of a recording is repeated by calling it.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sample_factory.ued import captured_steps, rollouts
from sample_factory.ued.curricula.playing import FreshLevels, begin
from sample_factory.ued.models.actor_critic import ActorCritic
from sample_factory.ued.rollouts import Rollout, collect_rollout
from tests.unit.recordings import RepeatedWork, fail
from tests.unit.ued.models.specs import CORE_OPTIONS
from tests.unit.ued.rollouts.counting_env import CountingEnv, CountingLevels, CountingState, counting_student

STEPS, LENGTHS = 24, [2, 5, 6, 7, 30]


@pytest.fixture
def stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rollouts in stretches of eight steps."""
    monkeypatch.setattr(RepeatedWork, "num_made", 0)
    monkeypatch.setattr(captured_steps, "Recording", RepeatedWork)
    monkeypatch.setattr(captured_steps, "_LONGEST_STRETCH", 8)
    monkeypatch.setattr(rollouts, "may_capture", lambda env, model: True)


@pytest.fixture(params=CORE_OPTIONS)
def model(request: pytest.FixtureRequest) -> ActorCritic:
    return counting_student(request.param)


def play_same_levels(env: CountingEnv, model: ActorCritic, seed: int = 0) -> tuple[Rollout, CountingState]:
    generator = torch.Generator().manual_seed(seed)
    state, restart = begin(env, CountingLevels(torch.tensor(LENGTHS)), generator)
    carry = tuple(torch.full_like(part, 0.5) for part in model.initial_carry(len(LENGTHS)))
    rollout = collect_rollout(
        env, state, model, STEPS, restart, generator, bootstrap_time_limits=True, initial_carry=carry
    )
    return rollout, state


def tensors(rollout: Rollout) -> dict[str, Tensor]:
    names = ("actions", "rewards", "dones", "truncated", "log_probs", "values", "last_values", "final_values")
    carries = {f"carry {i}": part for i, part in enumerate(rollout.final_carry)}
    return {**rollout.obs, **{name: getattr(rollout, name) for name in names}, **carries}


def test_rollouts_on_the_same_levels_are_those_of_single_steps(
    model: ActorCritic, request: pytest.FixtureRequest
) -> None:
    env = CountingEnv()
    expected = [play_same_levels(env, model, seed) for seed in (0, 1)]
    request.getfixturevalue("stretches")
    for seed, (rollout, state) in enumerate(expected):
        other, other_state = play_same_levels(env, model, seed)
        for name, x in tensors(rollout).items():
            torch.testing.assert_close(tensors(other)[name], x, atol=1e-5, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
        assert torch.equal(other_state.time, state.time)
    assert RepeatedWork.num_made == 1


def test_weights_that_were_replaced_are_recorded_anew(model: ActorCritic, request: pytest.FixtureRequest) -> None:
    env = CountingEnv()
    request.getfixturevalue("stretches")
    play_same_levels(env, model)
    play_same_levels(CountingEnv(), model)  # another environment
    assert RepeatedWork.num_made == 2
    env = CountingEnv()
    play_same_levels(env, model)
    model.policy.output.weight.data = model.policy.output.weight.data.clone()
    play_same_levels(env, model)
    assert RepeatedWork.num_made == 4


class ListedStarts(FreshLevels[CountingLevels, CountingState]):
    """Keeps what it hands out, in order."""

    def __init__(self, env: CountingEnv, chunk: int, generator: torch.Generator) -> None:
        super().__init__(env, chunk, generator)
        self.handed_out: list[int] = []

    def take(self, count: int) -> CountingState:
        states = super().take(count)
        self.handed_out += states.length.tolist()
        return states


@pytest.mark.usefixtures("stretches")
def test_new_episodes_take_the_next_levels_in_the_order_of_environments(model: ActorCritic) -> None:
    env, generator = CountingEnv(), torch.Generator().manual_seed(3)
    starts = ListedStarts(env, 4, generator)
    for _ in range(2):
        starts.handed_out = []
        state = env.reset(CountingLevels(torch.tensor(LENGTHS)), generator)
        rollout = collect_rollout(env, state, model, STEPS, starts, generator)
        shown = rollout.obs["image"][:, :, 0, 0, 0]
        begun = [int(shown[t + 1, i]) for t in range(STEPS - 1) for i in range(len(LENGTHS)) if rollout.dones[t, i]]
        assert len(begun) > len(LENGTHS) and begun == starts.handed_out[: len(begun)]
        ended = rollout.dones[-1].nonzero().squeeze(1).tolist()
        assert state.length[ended].tolist() == starts.handed_out[len(begun) :][: len(ended)]


@pytest.mark.usefixtures("stretches")
def test_what_cannot_be_recorded_is_played_step_by_step(
    model: ActorCritic, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(captured_steps, "Recording", fail)
    rollout, _ = play_same_levels(CountingEnv(), model)
    assert rollout.dones.any() and model.cuda_graphs == "never"
    assert "operation not permitted" in caplog.text
