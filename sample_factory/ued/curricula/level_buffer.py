"""The buffer of levels of one student (Prioritized Level Replay): scores, ages, sequential updates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic

import numpy as np
import torch

from sample_factory.ued.curricula.level_metrics import check_same_kind
from sample_factory.ued.curricula.prioritisation import (
    Floats,
    Ints,
    ProportionalWeights,
    RankWeights,
    ScoreWeights,
    draw_replays,
    replay_distribution,
    score_distribution,
)
from sample_factory.ued.envs.interfaces import Levels

NOT_STORED = -1
"""Stands for the slot of a level that is not stored, and for the parent of a level that has none."""


@dataclass(frozen=True)
class BufferSettings:
    """How a buffer ranks and replaces levels.

    ``capacity``: slots. ``temperature``, ``use_ranks``: how scores become weights. ``staleness_coef``: share of ages in
    the replay distribution. ``min_fill_ratio``: replay needs this share of filled slots. ``uniform_fallback``: if all
    weights are 0, draw uniformly. ``refresh_age``: a level that is stored starts at age 0 instead of the age of the
    level it replaces.
    """

    capacity: int
    temperature: float = 1.0
    staleness_coef: float = 0.3
    use_ranks: bool = True
    min_fill_ratio: float = 0.5
    uniform_fallback: bool = True
    refresh_age: bool = True

    def __post_init__(self) -> None:
        if self.capacity < 1:
            raise ValueError(f"--plr_buffer_size={self.capacity} must be at least 1")
        if self.temperature <= 0:
            raise ValueError(f"--plr_temp={self.temperature} must be above 0")
        if not 0 <= self.staleness_coef <= 1:
            raise ValueError(f"--plr_staleness_coef={self.staleness_coef} must lie between 0 and 1")
        if not 0 <= self.min_fill_ratio <= 1:
            raise ValueError(f"--plr_min_fill_ratio={self.min_fill_ratio} must lie between 0 and 1")


@dataclass(frozen=True)
class LevelResults(Generic[Levels]):
    """What a rollout has shown about N levels, in the order in which they are to be stored.

    ``slots``: int64 [N], where the level is stored, or -1. ``parents``: int64 [N], the slot of the level it was made
    of, or -1. ``scores`` and ``max_returns``: float64 [N]. ``valid``: bool [N]; an item that is not valid, or whose
    score is -inf or not a number, is ignored.
    """

    levels: Levels
    slots: Ints
    parents: Ints
    scores: Floats
    max_returns: Floats
    valid: np.ndarray[Any, np.dtype[np.bool_]]


class LevelBuffer(Generic[Levels]):
    """Slots fill from the front and never become free again, so the filled ones are the first ``size``."""

    def __init__(self, settings: BufferSettings, example: Levels) -> None:
        """``example``: levels (any number) of the kind that will be stored; they are not."""
        self.settings = settings
        self.size = 0
        self.levels = example.empty(settings.capacity)
        self.scores: Floats = np.full(settings.capacity, -np.inf)
        self.ages: Ints = np.zeros(settings.capacity, np.int64)
        self.max_returns: Floats = np.full(settings.capacity, -np.inf)
        self.num_mutations: Ints = np.zeros(settings.capacity, np.int64)
        weights = RankWeights if settings.use_ranks else ProportionalWeights
        self._weights: ScoreWeights = weights(settings.capacity, settings.temperature)

    @property
    def is_warm(self) -> bool:
        """Whether enough slots are filled for replay."""
        return self.size > 0 and self.size / self.settings.capacity >= self.settings.min_fill_ratio

    def stored(self) -> Levels:
        """All stored levels (a view): row i is slot i."""
        return self.levels[: self.size]

    def distribution(self) -> Floats:
        """Probability of every slot to be replayed next, float64 [capacity]."""
        probabilities = np.zeros(self.settings.capacity)
        probabilities[: self.size] = self._filled_distribution()
        return probabilities

    def draw(self, uniforms: Floats) -> Ints:
        """Slots to replay, one per number of ``uniforms`` (in [0, 1)). Ages change."""
        if self.size == 0:
            raise ValueError("an empty buffer has no level to replay")
        return draw_replays(self._by_score(), self.ages[: self.size], self.settings.staleness_coef, uniforms)

    def age(self, num_levels: int) -> None:
        """Nothing was replayed while this many other levels were played."""
        self.ages[: self.size] += num_levels

    def max_returns_of(self, slots: Ints) -> Floats:
        """Best return of every level; -inf for levels that are not stored."""
        return np.where(slots >= 0, self.max_returns[slots], -np.inf)

    def update(self, results: LevelResults[Levels]) -> dict[int, int]:
        """Store results one after the other; each sees the effects of those before. Returns the slots to which a level
        was written, and which item it was.

        A stored level gets its new score. A new level goes to the first free slot or else replaces the level that is
        the least likely to be replayed, if its score is not lower. A stored level that has been replaced within this
        call competes for its old slot in the same way.
        """
        mutations_before = self.num_mutations.copy()
        written: dict[int, int] = {}
        for item in np.flatnonzero(results.valid & (results.scores > -np.inf)).tolist():
            slot = int(results.slots[item])
            is_stored = slot >= 0
            if not is_stored:
                slot = self._slot_for_new_level()
            if is_stored and slot not in written:
                self._set_score(slot, results, item)
            elif results.scores[item] >= self.scores[slot]:
                written[slot] = item
                self.size = max(self.size, slot + 1)
                self._set_score(slot, results, item)
                if self.settings.refresh_age:
                    self.ages[slot] = 0
                parent = int(results.parents[item])
                if is_stored:
                    self.num_mutations[slot] = mutations_before[slot]
                else:
                    self.num_mutations[slot] = mutations_before[parent] + 1 if parent >= 0 else 0
        if written:
            self.levels.put(torch.tensor(list(written)), results.levels[torch.tensor(list(written.values()))])
        return written

    def metrics(self) -> dict[str, float]:
        """Means over the replay distribution; 0 while the buffer is empty."""
        weights = self._filled_distribution()
        return {
            "weighted_n_mutations": float(weights @ self.num_mutations[: self.size]),
            "weighted_ued_score": float(weights @ self.scores[: self.size]),
            "weighted_age": float(weights @ self.ages[: self.size]),
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything stored, as tensors."""
        return {
            "size": self.size,
            "levels": {name: tensor.clone() for name, tensor in self.levels.as_dict().items()},
            **{name: torch.from_numpy(array.copy()) for name, array in self._arrays().items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`. Raises ValueError if the capacity or the kind of the levels differs."""
        if len(state["scores"]) != self.settings.capacity:
            raise ValueError(
                f"the saved level buffer has {len(state['scores'])} slots, --plr_buffer_size is "
                f"{self.settings.capacity}; resume with the buffer size of the run"
            )
        check_same_kind(self.levels.as_dict(), state["levels"])
        self.size = int(state["size"])
        for name, tensor in self.levels.as_dict().items():
            tensor.copy_(state["levels"][name])
        for name, array in self._arrays().items():
            array[:] = state[name].cpu().numpy()
        self._weights.rebuild(self.scores)

    def _arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        return {
            "scores": self.scores,
            "ages": self.ages,
            "max_returns": self.max_returns,
            "num_mutations": self.num_mutations,
        }

    def _by_score(self) -> Floats:
        return score_distribution(self._weights.weights(self.size), self.settings.uniform_fallback)

    def _filled_distribution(self) -> Floats:
        return replay_distribution(self._by_score(), self.ages[: self.size], self.settings.staleness_coef)

    def _slot_for_new_level(self) -> int:
        if self.size < self.settings.capacity:
            return self.size
        return int(self._filled_distribution().argmin())

    def _set_score(self, slot: int, results: LevelResults[Levels], item: int) -> None:
        self.scores[slot] = results.scores[item]
        self.max_returns[slot] = results.max_returns[item]
        self._weights.change(slot, self.scores)
