"""State of B mazes being walked, and how levels become states and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sample_factory.ued.envs.maze.level import MazeLevels
from sample_factory.ued.envs.tensor_struct import TensorStruct

EMPTY, WALL, GOAL, FIRST_AGENT = 0, 1, 2, 3
# Columns of MazeState.walker
POS, DIR, TIME, START_POS, START_DIR, GOAL_POS = range(6)


@dataclass(frozen=True)
class MazeState(TensorStruct):
    """Two tensors only: writing a start state over a finished row is two index writes.

    Both are int64, because tensors of one kind are added about twice as fast as mixed ones at usual batch sizes.

    Positions are indices into the row of `tiles`, the maze with its surroundings (see :class:`MazeGrid`).
    """

    tiles: Tensor  # [B, Hp * Wp] int64: EMPTY, WALL or GOAL; the agent is not drawn
    walker: Tensor  # [B, 6] int64: position, direction, time, start position, start direction, goal position

    @property
    def agent_dir(self) -> Tensor:
        return self.walker[:, DIR]

    @property
    def time(self) -> Tensor:
        """[B] int64 steps taken."""
        return self.walker[:, TIME]


class MazeGrid:
    """Padded storage of mazes: `margin` tiles of wall on every side, so that no view ever leaves the row."""

    def __init__(self, height: int, width: int, margin: int, device: torch.device | str) -> None:
        self.height, self.width, self.margin = height, width, margin
        self.padded_height, self.padded_width = height + 2 * margin, width + 2 * margin
        self.num_tiles = self.padded_height * self.padded_width
        self._origin = margin * self.padded_width + margin
        self._all_wall = torch.full([self.num_tiles], WALL, dtype=torch.int64, device=device)

    def index(self, pos: Tensor) -> Tensor:
        """Storage index [...] of positions [..., 2] (x, y) in the interior."""
        return torch.add(pos[..., 0], pos[..., 1], alpha=self.padded_width) + self._origin

    def position(self, index: Tensor) -> Tensor:
        """Inverse of :meth:`index`."""
        return torch.stack([index % self.padded_width, index // self.padded_width], dim=-1) - self.margin

    def interior(self, tiles: Tensor) -> Tensor:
        """View [B, H, W] of `tiles` [B, Hp * Wp]."""
        m = self.margin
        padded = tiles.view(-1, self.padded_height, self.padded_width)
        return padded[:, m : m + self.height, m : m + self.width]

    def start(self, levels: MazeLevels) -> MazeState:
        """Start states. The goal is drawn over walls, and the tile of the agent counts as free."""
        size = (levels.height, levels.width)
        if size != (self.height, self.width):
            raise ValueError(f"levels of {size[0]}x{size[1]} tiles in an environment of {self.height}x{self.width}")
        tiles = self._all_wall.repeat(len(levels), 1)
        self.interior(tiles).copy_(levels.wall_map)
        agent, goal = self.index(levels.agent_pos), self.index(levels.goal_pos)
        tiles.scatter_(1, agent[:, None], EMPTY)
        tiles.scatter_(1, goal[:, None], GOAL)
        direction = levels.agent_dir
        return MazeState(tiles, torch.stack([agent, direction, torch.zeros_like(agent), agent, direction, goal], dim=1))

    def levels(self, state: MazeState) -> MazeLevels:
        """The levels `state` started from."""
        walker = state.walker
        return MazeLevels(
            self.interior(state.tiles) == WALL,
            self.position(walker[:, START_POS]),
            walker[:, START_DIR].clone(),
            self.position(walker[:, GOAL_POS]),
        )
