"""Shortest paths: equal to a plain breadth-first search."""

from __future__ import annotations

import pytest
import torch

from sample_factory.ued.envs.maze.level import levels_from_text
from sample_factory.ued.envs.maze.metrics import maze_metrics
from sample_factory.ued.envs.registration import make_ued_env
from tests.unit.ued.envs.plain_maze import PlainMaze


@pytest.mark.parametrize(
    ("height", "width", "n_walls", "num_levels"),
    [(13, 13, 60, 400), (13, 13, 90, 200), (3, 17, 12, 200), (1, 9, 2, 50)],
)
def test_equal_to_plain_search(height: int, width: int, n_walls: int, num_levels: int) -> None:
    generator = torch.Generator().manual_seed(1)
    env = make_ued_env("Maze", height=height, width=width, n_walls=n_walls)
    levels = env.sample_levels(num_levels, generator)
    expected = torch.tensor([PlainMaze.of(levels, i, 1).shortest_path() for i in range(num_levels)])
    metrics = env.level_metrics(levels)
    assert torch.equal(metrics["shortest_path_length"], expected)
    assert torch.equal(metrics["passable"], expected > 0)
    assert torch.equal(metrics["n_walls"], levels.wall_map.sum((1, 2)))
    assert 0 < int(metrics["passable"].sum()) < num_levels


def test_batches_do_not_leak_into_each_other() -> None:
    levels = levels_from_text([">#G", ">.G", ">#G"])
    assert maze_metrics(levels)["shortest_path_length"].tolist() == [0, 2, 0]


@pytest.mark.parametrize("length", [2, 8, 9, 10, 16, 17])
def test_paths_as_long_as_the_search(length: int) -> None:
    levels = levels_from_text([">" + "." * (length - 2) + "G"])
    assert maze_metrics(levels)["shortest_path_length"].tolist() == [length - 1]
