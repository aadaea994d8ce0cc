"""Scores of levels are those of the UED package, however the steps arrive."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sample_factory.algo.learning.level_scores import Episodes, EpisodeSums, score_levels
from sample_factory.algo.utils.level_tables import CUT_OFF, make_level_id
from sample_factory.ued.curricula.scores import ScoredRollout, student_scores

NUM_ENVS, NUM_STEPS = 6, 48
SCORES = ("max_mc", "positive_value_loss", "l1_value_loss")


class Data:
    """Random experience of all environments: ``[NUM_ENVS, NUM_STEPS]`` each, with an id per episode."""

    def __init__(self, seed: int, done_prob: float = 0.15) -> None:
        rng = np.random.default_rng(seed)
        shape = (NUM_ENVS, NUM_STEPS)
        self.rewards, self.values, self.advantages = (rng.normal(size=shape).astype(np.float32) for _ in range(3))
        self.dones = rng.random(shape) < done_prob
        serials = 1 + np.concatenate([np.zeros((NUM_ENVS, 1), int), self.dones[:, :-1].cumsum(1)], axis=1)
        self.level_ids = np.array(
            [[make_level_id(int(s), env, NUM_ENVS, True) for s in row] for env, row in enumerate(serials)], np.int64
        )

    def rows(self, num_steps: int) -> list[int]:
        """Where rows of this length begin."""
        return list(range(0, NUM_STEPS, num_steps))


def add(sums: EpisodeSums, data: Data, envs: list[int], start: int, stop: int) -> Episodes:
    part = np.s_[envs, start:stop]
    return sums.add(
        data.level_ids[part], data.dones[part], data.rewards[part], data.values[part], data.advantages[part]
    )


def joined(parts: list[Episodes]) -> Episodes:
    """All episodes, ordered by level id."""
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    order = np.argsort(columns[0])
    return Episodes(*(column[order] for column in columns))


def by_the_whole(data: Data) -> Episodes:
    return joined([add(EpisodeSums(NUM_ENVS), data, list(range(NUM_ENVS)), 0, NUM_STEPS)])


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("with_previous", [False, True])
def test_scores_are_those_of_the_ued_package(name: str, with_previous: bool) -> None:
    """Every environment plays one level all the time there, so here the episodes of one are one group."""
    data = Data(0)
    data.dones[2] = False  # never ends
    previous = np.linspace(-1, 4, NUM_ENVS) if with_previous else np.full(NUM_ENVS, -np.inf)
    rollout = ScoredRollout(
        *(torch.from_numpy(x.T.copy()) for x in (data.rewards, data.dones)),
        *(torch.from_numpy(x.T.copy())[..., None] for x in (data.values, data.advantages)),
        group=torch.arange(NUM_ENVS),
        num_groups=NUM_ENVS,
    )
    expected = student_scores(name, rollout, torch.from_numpy(previous) if with_previous else None)

    episodes = add(EpisodeSums(NUM_ENVS), data, list(range(NUM_ENVS)), 0, NUM_STEPS)
    scores, best = score_levels(name, episodes, (episodes.level_ids >> 1) % NUM_ENVS, previous)
    np.testing.assert_allclose(scores, expected.scores.numpy(), rtol=1e-6)
    np.testing.assert_allclose(best, expected.max_returns.numpy(), rtol=1e-6)
    assert scores[2] == -np.inf


@pytest.mark.parametrize("num_steps", [1, 4, 16])
def test_episodes_may_be_longer_than_rollouts(num_steps: int) -> None:
    data = Data(1)
    sums = EpisodeSums(NUM_ENVS)
    parts = [add(sums, data, list(range(NUM_ENVS)), start, start + num_steps) for start in data.rows(num_steps)]
    for found, expected in zip(joined(parts), by_the_whole(data), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_rows_of_one_environment_may_lie_in_one_batch() -> None:
    data = Data(2)
    order = [(env, start) for start in data.rows(8) for env in (3, 0, 5)]
    batch = [
        np.stack([x[env, start : start + 8] for env, start in order])
        for x in (data.level_ids, data.dones, data.rewards, data.values, data.advantages)
    ]
    found = joined([EpisodeSums(NUM_ENVS).add(*batch)])
    expected = by_the_whole(data)
    is_own = np.isin((expected.level_ids >> 1) % NUM_ENVS, [0, 3, 5])
    np.testing.assert_array_equal(found.level_ids, expected.level_ids[is_own])
    np.testing.assert_allclose(found.returns, expected.returns[is_own], rtol=1e-5, atol=1e-6)


def test_unfinished_episode_of_a_worker_that_was_replaced_is_never_counted() -> None:
    data = Data(3, done_prob=0.0)
    sums = EpisodeSums(NUM_ENVS)
    assert len(add(sums, data, [1], 0, 8).level_ids) == 0
    data.level_ids[1] = make_level_id(2, 1, NUM_ENVS, True)  # its successor
    data.dones[1, 20] = True
    episodes = add(sums, data, [1], 8, 24)
    np.testing.assert_array_equal(episodes.level_ids, [make_level_id(2, 1, NUM_ENVS, True)])
    np.testing.assert_allclose(episodes.returns, data.rewards[1, 8:21].sum(), rtol=1e-5)


def test_episode_that_was_cut_off_is_not_judged() -> None:
    data = Data(4, done_prob=0.0)
    data.dones[0, [5, 9]] = True
    data.level_ids[0, 6:] = make_level_id(2, 0, NUM_ENVS, True)
    data.level_ids[0, 10:] = make_level_id(3, 0, NUM_ENVS, True)
    data.level_ids[0, 5] += CUT_OFF
    episodes = add(EpisodeSums(NUM_ENVS), data, [0], 0, NUM_STEPS)
    np.testing.assert_array_equal(episodes.level_ids, [make_level_id(2, 0, NUM_ENVS, True)])


@pytest.mark.parametrize("field", ["rewards", "values", "advantages"])
def test_numbers_that_are_not_finite_spoil_their_episode_only(field: str) -> None:
    data = Data(5)
    ends = np.flatnonzero(data.dones[1])
    getattr(data, field)[1, ends[0] + 1] = np.nan
    broken_id = data.level_ids[1, ends[0] + 1]
    sums = EpisodeSums(NUM_ENVS)
    found = joined([add(sums, data, list(range(NUM_ENVS)), start, start + 4) for start in data.rows(4)])
    expected = by_the_whole(Data(5))
    np.testing.assert_array_equal(found.level_ids, expected.level_ids[expected.level_ids != broken_id])
    assert all(np.isfinite(column).all() for column in found)


def test_unknown_score_is_refused() -> None:
    with pytest.raises(ValueError, match="--curriculum_score=best"):
        score_levels("best", by_the_whole(Data(6, done_prob=0.0)), np.zeros(0, np.int64), np.zeros(1))
