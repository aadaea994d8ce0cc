"""The level buffer: known sequences, agreement with a literal reference, saving and loading."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from sample_factory.ued.curricula.level_buffer import BufferSettings, LevelBuffer, LevelResults
from tests.unit.ued.curricula.maze_runs import REPLAY, make_run
from tests.unit.ued.curricula.reference_buffer import ReferenceBuffer
from tests.unit.ued.curricula.toy_levels import ToyLevels, toy_levels

INF = float("inf")


def results(
    names: Sequence[int],
    scores: Sequence[float],
    maxima: Sequence[float],
    slots: Sequence[int] | None = None,
    parents: Sequence[int] | None = None,
    valid: Sequence[bool] | None = None,
) -> LevelResults[ToyLevels]:
    n = len(names)
    return LevelResults(
        toy_levels(names),
        slots=np.array(slots if slots is not None else [-1] * n, np.int64),
        parents=np.array(parents if parents is not None else [-1] * n, np.int64),
        scores=np.array(scores, np.float64),
        max_returns=np.array(maxima, np.float64),
        valid=np.array(valid if valid is not None else [True] * n, np.bool_),
    )


def empty_buffer(**settings: Any) -> LevelBuffer[ToyLevels]:
    options: dict[str, Any] = dict(capacity=4, temperature=1.0, staleness_coef=0.5)
    return LevelBuffer(BufferSettings(**(options | settings)), toy_levels([]))


def filled_buffer(**settings: Any) -> LevelBuffer[ToyLevels]:
    """Four levels after the first two operations of the known sequence."""
    buffer = empty_buffer(**settings)
    buffer.update(results([10, 11, 12], [0.3, 0.1, -INF], [0.9, 0.8, 0.7]))
    buffer.update(results([13, 14], [0.2, 0.4], [0.6, 0.5]))
    return buffer


def draw_3_0_0(buffer: LevelBuffer[ToyLevels]) -> None:
    uniforms = []
    for wanted in (3, 0, 0):
        probabilities = buffer.distribution()
        uniforms.append(1.0 - (probabilities[:wanted].sum() + 0.5 * probabilities[wanted]))
        assert buffer.draw(np.array(uniforms[-1:])).tolist() == [wanted]


def test_levels_without_score_are_not_stored() -> None:
    buffer = empty_buffer()
    buffer.update(results([10, 11, 12], [0.3, 0.1, -INF], [0.9, 0.8, 0.7]))
    assert buffer.size == 2
    np.testing.assert_array_equal(buffer.scores, [0.3, 0.1, -INF, -INF])
    assert buffer.max_returns[:2].tolist() == [0.9, 0.8]
    assert buffer.stored().name.tolist() == [10, 11]


@pytest.mark.parametrize("refresh_age", [True, False])
def test_the_known_sequence(refresh_age: bool) -> None:
    buffer = filled_buffer(refresh_age=refresh_age)
    assert buffer.scores.tolist() == [0.3, 0.1, 0.2, 0.4]
    assert buffer.max_returns.tolist() == [0.9, 0.8, 0.6, 0.5]
    draw_3_0_0(buffer)
    assert buffer.ages.tolist() == [0, 3, 3, 2]
    buffer.update(results([20, 21, 22], [0.15, 0.35, 0.05], [0.11, 0.22, 0.33]))
    assert buffer.scores.tolist() == [0.35, 0.1, 0.2, 0.4]
    assert buffer.ages.tolist() == [0, 3, 3, 2]
    assert buffer.max_returns.tolist() == [0.22, 0.8, 0.6, 0.5]
    assert buffer.stored().name.tolist() == [21, 11, 13, 14]
    np.testing.assert_allclose(buffer.distribution(), [0.12, 0.2475, 0.2675, 0.365])

    buffer.update(results([11, 11], [0.01, 0.02], [0.5, 0.4], slots=[1, 1]))
    assert buffer.scores.tolist() == [0.35, 0.02, 0.2, 0.4]
    assert buffer.ages.tolist() == [0, 3, 3, 2]
    assert buffer.max_returns.tolist() == [0.22, 0.4, 0.6, 0.5]
    for score, parent in [(0.9, 2), (0.95, 1)]:
        buffer.update(results([30], [score], [1.0], parents=[parent]))
        assert buffer.scores.tolist() == [score, 0.02, 0.2, 0.4]
        assert buffer.num_mutations.tolist() == [1, 0, 0, 0]


def test_levels_age_while_others_are_played() -> None:
    buffer = filled_buffer()
    draw_3_0_0(buffer)
    buffer.age(3)
    assert buffer.ages.tolist() == [3, 6, 6, 5]


def test_a_stored_level_inherits_the_age_of_the_slot_only_on_request() -> None:
    for refresh_age, expected in [(True, 0), (False, 5)]:
        buffer = filled_buffer(staleness_coef=0.0, refresh_age=refresh_age)
        buffer.age(5)
        buffer.update(results([99], [0.5], [0.5]))
        assert buffer.stored().name.tolist() == [10, 99, 13, 14]
        assert buffer.ages.tolist() == [5, expected, 5, 5]


def test_mutations_are_counted_over_generations() -> None:
    buffer = empty_buffer()
    buffer.update(results([1], [0.1], [0.1]))
    buffer.update(results([2], [0.2], [0.1], parents=[0]))
    buffer.update(results([3, 4], [0.3, 0.3], [0.1, 0.1], parents=[1, 2]))
    assert buffer.num_mutations.tolist() == [0, 1, 2, 1], "parents count as they were before the call"


def test_flagged_levels_and_scores_that_are_not_numbers_are_ignored() -> None:
    buffer = empty_buffer()
    buffer.update(results([1, 2, 3], [0.1, 0.2, float("nan")], [1, 1, 1], valid=[True, False, True]))
    assert buffer.size == 1


def test_warmth_is_a_share_of_filled_slots() -> None:
    buffer = empty_buffer(min_fill_ratio=0.5)
    assert not buffer.is_warm
    buffer.update(results([1], [0.1], [0.1]))
    assert not buffer.is_warm
    buffer.update(results([2], [0.1], [0.1]))
    assert buffer.is_warm
    assert not empty_buffer(min_fill_ratio=0.0).is_warm, "nothing to replay"
    with pytest.raises(ValueError, match="empty"):
        empty_buffer().draw(np.array([0.5]))


def test_metrics_are_means_over_the_replay_distribution() -> None:
    assert empty_buffer().metrics() == {"weighted_n_mutations": 0.0, "weighted_ued_score": 0.0, "weighted_age": 0.0}
    buffer = filled_buffer()
    draw_3_0_0(buffer)
    buffer.num_mutations[:] = [1, 2, 3, 4]
    probabilities = buffer.distribution()
    assert buffer.metrics() == {
        "weighted_n_mutations": pytest.approx(probabilities @ [1, 2, 3, 4]),
        "weighted_ued_score": pytest.approx(probabilities @ [0.3, 0.1, 0.2, 0.4]),
        "weighted_age": pytest.approx(probabilities @ [0, 3, 3, 2]),
    }


def same_state(buffer: LevelBuffer[ToyLevels], reference: ReferenceBuffer) -> None:
    assert buffer.size == sum(reference.filled)
    assert buffer.scores.tolist() == reference.scores
    assert buffer.ages.tolist() == reference.ages
    assert buffer.max_returns.tolist() == reference.maxima
    assert buffer.num_mutations.tolist() == reference.mutations
    assert buffer.levels.name.tolist() == reference.names
    np.testing.assert_allclose(buffer.distribution(), reference.probabilities(), atol=1e-12)


@pytest.mark.parametrize("ranks", [True, False])
@pytest.mark.parametrize("refresh_age", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_the_literal_reference(ranks: bool, refresh_age: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    capacity = 17
    buffer = empty_buffer(
        capacity=capacity, temperature=0.3, staleness_coef=0.3, use_ranks=ranks, refresh_age=refresh_age
    )
    reference = ReferenceBuffer(capacity, 0.3, 0.3, ranks, refresh_age)
    for cycle in range(40):
        n = 8
        slots = np.full(n, -1)
        parents = np.full(n, -1)
        if buffer.size and rng.random() < 0.6:
            uniforms = rng.random(n)
            slots = buffer.draw(uniforms)
            assert slots.tolist() == reference.draw(uniforms.tolist())
            kind = rng.random(n)
            parents = np.where(kind < 0.4, slots, -1)
            slots = np.where(kind < 0.7, -1, slots)
        else:
            buffer.age(n)
            reference.ages = [a + n if f else a for a, f in zip(reference.ages, reference.filled, strict=True)]
        names = (1000 * cycle + np.arange(n)).tolist()
        scores = np.where(rng.random(n) < 0.1, -INF, rng.integers(0, 20, n) / 16)
        maxima = rng.random(n)
        valid = rng.random(n) < 0.9
        update = (slots.tolist(), parents.tolist(), scores.tolist(), maxima.tolist(), valid.tolist())
        buffer.update(results(names, scores, maxima, slots, parents, valid))
        reference.update(names, *update)
        same_state(buffer, reference)


def test_saving_and_loading() -> None:
    buffer = filled_buffer()
    draw_3_0_0(buffer)
    saved = buffer.state_dict()
    copy = empty_buffer()
    copy.load_state_dict(saved)
    for target in (buffer, copy):
        target.draw(np.array([0.3, 0.8]))
        target.update(results([7, 8], [0.33, 0.44], [1.0, 1.0]))
    torch.testing.assert_close(copy.state_dict(), buffer.state_dict(), rtol=0, atol=0)
    assert saved["ages"].tolist() == [0, 3, 3, 2], "what was saved does not follow later changes"
    with pytest.raises(ValueError, match="plr_buffer_size"):
        empty_buffer(capacity=5).load_state_dict(saved)


def test_levels_of_another_kind_are_refused() -> None:
    buffer, small = empty_buffer(), filled_buffer().state_dict()
    small["levels"] = {"name": torch.zeros(4, 2, dtype=torch.int64)}
    with pytest.raises(ValueError, match="resume with the same sizes"):
        buffer.load_state_dict(small)
    assert buffer.size == 0


def test_every_flag_of_the_buffer_arrives() -> None:
    flags = {"plr_buffer_size": 7, "plr_temp": 0.3, "plr_staleness_coef": 0.2, "plr_min_fill_ratio": 0.4}
    run: Any = make_run(**REPLAY | flags | {"plr_use_score_ranks": False, "ued_score": "l1_value_loss"})
    assert vars(run.buffers[0].settings) == {
        "capacity": 7,
        "temperature": 0.3,
        "staleness_coef": 0.2,
        "use_ranks": False,
        "min_fill_ratio": 0.4,
        "uniform_fallback": True,
        "refresh_age": True,
    }


@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        ({"capacity": 0}, "plr_buffer_size"),
        ({"temperature": 0.0}, "plr_temp"),
        ({"staleness_coef": 1.5}, "plr_staleness_coef"),
        ({"min_fill_ratio": -0.1}, "plr_min_fill_ratio"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], flag: str) -> None:
    with pytest.raises(ValueError, match=flag):
        empty_buffer(**settings)
