"""Moments of batches on the CPU: by NumPy where calls cost more than arithmetic, else in pieces."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_SMALL_SIZE = 1 << 17  # numbers
_CHUNK_SIZE = 1 << 18  # numbers: 1 MB


def batch_moments(x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Mean and unbiased variance over the rows of a contiguous float32 CPU tensor ``[B, ...]``, flat and in float64.

    The variance of one row is zero.
    """
    rows = x.reshape(len(x), -1)
    if x.numel() <= _SMALL_SIZE:
        return _small_moments(rows.numpy().astype(np.float64))
    return _large_moments(rows)


def _small_moments(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    num_rows = len(rows)
    ones = np.ones(num_rows)
    mean = ones @ rows  # sums over the first dimension: BLAS is much faster at them than reductions
    mean /= num_rows
    rows -= mean
    rows *= rows
    var = ones @ rows
    var /= max(num_rows - 1, 1)
    return mean, var


def _large_moments(rows: Tensor) -> tuple[np.ndarray, np.ndarray]:
    # One pass. Deviations from the mean of the first rows are small, so that squares lose nothing.
    num_rows = len(rows)
    chunks = rows.split(max(_CHUNK_SIZE // rows.shape[1], 1))
    shift = chunks[0].mean(0)
    total = torch.zeros(rows.shape[1], dtype=torch.float64)
    total_square = torch.zeros_like(total)
    for chunk in chunks:
        deviations = chunk - shift
        total += deviations.sum(0)
        total_square += deviations.square_().sum(0)
    mean = total / num_rows
    var = (total_square - mean * total).clamp_(min=0.0) / max(num_rows - 1, 1)
    return (mean + shift).numpy(), var.numpy()


def merge_moments(
    running_mean: Tensor, running_var: Tensor, count: Tensor, mean: np.ndarray, var: np.ndarray, num_rows: int
) -> None:
    """Pool the moments of a batch with running ones (float64 CPU tensors, changed in place)."""
    old_mean, old_var, old_count = running_mean.numpy(), running_var.numpy(), count.numpy()
    mean, var = mean.reshape(old_mean.shape), var.reshape(old_var.shape)
    num_old = float(old_count[0])
    total = num_old + num_rows
    delta = mean - old_mean
    old_var *= num_old
    old_var += var * num_rows
    old_var += delta * delta * (num_old * num_rows / total)
    old_var /= total
    old_mean += delta * (num_rows / total)
    old_count[0] = total


def scaling_constants(running_mean: Tensor, running_var: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, standard deviation and its reciprocal, float32, of float64 CPU tensors."""
    mean = running_mean.numpy().astype(np.float32)
    std = np.sqrt(running_var.numpy().astype(np.float32) + np.float32(eps))
    return torch.from_numpy(mean), torch.from_numpy(std), torch.from_numpy(np.float32(1.0) / std)


class HostScaler:
    """What a running normaliser does, for float32 arrays: see ``RunningMeanStdInPlace``, whose buffers these are."""

    def __init__(self, running_mean: Tensor, running_var: Tensor, count: Tensor, eps: float, clip: float) -> None:
        self._buffers = running_mean, running_var, count
        self._clip = clip
        self._mean, self._var, self._count = (x.numpy() for x in self._buffers)
        self._eps = np.float32(eps)

    def update(self, x: np.ndarray) -> None:
        """Merge the rows of ``x`` ``[B, D]``, or numbers ``[B]`` if there is one mean, into the statistics."""
        if self._mean.size > 1:
            merge_moments(*self._buffers, *_small_moments(x.astype(np.float64)), len(x))
            return
        deviations = x.astype(np.float64).reshape(-1)
        num_rows, num_old = len(deviations), float(self._count[0])
        mean = float(np.add.reduce(deviations)) / num_rows
        deviations -= mean
        var = float(np.dot(deviations, deviations)) / max(num_rows - 1, 1)
        total = num_old + num_rows
        old_mean, old_var = float(self._mean[0]), float(self._var[0])
        delta = mean - old_mean
        between = delta * delta * (num_old * num_rows / total)
        self._var[0] = (old_var * num_old + var * num_rows + between) / total
        self._mean[0] = old_mean + delta * (num_rows / total)
        self._count[0] = total

    def _std(self) -> np.ndarray:
        return np.sqrt(self._var.astype(np.float32) + self._eps)

    def normalized(self, x: np.ndarray) -> np.ndarray:
        """A normalised copy of ``x`` ``[..., D]``, or of numbers if there is one mean."""
        result = x - self._mean.astype(np.float32)
        result *= np.float32(1.0) / self._std()
        return _clip(result, self._clip)

    def denormalized(self, x: np.ndarray) -> np.ndarray:
        """A copy of ``x``, clamped and denormalised."""
        result = _clip(x.copy(), self._clip)
        result *= self._std()
        result += self._mean.astype(np.float32)
        return result


def _clip(x: np.ndarray, limit: float) -> np.ndarray:
    np.maximum(x, np.float32(-limit), out=x)
    return np.minimum(x, np.float32(limit), out=x)
