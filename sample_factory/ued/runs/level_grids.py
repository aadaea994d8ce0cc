"""Pictures of the levels with the highest scores in the buffers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator

from sample_factory.algo.learning.checkpoints import write_atomically
from sample_factory.ued.curricula.common import Curriculum
from sample_factory.ued.envs.pictures import image_grid, level_images, require_renderable
from sample_factory.utils.png import encode_png


def check_can_draw(curriculum: Curriculum[Any, Any]) -> None:
    """ValueError if there are no levels to draw, or the environment cannot draw them."""
    if not curriculum.buffers:
        raise ValueError(
            "--level_grid_interval draws levels of a buffer, which this --train_runner does not have; set it to 0"
        )
    require_renderable(curriculum.env)


def best_levels(curriculum: Curriculum[Any, Any], student: int, count: int) -> Any:
    """The ``count`` levels with the highest scores in a student's buffer, best first; None while it is empty."""
    buffer = curriculum.buffers[student]
    num_levels = min(count, buffer.size)
    if num_levels == 0:
        return None
    order = np.argsort(-buffer.scores[: buffer.size], kind="stable")[:num_levels]
    return buffer.levels[torch.from_numpy(order.copy())]


def save_level_grids(curriculum: Curriculum[Any, Any], directory: Path, tick: int, count: int) -> list[Path]:
    """Write ``<tick>.png`` (``<tick>_a<i>.png`` with several students) for every buffer that holds levels."""
    paths = []
    for student in range(len(curriculum.buffers)):
        levels = best_levels(curriculum, student, count)
        if levels is None:
            continue
        # Start states may be random; numbers for pictures must not come from the run's generator.
        generator = Generator(device=curriculum.generator.device).manual_seed(0)
        picture = image_grid(level_images(curriculum.env, levels, generator))
        directory.mkdir(exist_ok=True)
        suffix = f"_a{student}" if len(curriculum.buffers) > 1 else ""
        path = directory / f"{tick}{suffix}.png"
        write_atomically(str(path), encode_png(picture))
        paths.append(path)
    return paths
