"""Complexity of a batch in a few numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sample_factory.ued.curricula.level_metrics import check_same_kind, example_level, metric_names, summarise
from tests.unit.ued.curricula.test_playing import seeded, small_maze

METRICS = {
    "n_walls": torch.tensor([10, 20, 60]),
    "shortest_path_length": torch.tensor([5, 9, 0]),
    "passable": torch.tensor([True, True, False]),
}


def test_means_over_levels_that_can_be_solved() -> None:
    assert summarise(METRICS) == {"n_walls": 15.0, "shortest_path_length": 7.0, "passable_ratio": 2 / 3}


def test_the_maximum_is_over_all_levels() -> None:
    assert summarise(METRICS, maximum="shortest_path_length")["shortest_path_length"] == 9.0


def test_a_batch_nobody_can_solve_has_no_means() -> None:
    nothing = METRICS | {"passable": torch.zeros(3, dtype=torch.bool)}
    assert summarise(nothing) == {"n_walls": None, "shortest_path_length": None, "passable_ratio": 0.0}


def test_environments_that_cannot_tell_count_all_levels() -> None:
    metrics: dict[str, Tensor] = {"height": torch.tensor([1.0, 2.0])}
    assert summarise(metrics) == {"height": 1.5}


def test_names_and_examples_cost_no_random_numbers() -> None:
    env: Any = small_maze()
    generator = seeded(0)
    state = generator.get_state()
    assert metric_names(env) == ["n_walls", "passable_ratio", "shortest_path_length"]
    assert len(example_level(env)) == 1
    assert torch.equal(generator.get_state(), state)


def test_saved_levels_have_to_be_of_the_same_kind() -> None:
    example = small_maze().sample_levels(1, seeded(0)).as_dict()
    saved = small_maze(n_walls=3).sample_levels(9, seeded(1)).as_dict()
    check_same_kind(example, saved)
    for other in (
        small_maze(width=7).sample_levels(9, seeded(1)).as_dict(),
        small_maze(height=7).sample_levels(9, seeded(1)).as_dict(),
        {**saved, "lava": torch.zeros(9)},
        {name: tensor for name, tensor in saved.items() if name != "wall_map"},
    ):
        with pytest.raises(ValueError, match=r"the saved levels consist of .* this environment of .*; resume with the"):
            check_same_kind(example, other)
