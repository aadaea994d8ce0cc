"""Parents and their edited copies."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sample_factory.ued.curricula.mutation import Mutation, choose_parents
from sample_factory.ued.curricula.settings import MutationSettings
from tests.unit.ued.curricula.toy_levels import ToyLevels, toy_levels

INF = float("inf")


@pytest.mark.parametrize(
    ("criterion", "num_parents", "scores", "expected"),
    [
        ("batch", 0, [0.3, 0.1, 0.2, 0.4], [0, 1, 2, 3]),
        ("easy", 2, [0.3, 0.1, 0.2, 0.4], [1, 1, 2, 2]),
        ("hard", 2, [0.3, 0.1, 0.2, 0.4], [3, 3, 0, 0]),
        ("hard", 1, [0.3, 0.1, 0.4, 0.4], [2, 2, 2, 2]),
        ("easy", 2, [-INF, 0.1, -INF, 0.4], [1, 1, 3, 3]),
        ("easy", 4, [-INF, 0.1, 0.2, 0.4], [1, 2, 3, 0]),
    ],
)
def test_choice_of_parents(criterion: str, num_parents: int, scores: list[float], expected: list[int]) -> None:
    assert choose_parents(criterion, num_parents, np.array(scores)).tolist() == expected


def tenfold(levels: ToyLevels, num_edits: int, generator: torch.Generator) -> ToyLevels:
    return ToyLevels(levels.name * 10 + num_edits)


@pytest.mark.parametrize(("index_by_slot", "expected"), [(False, [23, 23, 43, 43]), (True, [43, 43, 23, 23])])
def test_mutants_of_hard_levels(index_by_slot: bool, expected: list[int]) -> None:
    mutation: Mutation[ToyLevels] = Mutation(MutationSettings("default", 3, "hard", 2), tenfold, index_by_slot)
    slots = np.array([0, 7, 3, 1])  # 7 lies behind the end of the batch
    offspring = mutation.of(toy_levels([1, 2, 3, 4]), slots, np.array([0.1, 0.9, 0.2, 0.8]), torch.Generator())
    assert offspring.parents.tolist() == [7, 7, 1, 1]
    assert offspring.levels.name.tolist() == expected


def test_minimax_mutates_a_whole_batch_as_it_is() -> None:
    mutation: Mutation[ToyLevels] = Mutation(MutationSettings("default", 1), tenfold, index_by_slot=True)
    offspring = mutation.of(toy_levels([1, 2]), np.array([5, 3]), np.array([0.1, 0.9]), torch.Generator())
    assert offspring.levels.name.tolist() == [11, 21]
    assert offspring.parents.tolist() == [5, 3]


def test_new_levels_cannot_be_parents() -> None:
    mutation: Mutation[ToyLevels] = Mutation(MutationSettings("default", 1), tenfold)
    with pytest.raises(ValueError, match="replayed"):
        mutation.of(toy_levels([1, 2]), np.array([5, -1]), np.array([0.1, 0.9]), torch.Generator())


def test_unknown_criterion() -> None:
    with pytest.raises(ValueError, match="plr_mutation_criterion"):
        MutationSettings("default", 1, "best")
