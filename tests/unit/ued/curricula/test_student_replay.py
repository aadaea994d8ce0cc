"""From a rollout to the buffer: equal levels, best returns, and what minimax does instead."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sample_factory.ued.curricula.level_batches import first_of_slot, identify, no_slots
from sample_factory.ued.curricula.level_buffer import BufferSettings, LevelBuffer, LevelResults
from sample_factory.ued.curricula.student_replay import StudentReplay
from sample_factory.ued.rollouts import Rollout
from tests.unit.ued.curricula.toy_levels import ToyLevels, same_name, toy_levels

Replay = StudentReplay[ToyLevels]


def stored(names: list[int], scores: list[float], maxima: list[float]) -> LevelBuffer[ToyLevels]:
    buffer = LevelBuffer(BufferSettings(capacity=6), toy_levels([]))
    count = len(names)
    buffer.update(
        LevelResults(
            toy_levels(names),
            no_slots(count),
            no_slots(count),
            np.array(scores),
            np.array(maxima),
            np.ones(count, np.bool_),
        )
    )
    return buffer


def two_step_rollout(returns: list[float], value: float = 0.0) -> tuple[Rollout, torch.Tensor]:
    """One episode of two steps per environment with these returns, and advantages of zero."""
    envs = len(returns)
    rewards = torch.zeros(2, envs)
    rewards[1] = torch.tensor(returns)
    dones = torch.zeros(2, envs, dtype=torch.bool)
    dones[1] = True
    values = torch.full([2, envs, 1], value)
    rollout = Rollout(
        obs={},
        actions=torch.zeros(2, envs, dtype=torch.int64),
        rewards=rewards,
        dones=dones,
        truncated=torch.zeros_like(dones),
        log_probs=torch.zeros(2, envs),
        values=values,
        initial_carry=(),
        final_carry=(),
        last_values=values[0],
    )
    return rollout, torch.zeros_like(values)


def test_new_levels_are_scored_and_stored() -> None:
    buffer = stored([], [], [])
    replay = Replay(buffer, "max_mc", copies=2)
    rollout = two_step_rollout([0.5, 0.7, 0.0, 0.2], value=0.1)
    scores = replay.record(replay.batch(toy_levels([7, 8])), *rollout)
    np.testing.assert_allclose(scores, [0.6, 0.1], atol=1e-6)
    assert buffer.stored().name.tolist() == [7, 8]
    np.testing.assert_allclose(buffer.max_returns[:2], [0.7, 0.2], atol=1e-6)


@pytest.mark.parametrize(("minimax_compat", "expected"), [(False, 0.9), (True, 0.5)])
def test_only_minimax_forgets_the_best_return_of_earlier_visits(minimax_compat: bool, expected: float) -> None:
    buffer = stored([7], [0.1], [0.9])
    replay = Replay(buffer, "max_mc", 1, minimax_compat=minimax_compat)
    batch = replay.batch(toy_levels([7]), slots=np.array([0]))
    assert replay.record(batch, *two_step_rollout([0.5])) == pytest.approx([0.9])
    assert buffer.max_returns[0] == pytest.approx(expected)


def test_repeated_draws_of_a_level_are_scored_together() -> None:
    buffer = stored([7, 8], [0.1, 0.1], [0.0, 0.0])
    replay = Replay(buffer, "neg_return", 1)
    batch = replay.batch(toy_levels([7, 8, 7]), slots=np.array([0, 1, 0]))
    scores = replay.record(batch, *two_step_rollout([0.2, 0.5, 0.8]))
    np.testing.assert_allclose(scores, [-0.5, -0.5, -0.5], atol=1e-6)
    np.testing.assert_allclose(buffer.scores[:2], [-0.5, -0.5], atol=1e-6)


@pytest.mark.parametrize(("unique", "expected"), [(False, -0.8), (True, -0.2)])
def test_minimax_takes_the_last_draw_or_the_first_if_levels_are_compared(unique: bool, expected: float) -> None:
    buffer = stored([7, 8], [0.1, 0.1], [0.0, 0.0])
    replay = Replay(buffer, "neg_return", 1, same_name if unique else None, minimax_compat=True)
    batch = replay.batch(toy_levels([7, 8, 7]), slots=np.array([0, 1, 0]))
    scores = replay.record(batch, *two_step_rollout([0.2, 0.5, 0.8]))
    np.testing.assert_allclose(scores, [-0.2, -0.5, -0.8], atol=1e-6)
    np.testing.assert_allclose(buffer.scores[:2], [expected, -0.5], atol=1e-6)


def test_known_and_repeated_levels_are_found() -> None:
    buffer = stored([7, 8, 9], [0.1, 0.1, 0.1], [0.0, 0.0, 0.0])
    batch = identify(toy_levels([5, 8, 5, 9, 6]), no_slots(5), no_slots(5), buffer, same_name)
    assert batch.slots.tolist() == [-1, 1, -1, 2, -1]
    assert batch.first.tolist() == [0, 1, 0, 3, 4]
    assert batch.is_first.tolist() == [True, True, False, True, True]


def test_replayed_levels_keep_their_slot() -> None:
    buffer = stored([7, 7], [0.1, 0.1], [0.0, 0.0])
    batch = identify(toy_levels([7, 7]), np.array([1, -1]), no_slots(2), buffer, same_name)
    assert batch.slots.tolist() == [1, 0]


def test_without_comparator_only_slots_tell_levels_apart() -> None:
    assert first_of_slot(np.array([-1, 3, -1, 3, 0])).tolist() == [0, 1, 2, 1, 4]


def test_unique_levels_are_stored_once() -> None:
    buffer = stored([7], [0.0], [0.0])
    replay = Replay(buffer, "max_mc", 1, same_name)
    replay.record(replay.batch(toy_levels([5, 7, 5])), *two_step_rollout([0.2, 0.5, 0.8]))
    assert buffer.stored().name.tolist() == [7, 5]
    np.testing.assert_allclose(buffer.scores[:2], [0.5, 0.8], atol=1e-6)


@pytest.mark.parametrize(
    ("minimax_compat", "count", "is_compared"),
    [(True, 1, False), (True, 2, False), (True, 3, True), (False, 1, True), (False, 2, True), (False, 3, True)],
)
def test_minimax_compares_batches_of_more_than_two_levels(minimax_compat: bool, count: int, is_compared: bool) -> None:
    buffer = stored([5, 7], [0.1, 0.1], [0.0, 0.0])
    replay = Replay(buffer, "neg_return", 1, same_name, minimax_compat)
    batch = replay.batch(toy_levels([7] * count))
    assert batch.slots.tolist() == [1 if is_compared else -1] * count
    assert batch.first.tolist() == ([0] * count if is_compared else list(range(count)))
    replay.record(batch, *two_step_rollout([0.2, 0.5, 0.8][:count]))
    assert buffer.stored().name.tolist() == [5, 7] + ([] if is_compared else [7] * count)


def test_draws_come_with_their_levels() -> None:
    buffer = stored([7, 8, 9], [0.1, 0.2, 0.3], [0.0, 0.0, 0.0])
    levels, slots = Replay(buffer, "max_mc", 1).draw(20, torch.Generator().manual_seed(0))
    assert levels.name.tolist() == [[7, 8, 9][slot] for slot in slots]
    assert len(set(slots.tolist())) == 3


def test_minimax_takes_the_last_draw_in_batches_it_does_not_compare() -> None:
    buffer = stored([7, 8], [0.1, 0.1], [0.0, 0.0])
    replay = Replay(buffer, "neg_return", 1, same_name, minimax_compat=True)
    replay.record(replay.batch(toy_levels([7, 7]), slots=np.array([0, 0])), *two_step_rollout([0.2, 0.8]))
    assert buffer.scores[0] == pytest.approx(-0.8)
