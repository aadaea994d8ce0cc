"""Files of levels and episodes: one PNG of many levels, one GIF of an episode, for every environment that renders."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Generator

from sample_factory.ued.envs.interfaces import RenderableEnv, UedEnv
from sample_factory.ued.envs.tensor_struct import TensorStruct
from sample_factory.utils.gifs import encode_gif
from sample_factory.utils.png import encode_png

_BACKGROUND = 255


def require_renderable(env: UedEnv[Any, Any]) -> RenderableEnv[Any, Any]:
    """`env` itself; ValueError if it cannot be drawn."""
    if not isinstance(env, RenderableEnv):
        raise ValueError(f"{type(env).__name__} cannot be drawn: give it a method render(state, *, tile_px, highlight)")
    return env


def level_images(
    env: UedEnv[Any, Any], levels: TensorStruct, generator: Generator, *, tile_px: int = 8, highlight: bool = False
) -> np.ndarray:
    """[B, height, width, 3] uint8: how `levels` look at the start."""
    return require_renderable(env).render(env.reset(levels, generator), tile_px=tile_px, highlight=highlight)


def image_grid(images: Sequence[np.ndarray] | np.ndarray, columns: int | None = None, gap_px: int = 4) -> np.ndarray:
    """One [height, width, 3] uint8 picture of `images` [h, w, 3], row by row, about as wide as high by default."""
    count = len(images)
    if count == 0:
        raise ValueError("there are no images to put into a grid")
    columns = math.ceil(math.sqrt(count)) if columns is None else columns
    if columns < 1:
        raise ValueError(f"a grid needs at least one column, got {columns}")
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    height, width = (max(image.shape[axis] for image in images) + gap_px for axis in (0, 1))
    grid = np.full((rows * height + gap_px, columns * width + gap_px, 3), _BACKGROUND, dtype=np.uint8)
    for number, image in enumerate(images):
        top, left = gap_px + number // columns * height, gap_px + number % columns * width
        grid[top : top + image.shape[0], left : left + image.shape[1]] = image
    return grid


def save_png(image: np.ndarray, path: str | Path) -> None:
    """Write a uint8 picture [H, W, 3]; folders are made."""
    _write(path, encode_png(image))


def save_level_grid(
    env: UedEnv[Any, Any],
    levels: TensorStruct,
    path: str | Path,
    generator: Generator,
    *,
    columns: int | None = None,
    tile_px: int = 8,
) -> None:
    """One PNG of all `levels`."""
    save_png(image_grid(level_images(env, levels, generator, tile_px=tile_px), columns), path)


def save_gif(frames: Sequence[np.ndarray], path: str | Path, fps: float = 8.0) -> None:
    """Animated GIF of uint8 frames [H, W, 3]. ImportError with the repair if Pillow and imageio are both missing."""
    _write(path, encode_gif(frames, fps))


def _write(path: str | Path, content: bytes) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
