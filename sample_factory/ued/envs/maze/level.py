"""Levels of AMaze: walls, and where the agent and the goal are. Coordinates are (x, y), y grows downwards.

Directions: 0 right (+x), 1 down (+y), 2 left, 3 up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sample_factory.ued.envs.tensor_struct import TensorStruct

NUM_DIRECTIONS = 4
# (dx, dy) of each direction index
DIRECTIONS = ((1, 0), (0, 1), (-1, 0), (0, -1))
DIRECTION_MARKS = ">v<^"


@dataclass(frozen=True)
class MazeLevels(TensorStruct):
    """B levels of the same size. The border of walls around the interior is not part of them."""

    wall_map: Tensor  # [B, H, W] bool, indexed [y, x]
    agent_pos: Tensor  # [B, 2] int64 (x, y)
    agent_dir: Tensor  # [B] int64
    goal_pos: Tensor  # [B, 2] int64 (x, y)

    @property
    def height(self) -> int:
        return self.wall_map.shape[1]

    @property
    def width(self) -> int:
        return self.wall_map.shape[2]

    def tile_index(self, pos: Tensor) -> Tensor:
        """Number ``y * W + x`` of positions [..., 2]."""
        return pos[..., 1] * self.width + pos[..., 0]


def check_maze_size(height: int, width: int) -> None:
    """ValueError unless there is room for an agent and a goal."""
    if height < 1 or width < 1 or height * width < 2:
        raise ValueError(f"height x width needs room for an agent and a goal (2 tiles), got {height} x {width}")


def tile_pos(index: Tensor, width: int) -> Tensor:
    """Positions [..., 2] (x, y) of tile numbers [...]."""
    return torch.stack([index % width, index // width], dim=-1)


def check_maze_levels(levels: MazeLevels) -> None:
    """ValueError if a start or goal lies outside, in a wall, or if both are on one tile; names the first such level."""
    height, width = levels.height, levels.width
    size = torch.tensor([width, height], device=levels.wall_map.device)
    for what, pos in (("agent", levels.agent_pos), ("goal", levels.goal_pos)):
        _fail_at(((pos < 0) | (pos >= size)).any(-1), f"the {what} is outside of the {height}x{width} maze")
        rows = torch.arange(len(levels), device=pos.device)
        _fail_at(levels.wall_map[rows, pos[:, 1], pos[:, 0]], f"the {what} is in a wall")
    _fail_at((levels.agent_pos == levels.goal_pos).all(-1), "agent and goal are on the same tile")
    _fail_at((levels.agent_dir < 0) | (levels.agent_dir >= NUM_DIRECTIONS), "the direction is not one of 0, 1, 2, 3")


def _fail_at(wrong: Tensor, message: str) -> None:
    if bool(wrong.any()):
        raise ValueError(f"level {int(wrong.int().argmax())}: {message}")


def levels_from_text(texts: Sequence[str], device: torch.device | str = "cpu") -> MazeLevels:
    """Levels drawn as text, one line per row: ``#`` wall, ``.`` free, ``> v < ^`` the agent, ``G`` the goal.

    ValueError unless every text is a rectangle of the same size with exactly one agent and one goal.
    """
    rows = [text.split() for text in texts]
    if not rows or not rows[0]:
        raise ValueError("no maze to read: the text is empty")
    height, width = len(rows[0]), len(rows[0][0])
    walls, agents, directions, goals = [], [], [], []
    for number, lines in enumerate(rows):
        if len(lines) != height or any(len(line) != width for line in lines):
            raise ValueError(f"level {number}: every row has to have {width} tiles and every maze {height} rows")
        tiles = [(tile, (x, y)) for y, line in enumerate(lines) for x, tile in enumerate(line)]
        agent = [(DIRECTION_MARKS.index(tile), pos) for tile, pos in tiles if tile in DIRECTION_MARKS]
        goal = [pos for tile, pos in tiles if tile == "G"]
        unknown = {tile for tile, _ in tiles} - set("#.G" + DIRECTION_MARKS)
        if unknown:
            raise ValueError(f"level {number}: unknown tiles {''.join(sorted(unknown))!r}, use # . G > v < ^")
        if len(agent) != 1 or len(goal) != 1:
            raise ValueError(f"level {number}: needs one agent and one goal, has {len(agent)} and {len(goal)}")
        walls.append([[tile == "#" for tile in line] for line in lines])
        directions.append(agent[0][0])
        agents.append(agent[0][1])
        goals.append(goal[0])
    return MazeLevels(
        torch.tensor(walls, device=device),
        torch.tensor(agents, device=device),
        torch.tensor(directions, device=device),
        torch.tensor(goals, device=device),
    )


def level_to_text(levels: MazeLevels, index: int = 0) -> str:
    """Inverse of :func:`levels_from_text` for one level."""
    tiles = [["#" if wall else "." for wall in row] for row in levels.wall_map[index].tolist()]
    for mark, (x, y) in (
        (DIRECTION_MARKS[int(levels.agent_dir[index])], levels.agent_pos[index].tolist()),
        ("G", levels.goal_pos[index].tolist()),
    ):
        if 0 <= y < levels.height and 0 <= x < levels.width:
            tiles[y][x] = mark
    return "\n".join("".join(row) for row in tiles)
