"""Replay distributions: known numbers, edge cases, and draws."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from sample_factory.ued.curricula.prioritisation import (
    ProportionalWeights,
    RankWeights,
    ScoreWeights,
    draw_replays,
    replay_distribution,
    score_distribution,
)

SCORES = np.array([0.2, 0.5, 0.5, 0.1, -np.inf, -np.inf])


def filled_weights(use_ranks: bool, temperature: float) -> np.ndarray:
    weights: ScoreWeights = RankWeights(6, temperature) if use_ranks else ProportionalWeights(6, temperature)
    weights.rebuild(SCORES)
    return weights.weights(4)


@pytest.mark.parametrize(
    ("staleness", "temperature", "use_ranks", "ages", "expected"),
    [
        (0.5, 0.3, True, [3, 0, 1, 4], [0.198815, 0.440631, 0.106216, 0.254337]),
        (0.5, 0.3, False, [3, 0, 1, 4], [0.198991, 0.243684, 0.306184, 0.25114]),
        (0.3, 1.0, True, [3, 0, 1, 4], [0.2245, 0.336, 0.2055, 0.234]),
        (0.5, 0.3, True, [0, 0, 0, 0], [0.022631, 0.881262, 0.087432, 0.008674]),
    ],
)
def test_known_distributions(
    staleness: float, temperature: float, use_ranks: bool, ages: list[int], expected: list[float]
) -> None:
    by_score = score_distribution(filled_weights(use_ranks, temperature), uniform_fallback=True)
    np.testing.assert_allclose(replay_distribution(by_score, np.array(ages), staleness), expected, atol=1e-6)


def test_if_all_weights_are_zero_the_fallback_is_uniform() -> None:
    zeros = np.zeros(4)
    np.testing.assert_array_equal(score_distribution(zeros, uniform_fallback=True), np.full(4, 0.25))
    np.testing.assert_array_equal(score_distribution(zeros, uniform_fallback=False), zeros)
    assert score_distribution(np.zeros(0), uniform_fallback=True).shape == (0,)


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1.0 - 1e-16])
def test_a_slot_of_probability_zero_is_never_drawn(uniform: float) -> None:
    by_score = np.array([0.0, 0.5, 0.0, 0.5, 0.0])
    drawn = draw_replays(by_score, np.zeros(5, np.int64), 0.0, np.array([uniform]))
    assert by_score[drawn[0]] > 0


def test_without_any_probability_slot_zero_is_drawn() -> None:
    assert draw_replays(np.zeros(3), np.zeros(3, np.int64), 0.5, np.array([0.7])).tolist() == [0]


def test_draws_follow_the_distribution() -> None:
    by_score = np.array([0.1, 0.2, 0.3, 0.4])
    ages = np.array([5, 0, 0, 5])
    uniforms = np.random.default_rng(0).random(20_000)
    drawn = [draw_replays(by_score, ages.copy(), 0.5, uniforms[i : i + 1])[0] for i in range(len(uniforms))]
    frequencies = np.bincount(drawn, minlength=4) / len(uniforms)
    np.testing.assert_allclose(frequencies, replay_distribution(by_score, ages, 0.5), atol=0.015)


def test_with_staleness_alone_draws_go_round_in_turns() -> None:
    ages = np.zeros(5, np.int64)
    drawn = draw_replays(np.full(5, 0.2), ages, 1.0, np.random.default_rng(1).random(200))
    assert all(a != b for a, b in itertools.pairwise(drawn)), "a slot of age 0 has probability 0"
    assert set(drawn.tolist()) == set(range(5))


@pytest.mark.parametrize("seed", range(3))
def test_ranks_are_kept_up_to_date(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = np.full(12, -np.inf)
    changed, rebuilt = RankWeights(12, 0.7), RankWeights(12, 0.7)
    for step in range(200):
        slot = min(step, int(rng.integers(12))) if step >= 12 else step
        scores[slot] = rng.integers(4) / 4  # many ties
        changed.change(slot, scores)
        rebuilt.rebuild(scores)
        np.testing.assert_array_equal(changed.weights(12), rebuilt.weights(12))


def test_negative_scores_cannot_be_weights() -> None:
    with pytest.raises(ValueError, match="plr_use_score_ranks"):
        ProportionalWeights(3, 1.0).rebuild(np.array([0.1, -0.2, -np.inf]))
