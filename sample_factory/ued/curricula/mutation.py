"""ACCEL: which levels become parents, and their edited copies.

Parker-Holder et al. 2022, "Evolving Curricula with Regret-Based Environment Design".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic

import numpy as np
import torch
from torch import Generator

from sample_factory.ued.curricula.level_buffer import NOT_STORED
from sample_factory.ued.curricula.prioritisation import Floats, Ints
from sample_factory.ued.curricula.settings import MutationSettings
from sample_factory.ued.envs.interfaces import Levels, Mutator


@dataclass(frozen=True)
class Offspring(Generic[Levels]):
    """``parents``: int64 [N], the slot of the level that each of the ``levels`` was made of."""

    levels: Levels
    parents: Ints


def choose_parents(criterion: str, num_parents: int, scores: Floats) -> Ints:
    """Positions in a batch of N levels, int64 [N]: all of them, or the ``num_parents`` with the lowest (``easy``) or
    highest (``hard``) of ``scores`` float64 [N], each repeated. Levels without a score (-inf) are the last choice.
    """
    count = len(scores)
    if criterion == "batch":
        return np.arange(count)
    key = scores if criterion == "easy" else -scores
    order = np.argsort(np.where(np.isfinite(scores), key, np.inf), kind="stable")
    return np.repeat(order[:num_parents], count // num_parents)


class Mutation(Generic[Levels]):
    """``index_by_slot``: take the level whose position in the batch is the parent's *slot*, as the published minimax
    does for ``easy`` and ``hard``; positions behind the end of the batch mean its last level.
    """

    def __init__(self, settings: MutationSettings, mutator: Mutator[Levels], index_by_slot: bool = False) -> None:
        self._settings, self._mutator, self._index_by_slot = settings, mutator, index_by_slot

    def of(self, levels: Levels, slots: Ints, scores: Floats, generator: Generator) -> Offspring[Levels]:
        """Edited copies of replayed ``levels`` (N, stored in ``slots``); as many as there are levels."""
        settings = self._settings
        chosen = choose_parents(settings.criterion, settings.num_parents, scores)
        parents = slots[chosen]
        if self._index_by_slot and settings.criterion != "batch":
            chosen = np.minimum(parents, len(levels) - 1)
        mutants = self._mutator(levels[torch.from_numpy(chosen)], settings.num_edits, generator)
        if (parents == NOT_STORED).any():
            raise ValueError("only replayed levels can be parents")
        return Offspring(mutants, parents)
