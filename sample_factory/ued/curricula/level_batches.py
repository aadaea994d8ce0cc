"""The levels of one rollout, and which of them are the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic

import numpy as np
import torch

from sample_factory.ued.curricula.level_buffer import NOT_STORED, LevelBuffer
from sample_factory.ued.curricula.prioritisation import Ints
from sample_factory.ued.envs.interfaces import Comparator, Levels


@dataclass(frozen=True)
class LevelBatch(Generic[Levels]):
    """N levels in the order of the environments that play them.

    ``slots``: int64 [N], where the level is stored, or -1. ``parents``: int64 [N], slot of the level it was made of, or
    -1. ``first``: int64 [N], position of the first equal level of the batch (its own if there is none before it).
    """

    levels: Levels
    slots: Ints
    parents: Ints
    first: Ints

    @property
    def is_first(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        return self.first == np.arange(len(self.first))


def no_slots(count: int) -> Ints:
    """Slots of levels that are not stored, or parents of levels that have none."""
    return np.full(count, NOT_STORED, np.int64)


def identify(
    levels: Levels,
    slots: Ints,
    parents: Ints,
    buffer: LevelBuffer[Levels],
    comparator: Comparator[Levels] | None,
) -> LevelBatch[Levels]:
    """Find equal levels. Without comparator only repeated draws of a slot are known to be equal; with it a level that
    is stored already gets its slot, too (the lowest one).
    """
    if comparator is None:
        return LevelBatch(levels, slots, parents, first_of_slot(slots))
    unknown = np.flatnonzero(slots == NOT_STORED)
    if buffer.size and len(unknown):
        equal = comparator(levels[torch.from_numpy(unknown)], buffer.stored()).cpu().numpy()
        slots = slots.copy()
        slots[unknown] = np.where(equal.any(1), equal.argmax(1), NOT_STORED)
    first = comparator(levels, levels).cpu().numpy().argmax(1)
    return LevelBatch(levels, slots, parents, np.minimum(first, np.arange(len(first))))


def first_of_slot(slots: Ints) -> Ints:
    """Position of the first item with the same slot; the own one for items that are not stored."""
    first = np.arange(len(slots))
    seen: dict[int, int] = {}
    for position, slot in enumerate(slots.tolist()):
        if slot != NOT_STORED:
            first[position] = seen.setdefault(slot, position)
    return first
