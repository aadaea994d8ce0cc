"""Pictures of mazes as arrays. Tiles are drawn once per size and then only copied."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch

from sample_factory.ued.envs.maze.level import NUM_DIRECTIONS
from sample_factory.ued.envs.maze.observation import view_offsets
from sample_factory.ued.envs.maze.state import EMPTY, FIRST_AGENT, GOAL, POS, WALL, MazeGrid, MazeState

_SUPERSAMPLING = 3
_LINE = 0.031  # share of a tile
_GREY, _GREEN, _RED = (100, 100, 100), (0, 255, 0), (255, 0, 0)
_TRIANGLE = ((0.12, 0.19), (0.87, 0.50), (0.12, 0.81))
_HIGHLIGHT = 0.3  # blend towards white
_NUM_KINDS = FIRST_AGENT + NUM_DIRECTIONS


def render_states(grid: MazeGrid, state: MazeState, tile_px: int, view_size: int) -> np.ndarray:
    """[B, (H + 2) * tile_px, (W + 2) * tile_px, 3] uint8. The view of `view_size` tiles is lit up, none if it is 0."""
    if tile_px < 1:
        raise ValueError(f"tile_px has to be at least 1, got {tile_px}")
    kinds = state.tiles.clone()
    at_agent = state.walker[:, POS, None]
    kinds.scatter_(1, at_agent, FIRST_AGENT + state.agent_dir[:, None])
    if view_size:
        seen = at_agent + view_offsets(view_size, grid.padded_width).to(kinds.device)[state.agent_dir]
        lit = torch.zeros_like(kinds).scatter_(1, seen, _NUM_KINDS)
        kinds += lit
    padded = kinds.view(-1, grid.padded_height, grid.padded_width)
    border = grid.margin - 1
    shown = padded[:, border : border + grid.height + 2, border : border + grid.width + 2]
    return tiles_to_image(shown.cpu().numpy(), tile_pictures(tile_px))


def render_cells(cells: np.ndarray, tile_px: int = 32) -> np.ndarray:
    """[B, rows * tile_px, columns * tile_px, 3] uint8 of tiles [B, rows, columns] as numbered in the state."""
    return tiles_to_image(cells, tile_pictures(tile_px))


def tiles_to_image(kinds: np.ndarray, pictures: np.ndarray) -> np.ndarray:
    """[B, rows * px, columns * px, 3] of tile kinds [B, rows, columns] and their pictures [kinds, px, px, 3]."""
    batch, rows, columns = kinds.shape
    px = pictures.shape[1]
    image = pictures[kinds].transpose(0, 1, 3, 2, 4, 5)  # [B, rows, px, columns, px, 3]
    return np.ascontiguousarray(image).reshape(batch, rows * px, columns * px, 3)


@cache
def tile_pictures(tile_px: int) -> np.ndarray:
    """[14, px, px, 3] uint8: the seven kinds of tile, then the same lit up."""
    plain = np.stack([_draw_tile(kind, tile_px) for kind in range(_NUM_KINDS)])
    lit = plain + _HIGHLIGHT * (255 - plain)
    return np.concatenate([plain, lit]).round().astype(np.uint8)


def _draw_tile(kind: int, tile_px: int) -> np.ndarray:
    """[px, px, 3] float64, averaged over finer pixels."""
    fine = tile_px * _SUPERSAMPLING
    centres = (np.arange(fine) + 0.5) / fine
    x, y = np.meshgrid(centres, centres)
    image = np.zeros((fine, fine, 3))
    image[(x < _LINE) | (y < _LINE)] = _GREY
    if kind == WALL:
        image[:] = _GREY
    elif kind == GOAL:
        image[:] = _GREEN
    elif kind != EMPTY:
        image[_in_triangle(x, y, kind - FIRST_AGENT)] = _RED
    return image.reshape(tile_px, _SUPERSAMPLING, tile_px, _SUPERSAMPLING, 3).mean(axis=(1, 3))


def _in_triangle(x: np.ndarray, y: np.ndarray, quarter_turns: int) -> np.ndarray:
    """Points inside of the agent's triangle after clockwise quarter turns (y grows downwards)."""
    for _ in range(quarter_turns):
        x, y = y, 1 - x
    inside = np.ones_like(x, dtype=bool)
    for (ax, ay), (bx, by) in zip(_TRIANGLE, _TRIANGLE[1:] + _TRIANGLE[:1], strict=True):
        inside &= (bx - ax) * (y - ay) - (by - ay) * (x - ax) >= 0
    return inside
