"""Test mazes that are generated anew for every level: four rooms, crossings, perfect mazes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from sample_factory.ued.envs.maze.level import NUM_DIRECTIONS, MazeLevels, tile_pos
from sample_factory.ued.envs.maze.perfect import spanning_tree_walls
from sample_factory.ued.envs.sampling import draw_int, draw_tiles


def _check_odd(what: str, height: int, width: int, least: int) -> None:
    if height % 2 == 0 or width % 2 == 0 or min(height, width) < least:
        raise ValueError(f"{what} needs odd height and width of at least {least}, got {height}x{width}")


def _place_anywhere(walls: Tensor, free: Tensor, generator: Generator) -> MazeLevels:
    """Levels with the goal uniform over `free` [B, H, W], the agent over the rest of it, in any direction."""
    batch, _, width = walls.shape
    goal_and_agent = tile_pos(draw_tiles(free.flatten(1), 2, generator), width)
    direction = draw_int(NUM_DIRECTIONS, (batch,), generator)
    return MazeLevels(walls, goal_and_agent[:, 1], direction, goal_and_agent[:, 0])


@dataclass(frozen=True)
class PerfectMaze:
    """Mazes without loops: exactly one path between any two free tiles. Agent and goal are anywhere."""

    height: int
    width: int

    def __post_init__(self) -> None:
        _check_odd("a perfect maze", self.height, self.width, 3)

    def __call__(self, num_levels: int, generator: Generator) -> MazeLevels:
        walls = spanning_tree_walls(num_levels, self.height, self.width, generator)
        return _place_anywhere(walls, ~walls, generator)


@dataclass(frozen=True)
class FourRooms:
    """A cross of walls with one door in each of its four arms. Agent and goal are never in a door."""

    height: int
    width: int

    def __post_init__(self) -> None:
        _check_odd("four rooms", self.height, self.width, 3)

    def __call__(self, num_levels: int, generator: Generator) -> MazeLevels:
        row, column = self.height // 2, self.width // 2
        walls = torch.zeros(num_levels, self.height, self.width, dtype=torch.bool, device=generator.device)
        walls[:, row, :] = True
        walls[:, :, column] = True
        rooms = ~walls
        level = torch.arange(num_levels, device=generator.device)
        for first in (0, column + 1):
            walls[level, row, first + draw_int(column, (num_levels,), generator)] = False
        for first in (0, row + 1):
            walls[level, first + draw_int(row, (num_levels,), generator), column] = False
        return _place_anywhere(walls, rooms, generator)


@dataclass(frozen=True)
class Crossing:
    """Walls across the maze in some odd rows and columns, and one monotone path cut through all of them.

    From corner to corner in ``height + width - 2`` moves. `num_crossings` odd rows and columns are chosen together, but
    which and how many of them become walls is shuffled once more, as in minimax (so results stay comparable).
    """

    height: int
    width: int
    num_crossings: int
    random_agent_dir: bool = False

    def __post_init__(self) -> None:
        _check_odd("a crossing", self.height, self.width, 3)
        most = (self.height - 1) // 2 + (self.width - 1) // 2
        if not 0 <= self.num_crossings <= most:
            raise ValueError(f"num_crossings has to be between 0 and {most}, got {self.num_crossings}")

    def __call__(self, num_levels: int, generator: Generator) -> MazeLevels:
        device = generator.device
        rows, columns = (self.height - 1) // 2, (self.width - 1) // 2
        is_column = torch.arange(rows + columns, device=device) >= rows
        everything = torch.ones(num_levels, rows + columns, dtype=torch.bool, device=device)
        chosen = draw_tiles(everything, rows + columns, generator)[:, : self.num_crossings]
        num_row_walls = is_column[chosen].sum(1)
        row_walls = self._shuffled_lines(num_row_walls, rows, generator)
        column_walls = self._shuffled_lines(self.num_crossings - num_row_walls, columns, generator)
        walls = row_walls[:, :, None] | column_walls[:, None, :]
        self._cut_path(walls, generator)

        direction = torch.zeros(num_levels, dtype=torch.int64, device=device)
        if self.random_agent_dir:
            direction = draw_int(NUM_DIRECTIONS, (num_levels,), generator)
        start = torch.zeros(num_levels, 2, dtype=torch.int64, device=device)
        goal = torch.tensor([self.width - 1, self.height - 1], device=device).repeat(num_levels, 1)
        return MazeLevels(walls, start, direction, goal)

    @staticmethod
    def _shuffled_lines(count: Tensor, num_lines: int, generator: Generator) -> Tensor:
        """[B, 2 * num_lines + 1] bool: the lines that are walls, odd ones only."""
        batch = len(count)
        taken = torch.arange(num_lines, device=count.device) < count[:, None]
        twice = taken.repeat_interleave(2, dim=1)
        shuffled = twice.gather(1, draw_tiles(torch.ones_like(twice), 2 * num_lines, generator))
        lines = torch.zeros(batch, 2 * num_lines + 1, dtype=torch.bool, device=count.device)
        lines[:, 1::2] = shuffled[:, 1::2]
        return lines

    def _cut_path(self, walls: Tensor, generator: Generator) -> None:
        """Clear a random monotone path. Behind a wall it goes straight on, so that it never runs along inside one."""
        num_levels = len(walls)
        level = torch.arange(num_levels, device=walls.device)
        x = torch.zeros(num_levels, dtype=torch.int64, device=walls.device)
        y = torch.zeros_like(x)
        in_wall = walls[level, y, x]
        went_down = torch.zeros_like(in_wall)
        walls[level, y, x] = False
        coins = draw_int(2, (self.height + self.width - 2, num_levels), generator).bool()
        for coin in coins:
            down = torch.where(in_wall, went_down, coin)
            down = torch.where(down, y < self.height - 1, x == self.width - 1)
            y += down
            x += ~down
            in_wall = walls[level, y, x]
            walls[level, y, x] = False
            went_down = down
