"""The distribution of random levels. Reference numbers were measured with minimax 0.2.0 on 3000 to 4000 samples."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sample_factory.ued.envs.maze.level import check_maze_levels
from sample_factory.ued.envs.registration import make_ued_env

NUM_LEVELS = 20_000
WITH_REPLACEMENT: dict[str, Any] = {"n_walls": 60, "replace_wall_pos": True}
SAMPLED: dict[str, Any] = {"n_walls": 60, "sample_n_walls": True}
# options, (fewest, mean, most walls), solvable share, mean path, (50 %, 90 %, 100 %) of paths
TABLE: list[tuple[dict[str, Any], tuple[int, float, int], float, float, tuple[int, int, int]]] = [
    (WITH_REPLACEMENT, (42, 50.6, 60), 0.846, 10.6, (10, 18, 37)),
    ({"n_walls": 60}, (60, 60.0, 60), 0.650, 10.5, (10, 19, 39)),
    (SAMPLED, (0, 30.0, 60), 0.937, 9.5, (9, 16, 34)),
    # (1 + 1 + 2 + ... + 59) / 60 = 29.5, of which the reference's 30.0 is a sample
    (SAMPLED | {"compat": "minimax"}, (1, 29.5, 59), 0.937, 9.5, (9, 16, 34)),
    ({"n_walls": 25, "replace_wall_pos": True}, (18, 23.3, 25), 0.995, 9.1, (9, 15, 23)),
    ({"n_walls": 0}, (0, 0.0, 0), 1.0, 8.6, (8, 14, 22)),
]


@pytest.mark.parametrize(("options", "walls", "solvable", "path", "percentiles"), TABLE)
def test_distribution(
    options: dict[str, Any],
    walls: tuple[int, float, int],
    solvable: float,
    path: float,
    percentiles: tuple[int, int, int],
) -> None:
    generator = torch.Generator().manual_seed(5)
    env = make_ued_env("Maze", **options)
    levels = env.sample_levels(NUM_LEVELS, generator)
    check_maze_levels(levels)
    metrics = env.level_metrics(levels)

    counts = metrics["n_walls"].double()
    fewest, mean, most = walls
    # the reference saw fewer samples, so its extremes may be closer to the mean
    assert counts.min() <= fewest and counts.max() >= most - 1 and counts.max() <= options["n_walls"]
    assert float(counts.mean()) == pytest.approx(mean, abs=0.3)
    assert float(metrics["passable"].double().mean()) == pytest.approx(solvable, abs=0.02)
    lengths = metrics["shortest_path_length"][metrics["passable"]].double()
    assert float(lengths.mean()) == pytest.approx(path, abs=0.25)
    median, most_paths, longest = percentiles
    assert [int(lengths.quantile(q)) for q in (0.5, 0.9)] == pytest.approx((median, most_paths), abs=1)
    assert longest <= lengths.max() <= longest + 20


def test_the_sampled_number_of_walls_has_the_stated_ends() -> None:
    for compat, ends in (("none", (0, 60)), ("minimax", (1, 59))):
        env = make_ued_env("Maze", **SAMPLED, compat=compat)
        counts = env.sample_levels(NUM_LEVELS, torch.Generator().manual_seed(5)).wall_map.sum((1, 2))
        assert (int(counts.min()), int(counts.max())) == ends


def test_mean_number_of_walls_with_replacement_is_exact() -> None:
    generator = torch.Generator().manual_seed(6)
    levels = make_ued_env("Maze", **WITH_REPLACEMENT).sample_levels(NUM_LEVELS, generator)
    expected = 169 * (1 - (168 / 169) ** 60)
    assert float(levels.wall_map.sum((1, 2)).double().mean()) == pytest.approx(expected, abs=0.1)


def count_of_each(values: torch.Tensor, kinds: int) -> list[float]:
    """Share of each of ``0 .. kinds - 1``."""
    return (torch.bincount(values, minlength=kinds).double() / len(values)).tolist()


@pytest.mark.parametrize("compat", ["none", "minimax"])
def test_sampled_number_of_walls_is_uniform(compat: str) -> None:
    generator = torch.Generator().manual_seed(8)
    env = make_ued_env("Maze", height=4, width=4, n_walls=4, sample_n_walls=True, compat=compat)
    counts = env.sample_levels(NUM_LEVELS, generator).wall_map.sum((1, 2))
    shares = {"none": [0.2] * 5, "minimax": [0.0, 0.5, 0.25, 0.25, 0.0]}[compat]
    assert count_of_each(counts, 5) == pytest.approx(shares, abs=0.015)


def test_positions_and_directions_are_uniform() -> None:
    generator = torch.Generator().manual_seed(9)
    levels = make_ued_env("Maze", height=2, width=3, n_walls=2).sample_levels(NUM_LEVELS, generator)
    for pos in (levels.agent_pos, levels.goal_pos):
        assert count_of_each(levels.tile_index(pos), 6) == pytest.approx([1 / 6] * 6, abs=0.015)
    assert count_of_each(levels.agent_dir, 4) == pytest.approx([0.25] * 4, abs=0.015)
    for wall in levels.wall_map.flatten(1).double().mean(0).tolist():
        assert wall == pytest.approx(1 / 3, abs=0.015)


def test_same_seed_same_levels() -> None:
    env = make_ued_env("Maze", **WITH_REPLACEMENT)
    first, second, other = (env.sample_levels(4, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(value, getattr(second, name)) for name, value in first.as_dict().items())
    assert not torch.equal(first.wall_map, other.wall_map)
