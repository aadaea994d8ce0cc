"""Random AMaze levels: walls anywhere, then the agent, then the goal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator

from sample_factory.ued.envs.maze.level import NUM_DIRECTIONS, MazeLevels, check_maze_size, tile_pos
from sample_factory.ued.envs.sampling import draw_int, draw_tiles


class LevelSampler(Protocol):
    """Draws levels on the device of the generator."""

    def __call__(self, num_levels: int, generator: Generator) -> MazeLevels: ...


@dataclass(frozen=True)
class RandomWalls:
    """Independent random walls; nothing guarantees that the goal can be reached.

    `n_walls` tiles are drawn from all ``height * width`` tiles, with (`replace_wall_pos`) or without replacement. With
    `sample_n_walls` the number is itself uniform over ``0 .. n_walls`` and tiles are drawn without replacement.
    `narrow_wall_count` draws the number as minimax does: uniform over ``max(m, 1) for m in 0 .. n_walls - 1``.
    """

    height: int
    width: int
    n_walls: int
    replace_wall_pos: bool = False
    sample_n_walls: bool = False
    narrow_wall_count: bool = False

    def __post_init__(self) -> None:
        check_maze_size(self.height, self.width)
        tiles = self.height * self.width
        if not 0 <= self.n_walls <= tiles - 2:
            raise ValueError(
                f"n_walls has to be between 0 and {tiles - 2}, so that a {self.height}x{self.width} maze has room for "
                f"the agent and the goal, got {self.n_walls}"
            )

    def __call__(self, num_levels: int, generator: Generator) -> MazeLevels:
        num_tiles = self.height * self.width
        device = generator.device
        walls = torch.zeros(num_levels, num_tiles, dtype=torch.bool, device=device)
        if self.n_walls and self.replace_wall_pos and not self.sample_n_walls:
            walls.scatter_(1, draw_int(num_tiles, (num_levels, self.n_walls), generator), True)
        elif self.n_walls:
            order = draw_tiles(~walls, self.n_walls, generator)  # [B, n_walls]
            walls.scatter_(1, order, self._placed(num_levels, generator))

        agent_and_goal = draw_tiles(~walls, 2, generator)
        positions = tile_pos(agent_and_goal, self.width)  # [B, 2, 2]
        return MazeLevels(
            walls.view(num_levels, self.height, self.width),
            positions[:, 0],
            draw_int(NUM_DIRECTIONS, (num_levels,), generator),
            positions[:, 1],
        )

    def _placed(self, num_levels: int, generator: Generator) -> torch.Tensor:
        """[B, n_walls] bool: which of the drawn tiles become walls."""
        order = torch.arange(self.n_walls, device=generator.device).expand(num_levels, -1)
        if not self.sample_n_walls:
            return torch.ones_like(order, dtype=torch.bool)
        if self.narrow_wall_count:
            count = draw_int(self.n_walls, (num_levels, 1), generator).clamp_(min=1)
        else:
            count = draw_int(self.n_walls + 1, (num_levels, 1), generator)
        return order < count
