"""Spanning trees of grids by randomised depth-first search, for a batch of mazes in lockstep."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from sample_factory.ued.envs.sampling import draw_int


def spanning_tree_walls(num_mazes: int, height: int, width: int, generator: Generator) -> Tensor:
    """[B, H, W] bool walls of mazes whose free tiles form a tree; `height` and `width` are odd.

    The cells of the tree are the tiles with even coordinates. Starting anywhere, the search goes on to a uniformly
    chosen neighbour that was not visited yet and opens the wall between them, or steps back when there is none.
    """
    device = generator.device
    rows, columns = (height + 1) // 2, (width + 1) // 2
    parent = _search(num_mazes, rows, columns, generator)

    row_length = columns + 2
    grid = torch.arange((rows + 2) * row_length, device=device).view(rows + 2, row_length)
    cell = grid[1:-1, 1:-1].flatten()  # [cells]
    up_to = parent[:, cell]  # [B, cells] the cell each was reached from, itself at the root

    def coordinates(index: Tensor) -> tuple[Tensor, Tensor]:
        return index // row_length - 1, index % row_length - 1

    (y, x), (parent_y, parent_x) = coordinates(cell), coordinates(up_to)
    walls = torch.ones(num_mazes, height * width, dtype=torch.bool, device=device)
    walls.view(num_mazes, height, width)[:, ::2, ::2] = False
    # cell (y, x) lies on tile (2y, 2x), so the tile between two cells is the sum of their coordinates
    walls.scatter_(1, (y + parent_y) * width + x + parent_x, False)
    return walls.view(num_mazes, height, width)


def _search(num_mazes: int, rows: int, columns: int, generator: Generator) -> Tensor:
    """[B, (rows + 2) * (columns + 2)] int64: the cell from which each cell was reached; the root points to itself.

    Cells are numbered inside a border, which counts as visited. Stepping back follows the parents, which is what a
    stack would give.
    """
    device = generator.device
    row_length, num_cells = columns + 2, rows * columns
    parent = torch.zeros(num_mazes, rows + 2, row_length, dtype=torch.int64, device=device)
    parent[:, 1:-1, 1:-1] = -1
    parent = parent.view(num_mazes, -1)
    neighbours = torch.tensor([[1, row_length, -1, -row_length]], device=device)

    start = draw_int(num_cells, (num_mazes, 1), generator)
    cell = (start // columns + 1) * row_length + start % columns + 1  # [B, 1]
    parent.scatter_(1, cell, cell)
    for keys in torch.rand(2 * num_cells, num_mazes, 4, generator=generator, device=device).add_(1.0).unbind():
        around = cell + neighbours
        best, choice = (keys * (parent.gather(1, around) < 0)).max(1, keepdim=True)
        moves = best > 0
        ahead, back = around.gather(1, choice), parent.gather(1, cell)
        parent.scatter_(1, torch.where(moves, ahead, cell), torch.where(moves, cell, back))
        cell = torch.where(moves, ahead, back)
    return parent
