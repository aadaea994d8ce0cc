"""Levels on their way between a learner, who decides which are worth replaying, and rollout workers, who play them.

Everything lies in tables in shared memory. Every word has one writer, nobody waits for anybody, and no lock is held:

======================  ======================  =======================================================================
table                   written by              read by
======================  ======================  =======================================================================
stored levels, a row    the learner             rollout workers, when an episode begins. The generation of a row is odd
per slot of its buffer                          while it is written, and another one afterwards: a reader who sees it
                                                change reads again
replay distribution     the learner             rollout workers. A double buffer: the learner fills the half that is
                                                not the newest, then counts the publication; a reader who was overtaken
                                                reads again
played levels, a ring   the rollout worker of   the learner, when it trains on a trajectory and at every batch. The
of entries per          this environment        serial number of an entry is 0 while it is written, and compared before
environment                                     and after reading: an entry that was overwritten counts as lost
number of played        the rollout worker of   the learner; its successor, if the worker is replaced
levels, one per         this environment
environment
======================  ======================  =======================================================================

Before the rollout workers start, the learner fills in what a checkpoint knows, the numbers of played levels among it.

An episode begins: the worker takes the next serial number of its environment, chooses a level (a stored, an edited or a
new one), writes its entry, and only then counts it. Every step of the trajectory carries the *level id*, which says
where the entry is. A worker that is killed leaves at worst an entry nobody refers to; its successor goes on with the
next number. An episode that it left unfinished is never scored, because no step of it is done.

Random numbers of a choice follow from ``--seed``, environment and serial number. So the counters are all there is to
save of the random streams, and neither a restart nor a resumed run repeats levels.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sample_factory.algo.utils.levels import Level, LevelSpec

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]

NEW, REPLAYED, MUTATED = range(3)
NO_SLOT = -1
ENTRIES_PER_ENV = 64
"""Levels an environment may have begun since an entry was written before it is lost. Episodes of a few steps and large
batches may need more; what is lost is the score of a level, never experience.
"""
# Added to the id of a level whose episode cannot be judged; even, so that the id still says whether it is trained on.
CUT_OFF = -(2**62)
_MAX_READS = 1000


class PlayedLevel(NamedTuple):
    """An entry. ``slot``, ``generation``: where the level is stored, if it was replayed. ``num_mutations``: edits since
    the level that was sampled. ``data``: its bytes.
    """

    kind: int
    slot: int
    generation: int
    num_mutations: int
    data: Bytes


class StoredLevel(NamedTuple):
    slot: int
    generation: int
    num_mutations: int
    data: Bytes


def make_level_id(serial: int, env_id: int, num_envs: int, is_trained: bool) -> int:
    return (serial * num_envs + env_id) * 2 + is_trained


def is_trained(level_ids: Any) -> Any:
    """Whether steps with these ids (array or tensor) are for the loss, bool."""
    return (level_ids & 1) == 1


def parse_level_id(level_id: int, num_envs: int) -> tuple[int, int]:
    """``(serial number, environment)``."""
    return divmod(level_id >> 1, num_envs)


def _layout(spec: LevelSpec, capacity: int, num_envs: int) -> dict[str, tuple[list[int], torch.dtype]]:
    """Shape and type of every table."""
    size, entries = spec.num_bytes, ENTRIES_PER_ENV
    return {
        "stored": ([capacity, size], torch.uint8),
        "stored_meta": ([capacity, 2], torch.int64),  # generation, number of mutations
        "cumulated": ([2, capacity], torch.float64),
        "num_replayable": ([2], torch.int64),
        "publications": ([1], torch.int64),
        "num_played": ([num_envs], torch.int64),
        "played": ([num_envs, entries, size], torch.uint8),
        "played_meta": ([num_envs, entries, 5], torch.int64),  # serial number, then all but the data of PlayedLevel
    }


def table_bytes(spec: LevelSpec, capacity: int, num_envs: int) -> list[int]:
    """Bytes of every table."""
    return [math.prod(shape) * dtype.itemsize for shape, dtype in _layout(spec, capacity, num_envs).values()]


class LevelTables:
    """Allocated in the main process, attached to in all others."""

    def __init__(self, spec: LevelSpec, capacity: int, num_envs: int, share: bool) -> None:
        """``capacity``: slots of the learner's buffer. ``num_envs``: environments of all rollout workers."""
        self.spec, self.capacity, self.num_envs = spec, capacity, num_envs
        self._tensors: dict[str, Tensor] = {
            name: torch.zeros(shape, dtype=dtype) for name, (shape, dtype) in _layout(spec, capacity, num_envs).items()
        }
        if share:
            for tensor in self._tensors.values():
                tensor.share_memory_()
        self._attach()

    def _attach(self) -> None:
        arrays = {name: tensor.numpy() for name, tensor in self._tensors.items()}
        self._stored, self._stored_meta = arrays["stored"], arrays["stored_meta"]
        self._cumulated, self._num_replayable = arrays["cumulated"], arrays["num_replayable"]
        self._publications: Ints = arrays["publications"]
        self.num_played: Ints = arrays["num_played"]
        self._played, self._played_meta = arrays["played"], arrays["played_meta"]

    def __getstate__(self) -> dict[str, object]:
        kept = ("spec", "capacity", "num_envs", "_tensors")
        return {name: self.__dict__[name] for name in kept}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._attach()

    # --- the learner writes ---

    def store(self, slot: int, data: Bytes, num_mutations: int) -> None:
        """Put a level into a slot."""
        meta = self._stored_meta[slot]
        meta[0] += 1
        self._stored[slot] = data
        meta[1] = num_mutations
        meta[0] += 1

    def generation(self, slot: int) -> int:
        """For the learner: its slots do not change under its hands."""
        return int(self._stored_meta[slot, 0])

    def publish(self, probabilities: npt.NDArray[np.float64]) -> None:
        """Replay the first slots with these probabilities from now on; an empty array: replay nothing."""
        half = int(self._publications[0] + 1) % 2
        size = len(probabilities)
        np.cumsum(probabilities, out=self._cumulated[half, :size])
        self._num_replayable[half] = size
        self._publications[0] += 1

    # --- rollout workers write ---

    def record(self, env_id: int, level: PlayedLevel) -> int:
        """This level is played next; returns its serial number, which starts at 1."""
        serial = int(self.num_played[env_id]) + 1
        place = serial % ENTRIES_PER_ENV
        meta = self._played_meta[env_id, place]
        meta[0] = 0
        self._played[env_id, place] = level.data
        meta[1:] = level[:4]
        meta[0] = serial
        self.num_played[env_id] = serial
        return serial

    # --- rollout workers read ---

    def draw(self, uniform: float) -> StoredLevel | None:
        """A level to replay, by a number in [0, 1); None if there is nothing to replay yet."""
        for _ in range(_MAX_READS):
            publications = int(self._publications[0])
            half = publications % 2
            size = int(self._num_replayable[half])
            if size == 0:
                return None
            cumulated = self._cumulated[half, :size]
            slot = min(int(np.searchsorted(cumulated, uniform * cumulated[-1], side="right")), size - 1)
            level = self._read_stored(slot)
            if level is not None and int(self._publications[0]) == publications:
                return level
        return None  # the learner was killed while it wrote: the run is about to end

    def _read_stored(self, slot: int) -> StoredLevel | None:
        meta = self._stored_meta[slot]
        generation, num_mutations = meta.tolist()
        data = self._stored[slot].copy()
        if generation % 2 or int(meta[0]) != generation:
            return None
        return StoredLevel(slot, generation, num_mutations, data)

    # --- the learner reads ---

    def played(self, env_id: int, serial: int) -> PlayedLevel | None:
        """An entry; None if it was overwritten."""
        place = serial % ENTRIES_PER_ENV
        meta = self._played_meta[env_id, place]
        found, kind, slot, generation, num_mutations = meta.tolist()
        data = self._played[env_id, place].copy()
        if found != serial or int(meta[0]) != serial:
            return None
        return PlayedLevel(kind, slot, generation, num_mutations, data)

    def level(self, data: Bytes) -> Level:
        return self.spec.from_bytes(data)
