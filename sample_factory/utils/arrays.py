"""Small operations on sequences, NumPy arrays and figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def scale_to_range(np_array: np.ndarray, min_: float, max_: float) -> np.ndarray:
    """Scale linearly so that the smallest element becomes `min_` and the largest `max_` (constant input -> `min_`)."""
    low, high = np_array.min(), np_array.max()
    if high == low:
        return np.full(np_array.shape, min_, dtype=np.result_type(np_array.dtype, np.float32))
    return (np_array - low) / (high - low) * (max_ - min_) + min_


def op_with_idx(x: Sequence[Any], op: Callable[[Any, Any], bool]) -> tuple[Any, int]:
    """`(element, index)` of the first element for which `op(element, best so far)` never fails afterwards."""
    assert len(x) > 0, "the sequence is empty"
    best_idx = 0
    for idx in range(1, len(x)):
        if op(x[idx], x[best_idx]):
            best_idx = idx
    return x[best_idx], best_idx


def min_with_idx(x: Sequence[Any]) -> tuple[Any, int]:
    """`(minimum, index of its first occurrence)`."""
    return op_with_idx(x, lambda a, b: a < b)


def max_with_idx(x: Sequence[Any]) -> tuple[Any, int]:
    """`(maximum, index of its first occurrence)`."""
    return op_with_idx(x, lambda a, b: a > b)


def numpy_all_the_way(list_of_arrays: Sequence[Any]) -> np.ndarray:
    """Stack a list of equally shaped arrays into one array with a new first dimension."""
    return np.stack([np.asarray(array) for array in list_of_arrays])


def numpy_flatten(list_of_arrays: Sequence[Any]) -> np.ndarray:
    """Concatenate arrays along their first dimension."""
    return np.concatenate([np.asarray(array) for array in list_of_arrays], axis=0)


def ensure_contigious(x: np.ndarray) -> np.ndarray:
    """The array itself if it is C-contiguous, else a contiguous copy. (The spelling is part of the public API.)"""
    return np.ascontiguousarray(x)


def figure_to_numpy(figure: Any) -> np.ndarray:
    """Render a matplotlib figure (Agg canvas) to an RGB image, uint8 [H, W, 3]."""
    figure.canvas.draw()
    rgba = np.asarray(figure.canvas.buffer_rgba())  # [H, W, 4]
    return rgba[..., :3].copy()
