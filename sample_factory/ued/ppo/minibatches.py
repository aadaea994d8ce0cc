"""How a rollout is divided for the optimiser."""

from __future__ import annotations

import torch
from torch import Generator, Tensor


def split_indices(size: int, num_minibatches: int, what: str, generator: Generator) -> list[Tensor | None]:
    """A random division of ``range(size)`` into equal parts, int64 each; ``[None]`` (all, in order) for a single part.

    :param what: what is divided, for the message
    :raises ValueError: if the parts cannot be equal
    """
    if size % num_minibatches:
        raise ValueError(
            f"{size} {what} cannot be divided into n_minibatches={num_minibatches} equal parts; choose a divisor"
        )
    if num_minibatches == 1:
        return [None]
    permutation = torch.randperm(size, generator=generator, device=generator.device)
    return list(permutation.chunk(num_minibatches))
