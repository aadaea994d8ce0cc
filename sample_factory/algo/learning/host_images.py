"""Normalisation of image observations on the CPU, piece by piece, so that every piece is read and written once.

Whole batches of images are much larger than the caches: each operation on them costs a pass through memory, and a
float copy four times the memory of the bytes. Here pieces of about a megabyte are converted, normalised and written to
their place, in the layout in which convolutions are fastest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sample_factory.algo.utils.host_statistics import merge_moments
from sample_factory.utils.normalize import ObservationNormalizer

_PIECE_SIZE = 1 << 18  # numbers


def can_normalize_images(normalizer: ObservationNormalizer, obs: dict[str, Tensor]) -> bool:
    """Whether :func:`normalize_images` covers these trajectories: CHW images on the CPU, ordinary statistics."""
    for key, x in obs.items():
        statistics = normalizer.statistics_of(key)
        if x.dim() != 5 or x.device.type != "cpu" or x.dtype not in (torch.uint8, torch.float32):
            return False
        if statistics is not None and (statistics.per_channel or statistics.norm_only):
            return False
    return True


@torch.no_grad()
def normalize_images(
    normalizer: ObservationNormalizer, key: str, obs: Tensor, valids: Tensor | None
) -> tuple[Any, Any]:
    """What ``normalizer`` in training mode makes of trajectories ``[N, T+1, C, H, W]``.

    :param valids: bool ``[N, T]``, steps that enter the statistics; ``None``: all. The last step never does.
    :returns: all other steps ``[N*T, C, H, W]`` and the last ones ``[N, C, H, W]``, float32, channels last in memory
    """
    shift, scale = normalizer.fixed_constants(key)
    statistics = normalizer.statistics_of(key)
    center, factor = torch.tensor(shift), torch.tensor(1.0 / scale)
    limit: float | None = None
    if statistics is not None:
        _update(statistics, obs, valids, shift, scale)
        mean, _, inv_std = statistics.constants()
        center, factor, limit = mean * scale + shift, inv_std / scale, statistics.clip
    num_rows, num_steps = obs.shape[0], obs.shape[1] - 1
    steps = _empty_images(num_rows * num_steps, obs)
    last = _empty_images(num_rows, obs)
    for row in range(num_rows):
        for start, piece in _pieces(obs[row, :-1]):
            first = row * num_steps + start
            _write_normalized(piece, center, factor, limit, steps[first : first + len(piece)])
    for start, piece in _pieces(obs[:, -1]):
        _write_normalized(piece, center, factor, limit, last[start : start + len(piece)])
    return steps, last


def _empty_images(num_images: int, obs: Tensor) -> Tensor:
    return torch.empty([num_images, *obs.shape[2:]], memory_format=torch.channels_last)


def _pieces(images: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Index of the first image and the images of each piece."""
    size = max(_PIECE_SIZE // max(images[0].numel(), 1), 1)
    for start in range(0, len(images), size):
        yield start, images[start : start + size]


def _write_normalized(images: Tensor, center: Tensor, factor: Tensor, limit: float | None, target: Tensor) -> None:
    x = images.to(torch.float32) if images.dtype != torch.float32 else images.clone()
    x.sub_(center).mul_(factor)
    target.copy_(x if limit is None else x.clamp_(-limit, limit))


def _update(statistics: Any, obs: Tensor, valids: Tensor | None, shift: float, scale: float) -> None:
    """Merge the steps into the statistics: moments of the raw numbers, shifted and scaled afterwards."""
    size = obs[0, 0].numel()
    reference: Tensor | None = None  # deviations from it are small, so that squares lose nothing
    total, total_square = torch.zeros(size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
    num_rows = 0
    for row in range(len(obs)):
        for start, images in _pieces(obs[row, :-1]):
            if valids is not None:
                images = images[valids[row, start : start + len(images)]]
            if len(images) == 0:
                continue
            x = images.flatten(1).to(torch.float32)
            if reference is None:
                reference = x.mean(0)
            deviations = x - reference
            total += deviations.sum(0)
            total_square += deviations.square_().sum(0)
            num_rows += len(images)
    if reference is None:
        return
    mean = total / num_rows
    var = (total_square - mean * total).clamp_(min=0.0) / max(num_rows - 1, 1)
    mean = (mean + reference - shift) / scale
    merge_moments(
        statistics.running_mean,
        statistics.running_var,
        statistics.count,
        mean.numpy(),
        var.numpy() / np.float64(scale) ** 2,
        num_rows,
    )
