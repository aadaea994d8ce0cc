"""Mazes as text, for terminals."""

from __future__ import annotations

from torch import Tensor

from sample_factory.ued.envs.maze.env import MazeEnv
from sample_factory.ued.envs.maze.level import DIRECTION_MARKS
from sample_factory.ued.envs.maze.observation import view_offsets
from sample_factory.ued.envs.maze.state import DIR, FIRST_AGENT, POS, MazeState

# two characters per tile are about as wide as high; numbered as in the state, agents last
_MARKS = ("  ", "##", "G ", *(mark + " " for mark in DIRECTION_MARKS))


def maze_text(env: MazeEnv, state: MazeState, index: int = 0) -> str:
    """The maze with its border of walls, the goal ``G`` and the agent ``> v < ^``."""
    walker, grid = state.walker[index], env.grid
    cells = state.tiles[index].clone()
    cells[walker[POS]] = FIRST_AGENT + walker[DIR]
    border = grid.margin - 1
    rows = cells.view(grid.padded_height, grid.padded_width)
    return _text(rows[border : border + grid.height + 2, border : border + grid.width + 2])


def view_text(env: MazeEnv, state: MazeState, index: int = 0) -> str:
    """What the agent sees, as text."""
    return _text(view_cells(env, state, index))


def view_cells(env: MazeEnv, state: MazeState, index: int = 0) -> Tensor:
    """[k, k] int64 kinds of the tiles the agent sees: it is in the middle of the last row and looks up."""
    walker, size = state.walker[index], env.agent_view_size
    offsets = view_offsets(size, env.grid.padded_width)[int(walker[DIR])]
    cells = state.tiles[index][walker[POS] + offsets.to(walker.device)].view(size, size).clone()
    cells[-1, size // 2] = FIRST_AGENT + DIRECTION_MARKS.index("^")
    return cells


def _text(cells: Tensor) -> str:
    return "\n".join("".join(_MARKS[cell] for cell in row).rstrip() for row in cells.tolist())
