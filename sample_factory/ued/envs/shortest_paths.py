"""Exact lengths of shortest paths in batches of grids, by breadth-first search of all grids at once."""

from __future__ import annotations

import torch
from torch import Tensor

_CHECK_EVERY = 8


def shortest_path_lengths(free: Tensor, start: Tensor, goal: Tensor) -> Tensor:
    """[B] int64: moves between 4-neighbours of `free` [B, H, W] bool from `start` to `goal` [B, 2] (x, y).

    0 if there is no path (or start and goal are one tile). Start and goal count as free.

    All grids lie in one flat vector, each inside a border of blocked tiles, so one wave step is four shifted unions for
    the whole batch; the number of steps is that of the longest path.
    """
    batch, height, width = free.shape
    row = width + 2
    stride = (height + 2) * row
    first = torch.arange(batch, device=free.device) * stride + row + 1
    start_index = first + start[:, 1] * row + start[:, 0]
    goal_index = first + goal[:, 1] * row + goal[:, 0]

    passable = torch.nn.functional.pad(free, (1, 1, 1, 1)).flatten()
    passable[start_index] = True
    passable[goal_index] = True
    # one extra row at both ends, so that shifts of a whole row stay inside
    wave = torch.zeros(batch * stride + 2 * row, dtype=torch.bool, device=free.device)
    end = row + batch * stride
    wave[row + start_index] = True
    following = wave.clone()
    lengths = torch.zeros(batch, dtype=torch.int64, device=free.device)
    reached = wave[row + goal_index]
    for step in range(height * width):
        if step % _CHECK_EVERY == 0 and step:
            settled = torch.equal(wave, following) or bool(reached.all())
            if settled:
                break
        lengths += ~reached
        inner = following[row:end]
        torch.bitwise_or(wave[row - 1 : end - 1], wave[row + 1 : end + 1], out=inner)
        inner |= wave[: end - row]
        inner |= wave[2 * row : end + row]
        inner &= passable
        inner |= wave[row:end]
        wave, following = following, wave
        reached = wave[row + goal_index]
    return lengths.masked_fill_(~reached, 0)
