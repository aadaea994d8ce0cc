"""Exact uniform draws over tiles, for batches of grids."""

from __future__ import annotations

import torch
from torch import Generator, Tensor


def draw_tiles(allowed: Tensor, count: int, generator: Generator) -> Tensor:
    """[B, count] int64: different tiles of each row, uniformly and in random order from `allowed` [B, N] bool.

    A row with fewer allowed tiles than `count` gets arbitrary ones at its end. Uniform keys in double precision: with
    single precision two keys are equal often enough to matter in long runs.
    """
    keys = torch.rand(allowed.shape, generator=generator, device=allowed.device, dtype=torch.float64)
    keys.masked_fill_(~allowed, -1.0)
    if count == 1:
        return keys.argmax(dim=1, keepdim=True)
    return keys.topk(count, dim=1).indices


def draw_int(high: int, size: tuple[int, ...], generator: Generator) -> Tensor:
    """int64 in ``[0, high)`` on the device of the generator."""
    return torch.randint(high, size, generator=generator, device=generator.device)
