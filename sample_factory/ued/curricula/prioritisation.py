"""Which stored level is replayed next: a mixture of how useful and how stale levels are.

Jiang, Grefenstette and Rocktaeschel 2021, "Prioritized Level Replay", section 3. Filled slots are a prefix of the
buffer, so arrays here have one entry per *filled* slot. NumPy, because draws and updates are sequential: each one
changes the next, and thousands of tensor operations per cycle would cost more than the rollout.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class ScoreWeights(Protocol):
    """Unnormalised weights of the scores, kept up to date from one change to the next."""

    def rebuild(self, scores: Floats) -> None:
        """Start over from these scores (one per slot, -inf where unfilled)."""
        ...

    def change(self, slot: int, scores: Floats) -> None:
        """``scores[slot]`` has just been changed."""
        ...

    def weights(self, size: int) -> Floats:
        """Of the first ``size`` slots; do not write to it."""
        ...


class RankWeights:
    """``(1 / rank) ** (1 / temperature)``; the highest score has rank 1 and equal scores are ranked by slot."""

    def __init__(self, capacity: int, temperature: float) -> None:
        self._by_rank: Floats = (1.0 / np.arange(1, capacity + 1)) ** (1.0 / temperature)
        self._order: Ints = np.arange(capacity)
        self._rank: Ints = np.arange(capacity)

    def rebuild(self, scores: Floats) -> None:
        self._order = np.argsort(-scores, kind="stable")
        self._rank[self._order] = np.arange(len(scores))

    def change(self, slot: int, scores: Floats) -> None:
        """O(capacity) moves instead of a new sort."""
        score = scores[slot]
        old = int(self._rank[slot])
        new = int(np.count_nonzero(scores > score) + np.count_nonzero(scores[:slot] == score))
        order = self._order
        if new < old:
            order[new + 1 : old + 1] = order[new:old].copy()
        else:
            order[old:new] = order[old + 1 : new + 1].copy()
        order[new] = slot
        first, last = min(old, new), max(old, new) + 1
        self._rank[order[first:last]] = np.arange(first, last)

    def weights(self, size: int) -> Floats:
        return self._by_rank[self._rank[:size]]


class ProportionalWeights:
    """``score ** (1 / temperature)``."""

    def __init__(self, capacity: int, temperature: float) -> None:
        self._power = 1.0 / temperature
        self._weights: Floats = np.zeros(capacity)

    def rebuild(self, scores: Floats) -> None:
        for slot in range(len(scores)):
            self._weights[slot] = 0.0
            if np.isfinite(scores[slot]):
                self.change(slot, scores)

    def change(self, slot: int, scores: Floats) -> None:
        if scores[slot] < 0:
            raise ValueError(
                f"the score {scores[slot]:g} of a level is negative and cannot be a weight: use a score that is never "
                f"negative, or --plr_use_score_ranks=True"
            )
        self._weights[slot] = scores[slot] ** self._power

    def weights(self, size: int) -> Floats:
        return self._weights[:size]


def score_distribution(weights: Floats, uniform_fallback: bool) -> Floats:
    """Normalised weights. If all are 0: uniform with the fallback, else all 0."""
    total = weights.sum()
    if total > 0:
        return weights / total
    if uniform_fallback and len(weights):
        return np.full(len(weights), 1.0 / len(weights))
    return np.zeros(len(weights))


def replay_distribution(by_score: Floats, ages: Ints, staleness_coef: float) -> Floats:
    """``(1 - staleness_coef) * by_score + staleness_coef * ages / sum(ages)``; ``by_score`` if nothing has aged."""
    total = ages.sum()
    if total == 0:
        return by_score.copy()
    return (1.0 - staleness_coef) * by_score + (staleness_coef / total) * ages


def draw_replays(by_score: Floats, ages: Ints, staleness_coef: float, uniforms: Floats) -> Ints:
    """Draw slots one after the other, with replacement: a draw ages all others by 1, and the drawn slot becomes 0.

    ``ages`` is changed in place. ``uniforms``: one number in [0, 1) per draw. A slot of probability 0 is never drawn,
    unless all are 0: then it is slot 0.
    """
    score_part = np.cumsum((1.0 - staleness_coef) * by_score)
    only_scores = np.cumsum(by_score)
    slots = np.empty(len(uniforms), np.int64)
    for i, uniform in enumerate(uniforms):
        cumulated_ages = np.cumsum(ages)
        total = int(cumulated_ages[-1])
        cumulated = score_part + cumulated_ages * (staleness_coef / total) if total > 0 else only_scores
        slot = int(np.searchsorted(cumulated, (1.0 - uniform) * cumulated[-1], side="left"))
        slots[i] = slot
        ages += 1
        ages[slot] = 0
    return slots
