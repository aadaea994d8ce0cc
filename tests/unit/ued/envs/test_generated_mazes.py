"""Layouts letter by letter, generated mazes against plain generators, and limits of steps of their own."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from sample_factory.ued.envs.maze.dynamics import FORWARD
from sample_factory.ued.envs.maze.generated import Crossing, FourRooms
from sample_factory.ued.envs.maze.layouts import LAYOUTS
from sample_factory.ued.envs.registration import make_ued_env
from tests.unit.ued.envs.test_named_mazes import seeded

NUM_LEVELS = 4000
# sha256 of the rows of tiles, whose sizes, walls and paths are too few numbers to tell mazes apart
DIGESTS = {
    "SixteenRooms": "fcab9f93bee4b031",
    "SixteenRooms2": "f8d756873d6e9faf",
    "Labyrinth": "d09207564c09e667",
    "Labyrinth2": "c7c3678a715d5c7d",
    "LabyrinthFlipped": "ae02bb72e8e5d685",
    "StandardMaze": "c4d224117266b600",
    "StandardMaze2": "e718b3f2591bd3fc",
    "StandardMaze3": "1f7bfbe22873d631",
    "SmallCorridor": "f107072879326256",
    "LargeCorridor": "fe85667f9e25ff2a",
}


def test_layouts_are_those_of_minimax() -> None:
    assert {n: hashlib.sha256("\n".join(x.split()).encode()).hexdigest()[:16] for n, x in LAYOUTS.items()} == DIGESTS


@pytest.mark.parametrize(
    ("name", "limit"),
    [("Labyrinth", 450), ("LargeCorridor", 882), ("FourRooms", 250), ("Crossing", 484), ("PerfectMaze", 450)],
)
def test_rewards_are_scaled_by_the_limit_of_the_maze(name: str, limit: int) -> None:
    env: Any = make_ued_env(f"Maze-{name}")
    level = env.sample_levels(1, seeded())
    # a start beside the goal that looks at it
    x, y = level.goal_pos[0].tolist()
    ahead, direction = ((x - 1, y), 0) if x else ((x + 1, y), 2)
    walls = level.wall_map.clone()
    walls[0, ahead[1], ahead[0]] = False
    state = env.reset(
        replace(level, wall_map=walls, agent_pos=torch.tensor([ahead]), agent_dir=torch.tensor([direction]))
    )
    assert float(env.step(state, torch.tensor([FORWARD])).reward) == pytest.approx(1 - 0.9 / limit, abs=1e-7)


def shares(values: Tensor, kinds: int) -> list[float]:
    return (torch.bincount(values, minlength=kinds).double() / len(values)).tolist()


def test_agents_and_goals_in_four_rooms_are_anywhere() -> None:
    levels = FourRooms(5, 7)(NUM_LEVELS, seeded())
    rooms = torch.ones(5, 7, dtype=torch.bool)
    rooms[2], rooms[:, 3] = False, False
    expected = (rooms.double() / rooms.sum()).flatten().tolist()
    for pos in (levels.agent_pos, levels.goal_pos):
        assert shares(levels.tile_index(pos), 35) == pytest.approx(expected, abs=0.012)
    assert not bool((levels.agent_pos == levels.goal_pos).all(1).any())


@pytest.mark.parametrize("name", ["FourRooms", "PerfectMaze"])
def test_agents_look_in_any_direction(name: str) -> None:
    directions = make_ued_env(f"Maze-{name}").sample_levels(NUM_LEVELS, seeded()).agent_dir
    assert shares(directions, 4) == pytest.approx([0.25] * 4, abs=0.025)


def test_agents_and_goals_in_perfect_mazes_are_on_any_free_tile() -> None:
    levels = make_ued_env("Maze-PerfectMaze").sample_levels(NUM_LEVELS, seeded())
    # the share of the 49 cells among the 97 free tiles
    for pos in (levels.agent_pos, levels.goal_pos):
        on_cells = ((pos % 2) == 0).all(1).double().mean()
        assert float(on_cells) == pytest.approx(49 / 97, abs=0.025)


def plain_crossing(side: int, num_crossings: int, generator: Generator) -> Tensor:
    """[side, side] bool walls, one random choice after the other."""

    def shuffled(values: list[bool]) -> list[bool]:
        return [values[i] for i in torch.randperm(len(values), generator=generator).tolist()]

    lines = (side - 1) // 2
    num_rows = sum(shuffled([False] * lines + [True] * lines)[:num_crossings])
    walls = torch.zeros(side, side, dtype=torch.bool)
    for count, view in ((num_rows, walls), (num_crossings - num_rows, walls.T)):
        entries = shuffled([i < count for i in range(lines) for _ in range(2)])
        for line in range(1, side, 2):
            if entries[line]:
                view[line] = True
    x = y = 0
    behind_wall, went_down = bool(walls[0, 0]), False
    walls[0, 0] = False
    for _ in range(2 * side - 2):
        down = went_down if behind_wall else bool(torch.randint(2, (1,), generator=generator))
        if (down and y == side - 1) or (not down and x == side - 1):
            down = not down
        x, y, went_down = x + (not down), y + down, down
        behind_wall = bool(walls[y, x])
        walls[y, x] = False
    return walls


def test_crossings_have_the_distribution_of_a_plain_generator() -> None:
    generator = seeded(1)
    plain = torch.stack([plain_crossing(9, 5, generator) for _ in range(NUM_LEVELS)])
    batched = Crossing(9, 9, 5)(NUM_LEVELS, seeded()).wall_map
    assert batched.double().mean(0).flatten().tolist() == pytest.approx(
        plain.double().mean(0).flatten().tolist(), abs=0.04
    )
    counts = [walls.sum((1, 2)).double() for walls in (plain, batched)]
    assert float(counts[0].mean()) == pytest.approx(float(counts[1].mean()), rel=0.01)
    assert float(counts[0].std()) == pytest.approx(float(counts[1].std()), rel=0.06)
