"""What the agent sees: codes of tiles, and the tiles of its view."""

from __future__ import annotations

import torch
from torch import Tensor

from sample_factory.ued.envs.maze.level import DIRECTIONS, NUM_DIRECTIONS

# MiniGrid's (object, colour, state) of empty, wall, goal, and the agent facing each direction.
_CODES = ((1, 0, 0), (2, 5, 0), (8, 1, 0), *((10, 0, direction) for direction in range(NUM_DIRECTIONS)))
CODE_SCALE = 10


def tile_codes(normalize: bool, one_hot: bool = False) -> Tensor:
    """[7, C] code of each kind of tile: uint8 codes, or float32 divided by 10; one-hot codes are never divided."""
    if one_hot:
        codes = torch.eye(len(_CODES))
        return codes if normalize else codes.to(torch.uint8)
    codes = torch.tensor(_CODES)
    return codes.float() / CODE_SCALE if normalize else codes.to(torch.uint8)


def view_offsets(view_size: int, row_length: int) -> Tensor:
    """[4, k * k] int64: for each direction, the storage offset from the agent's tile of every tile of its view.

    Cell (r, c) of the view is ``k - 1 - r`` tiles ahead and ``c - k // 2`` tiles to the right of the agent.
    """
    offsets = torch.empty(NUM_DIRECTIONS, view_size, view_size, dtype=torch.int64)
    for direction, (dx, dy) in enumerate(DIRECTIONS):
        right_x, right_y = DIRECTIONS[(direction + 1) % NUM_DIRECTIONS]
        for row in range(view_size):
            for column in range(view_size):
                ahead, right = view_size - 1 - row, column - view_size // 2
                x, y = ahead * dx + right * right_x, ahead * dy + right * right_y
                offsets[direction, row, column] = y * row_length + x
    return offsets.flatten(1)
