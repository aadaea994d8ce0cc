"""What prioritised replay keeps for one student: a buffer, and how rollouts change it."""

from __future__ import annotations

from typing import Generic

import numpy as np
import torch
from torch import Generator, Tensor

from sample_factory.ued.curricula.common import uniform_numbers
from sample_factory.ued.curricula.level_batches import LevelBatch, identify, no_slots
from sample_factory.ued.curricula.level_buffer import LevelBuffer, LevelResults
from sample_factory.ued.curricula.playing import to_score
from sample_factory.ued.curricula.prioritisation import Floats, Ints
from sample_factory.ued.curricula.scores import best_returns, student_scores
from sample_factory.ued.envs.interfaces import Comparator, Levels
from sample_factory.ued.rollouts import Rollout

_LEAST_COMPARED_BY_MINIMAX = 3  # levels of a batch


class StudentReplay(Generic[Levels]):
    """``comparator``: finds equal levels; None: nobody asked for unique levels.

    Equal levels of a batch count as copies of one level: they are scored together and stored once. With
    ``minimax_compat`` they are scored one by one, the first of those found by the comparator counts, and of several
    draws of one slot the last; batches of one or two are not compared; and the best return of a level is that of its
    latest visit.
    """

    def __init__(
        self,
        buffer: LevelBuffer[Levels],
        score: str,
        copies: int,
        comparator: Comparator[Levels] | None = None,
        minimax_compat: bool = False,
    ) -> None:
        self.buffer = buffer
        self._score, self._copies = score, copies
        self._comparator, self._minimax_compat = comparator, minimax_compat

    def draw(self, count: int, generator: Generator) -> tuple[Levels, Ints]:
        """Levels to replay and their slots."""
        slots = self.buffer.draw(uniform_numbers(count, generator).numpy())
        return self.buffer.levels[torch.from_numpy(slots)], slots

    def batch(self, levels: Levels, slots: Ints | None = None, parents: Ints | None = None) -> LevelBatch[Levels]:
        """Levels that are about to be played; None: all are new, or none has a parent."""
        count = len(levels)
        slots = no_slots(count) if slots is None else slots
        parents = no_slots(count) if parents is None else parents
        return identify(levels, slots, parents, self.buffer, self._comparator_of(count))

    def _comparator_of(self, count: int) -> Comparator[Levels] | None:
        """What compares the levels of a batch of ``count``."""
        return None if self._minimax_compat and count < _LEAST_COMPARED_BY_MINIMAX else self._comparator

    def record(self, batch: LevelBatch[Levels], rollout: Rollout, advantages: Tensor) -> Floats:
        """Score the levels of a rollout and store them: float64 [N], one score per level of the batch."""
        own_groups = np.arange(len(batch.slots))
        first = own_groups if self._minimax_compat else batch.first
        scored = to_score(rollout, advantages, self._copies, first)
        known = torch.from_numpy(self.buffer.max_returns_of(batch.slots)).to(rollout.rewards)
        result = student_scores(self._score, scored, known)
        best = best_returns(scored) if self._minimax_compat else result.max_returns
        scores = result.scores.double().cpu().numpy()[first]
        only_last_counts = self._minimax_compat and self._comparator_of(len(scores)) is None
        self.buffer.update(
            LevelResults(
                levels=batch.levels,
                slots=batch.slots,
                parents=batch.parents,
                scores=scores,
                max_returns=best.double().cpu().numpy()[first],
                valid=np.ones(len(scores), np.bool_) if only_last_counts else batch.is_first,
            )
        )
        return scores
