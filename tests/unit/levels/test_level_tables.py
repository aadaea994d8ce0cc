"""Levels in shared memory: what one side writes the other side reads, or notices that it cannot."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

from sample_factory.algo.utils import level_tables
from sample_factory.algo.utils.level_tables import (
    CUT_OFF,
    ENTRIES_PER_ENV,
    MUTATED,
    NEW,
    NO_SLOT,
    REPLAYED,
    LevelTables,
    PlayedLevel,
    is_trained,
    make_level_id,
    parse_level_id,
)
from sample_factory.algo.utils.levels import LevelSpec

SPEC = LevelSpec((2, 3), np.dtype(np.int16).str, can_mutate=True, resets_itself=False)
NUM_ENVS = 3


def tables(capacity: int = 4) -> LevelTables:
    return LevelTables(SPEC, capacity, NUM_ENVS, share=False)


def data_of(number: int) -> np.ndarray:
    return SPEC.to_bytes(np.full((2, 3), number, np.int16))


def entry(number: int, kind: int = NEW) -> PlayedLevel:
    return PlayedLevel(kind, NO_SLOT, 0, number, data_of(number))


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int64, np.float32])
@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4)])
def test_levels_of_every_kind_survive_as_bytes(dtype: Any, shape: tuple[int, ...]) -> None:
    level = np.array(np.random.default_rng(0).integers(0, 2, shape), dtype)
    spec = LevelSpec(shape, level.dtype.str, False, False)
    data = spec.to_bytes(level)
    assert data.shape == (spec.num_bytes,)
    restored = spec.from_bytes(data)
    np.testing.assert_array_equal(restored, level)
    assert restored.dtype == level.dtype and restored.flags.writeable


@pytest.mark.parametrize(
    "level",
    [np.zeros((3, 2), np.int16), np.zeros((2, 3), np.int32), [[0, 0, 0], [0, 0, 0]]],
    ids=["shape", "type", "list"],
)
def test_what_is_no_level_is_refused(level: Any) -> None:
    with pytest.raises(ValueError, match=r"sample_level has to return .*\(2, 3\)"):
        SPEC.check(level, "sample_level")


@pytest.mark.parametrize("trained", [False, True])
def test_level_ids(trained: bool) -> None:
    ids = [make_level_id(serial, env, NUM_ENVS, trained) for serial in (1, 2, 10**9) for env in range(NUM_ENVS)]
    assert len(set(ids)) == len(ids) and min(ids) >= 0
    assert [parse_level_id(i, NUM_ENVS) for i in ids] == [(s, e) for s in (1, 2, 10**9) for e in range(NUM_ENVS)]
    cut_off = np.array(ids) + CUT_OFF
    assert (is_trained(np.array(ids)) == trained).all() and (is_trained(cut_off) == trained).all()
    assert (cut_off < 0).all() and (cut_off + CUT_OFF < 0).all()


def test_entries_are_read_until_they_are_overwritten() -> None:
    t = tables()
    for number in range(1, ENTRIES_PER_ENV + 3):
        assert t.record(1, entry(number, MUTATED)) == number
    assert t.num_played.tolist() == [0, ENTRIES_PER_ENV + 2, 0]
    assert t.played(1, 2) is None and t.played(0, 1) is None
    found = t.played(1, 3)
    assert found is not None and found.kind == MUTATED and found.num_mutations == 3
    np.testing.assert_array_equal(t.level(found.data), np.full((2, 3), 3))


def test_entry_of_a_writer_that_was_killed_half_way_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    t = tables()
    t.record(0, entry(1))
    with pytest.raises(TypeError):
        t.record(0, PlayedLevel(NEW, NO_SLOT, 0, None, data_of(2)))  # type: ignore[arg-type]
    assert t.played(0, 2) is None and t.num_played[0] == 1
    assert t.record(0, entry(3)) == 2
    found = t.played(0, 2)
    assert found is not None and found.num_mutations == 3


def test_entry_that_changes_while_it_is_read_is_not_used() -> None:
    t = tables()
    t.record(0, entry(1))

    class Overtaken:
        """The ring, whose writer comes round again just now."""

        def __getitem__(self, index: Any) -> np.ndarray:
            for _ in range(ENTRIES_PER_ENV):
                t_writer.record(0, entry(7))
            return ring[index]

    t_writer, ring = pickle_free_copy(t), t._played
    t._played = Overtaken()  # type: ignore[assignment]
    assert t.played(0, 1) is None


def pickle_free_copy(t: LevelTables) -> LevelTables:
    """Another view of the same memory."""
    other = LevelTables.__new__(LevelTables)
    other.__setstate__(t.__getstate__())
    return other


def test_nothing_is_replayed_before_it_is_published() -> None:
    t = tables()
    assert t.draw(0.5) is None
    t.store(0, data_of(5), 2)
    assert t.draw(0.5) is None
    t.publish(np.array([1.0]))
    level = t.draw(0.5)
    assert level is not None and (level.slot, level.num_mutations, level.generation) == (0, 2, 2)
    t.publish(np.array([]))
    assert t.draw(0.5) is None


def test_draws_follow_the_published_distribution() -> None:
    t = tables()
    for slot in range(4):
        t.store(slot, data_of(slot), 0)
    for probabilities in ([0.1, 0.2, 0.3, 0.4], [0.0, 0.5, 0.0, 0.5], [1.0, 0.0, 0.0, 0.0]):
        t.publish(np.array(probabilities))
        uniforms = (np.arange(1000) + 0.5) / 1000
        drawn = [t.draw(u) for u in uniforms]
        counts = np.bincount([level.slot for level in drawn if level is not None], minlength=4)
        np.testing.assert_array_equal(counts, np.array(probabilities) * 1000)
        assert all(level is not None and t.level(level.data)[0, 0] == level.slot for level in drawn)


def test_slot_that_is_being_written_is_read_again() -> None:
    t = tables()
    t.store(0, data_of(1), 0)
    t.publish(np.array([1.0]))
    t._stored_meta[0, 0] += 1  # a writer has begun
    reads = []

    class Watched:
        def __getitem__(self, slot: int) -> np.ndarray:
            reads.append(slot)
            if len(reads) == 3:
                t._stored_meta[0, 0] += 1
            return stored[slot]

    stored, t._stored = t._stored, Watched()  # type: ignore[assignment]
    level = t.draw(0.0)
    assert level is not None and level.generation == 4 and len(reads) == 4


def test_reader_gives_up_on_a_writer_that_died(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(level_tables, "_MAX_READS", 5)
    t = tables()
    t.store(0, data_of(1), 0)
    t.publish(np.array([1.0]))
    t._stored_meta[0, 0] += 1
    assert t.draw(0.0) is None


def test_reader_that_was_overtaken_draws_from_the_newest_distribution() -> None:
    t = tables()
    t.store(0, data_of(0), 0)
    t.store(1, data_of(1), 0)
    t.publish(np.array([1.0, 0.0]))

    class Overtaken:
        """The distributions, whose writer publishes another one just now."""

        is_first = True

        def __getitem__(self, index: Any) -> np.ndarray:
            if self.is_first:
                self.is_first = False
                other.publish(np.array([0.0, 1.0]))
                other.publish(np.array([0.0, 1.0]))
            return cumulated[index]

    other, cumulated = pickle_free_copy(t), t._cumulated
    t._cumulated = Overtaken()  # type: ignore[assignment]
    level = t.draw(0.0)
    assert level is not None and level.slot == 1


def test_generation_tells_a_level_from_its_successor() -> None:
    t = tables()
    t.store(3, data_of(1), 0)
    t.publish(np.array([0.0, 0.0, 0.0, 1.0]))
    level = t.draw(0.5)
    assert level is not None and level.generation == t.generation(3)
    t.store(3, data_of(2), 0)
    assert level.generation != t.generation(3)
    np.testing.assert_array_equal(level.data, data_of(1))


def test_needed_bytes_are_those_allocated() -> None:
    t = tables(capacity=10)
    assert level_tables.table_bytes(SPEC, 10, NUM_ENVS) == [x.numel() * x.element_size() for x in t._tensors.values()]


def test_tables_can_be_sent_to_other_processes() -> None:
    t = tables()
    t.record(2, entry(4, REPLAYED))
    copy = pickle.loads(pickle.dumps(t))
    assert copy.played(2, 1).num_mutations == 4 and copy.num_played is not t.num_played
