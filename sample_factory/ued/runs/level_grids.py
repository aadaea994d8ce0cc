"""Pictures of the levels with the highest scores in the buffers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator

from sample_factory.algo.learning.checkpoints import write_atomically
from sample_factory.ued.curricula.common import Curriculum
from sample_factory.utils.png import encode_png

_TILE_PX = 16
_GAP_PX = 4
_GAP_VALUE = 255


def level_grid(images: np.ndarray) -> np.ndarray:
    """Arrange pictures [N, height, width, 3] uint8 in a square grid, row by row, with white gaps."""
    num, height, width, channels = images.shape
    columns = max(1, int(np.ceil(np.sqrt(num))))
    rows = max(1, -(-num // columns))
    shape = (rows * (height + _GAP_PX) + _GAP_PX, columns * (width + _GAP_PX) + _GAP_PX, channels)
    grid = np.full(shape, _GAP_VALUE, dtype=np.uint8)
    for index, image in enumerate(images):
        top = _GAP_PX + index // columns * (height + _GAP_PX)
        left = _GAP_PX + index % columns * (width + _GAP_PX)
        grid[top : top + height, left : left + width] = image
    return grid


def best_levels(curriculum: Curriculum[Any, Any], student: int, count: int) -> Any:
    """The ``count`` levels with the highest scores in a student's buffer, best first; None while it is empty."""
    buffer = curriculum.buffers[student]
    num_levels = min(count, buffer.size)
    if num_levels == 0:
        return None
    order = np.argsort(-np.asarray(buffer.scores[: buffer.size]), kind="stable")[:num_levels]
    return buffer.levels[torch.as_tensor(order.copy())]


def save_level_grids(curriculum: Curriculum[Any, Any], directory: Path, tick: int, count: int) -> list[Path]:
    """Write ``<tick>.png`` (``<tick>_a<i>.png`` with several students) for every buffer that holds levels."""
    paths = []
    for student in range(len(curriculum.buffers)):
        levels = best_levels(curriculum, student, count)
        if levels is None:
            continue
        # Start states may be random; numbers for pictures must not come from the run's generator.
        generator = Generator(device=curriculum.generator.device).manual_seed(0)
        state = curriculum.env.reset(levels, generator)
        images = curriculum.env.render(state, tile_px=_TILE_PX, highlight=False)  # type: ignore[attr-defined]
        suffix = f"_a{student}" if len(curriculum.buffers) > 1 else ""
        directory.mkdir(exist_ok=True)
        path = directory / f"{tick}{suffix}.png"
        write_atomically(str(path), encode_png(level_grid(images)))
        paths.append(path)
    return paths


def check_can_draw(curriculum: Curriculum[Any, Any]) -> None:
    """ValueError if there is nothing to draw, or nobody who can."""
    if not curriculum.buffers:
        raise ValueError(
            "--level_grid_interval draws levels of a buffer, which this --train_runner does not have; set it to 0"
        )
    if not hasattr(curriculum.env, "render"):
        raise ValueError("--level_grid_interval: this environment has no method render; set it to 0")
