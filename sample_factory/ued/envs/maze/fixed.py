"""Mazes that are always the same, except perhaps for the goal and the direction of the start."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Generator

from sample_factory.ued.envs.maze.layouts import LAYOUTS
from sample_factory.ued.envs.maze.level import DIRECTION_MARKS, NUM_DIRECTIONS, MazeLevels
from sample_factory.ued.envs.sampling import draw_int


@dataclass(frozen=True)
class FixedMaze:
    """Draws the same walls and start each time, and one of `goals` uniformly."""

    walls: tuple[tuple[bool, ...], ...]
    start: tuple[int, int]
    direction: int
    goals: tuple[tuple[int, int], ...]
    random_agent_dir: bool = False

    @property
    def height(self) -> int:
        return len(self.walls)

    @property
    def width(self) -> int:
        return len(self.walls[0])

    @classmethod
    def from_layout(cls, name: str) -> FixedMaze:
        """The maze `name` of :data:`LAYOUTS`."""
        rows = LAYOUTS[name].split()
        tiles = [(tile, (x, y)) for y, row in enumerate(rows) for x, tile in enumerate(row)]
        ((mark, start),) = [(tile, pos) for tile, pos in tiles if tile in DIRECTION_MARKS]
        goals = tuple(pos for tile, pos in tiles if tile == "G")
        walls = tuple(tuple(tile == "#" for tile in row) for row in rows)
        return cls(walls, start, DIRECTION_MARKS.index(mark), goals)

    def with_random_direction(self, random_agent_dir: bool) -> FixedMaze:
        return replace(self, random_agent_dir=random_agent_dir)

    def __call__(self, num_levels: int, generator: Generator) -> MazeLevels:
        device = generator.device
        goals = torch.tensor(self.goals, device=device)
        if len(self.goals) > 1:
            goal = goals[draw_int(len(self.goals), (num_levels,), generator)]
        else:
            goal = goals.repeat(num_levels, 1)
        if self.random_agent_dir:
            direction = draw_int(NUM_DIRECTIONS, (num_levels,), generator)
        else:
            direction = torch.full((num_levels,), self.direction, device=device)
        return MazeLevels(
            torch.tensor(self.walls, device=device).repeat(num_levels, 1, 1),
            torch.tensor(self.start, device=device).repeat(num_levels, 1),
            direction,
            goal,
        )
