"""How a rollout is divided for the optimiser."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from sample_factory.ued.models.cores import Carry
from sample_factory.ued.models.distinct import DistinctObservations


@dataclass(frozen=True)
class Minibatch:
    """Whole sequences ``[T, b, ...]`` for recurrent networks, single transitions ``[n, ...]`` for others."""

    obs: DistinctObservations
    actions: Tensor
    log_probs: Tensor
    values: Tensor
    advantages: Tensor
    targets: Tensor
    initial_carry: Carry
    resets: Tensor

    def clone(self) -> Minibatch:
        """With copies of all tensors."""
        obs = {name: x.clone() for name, x in self.obs.obs.items()}
        return Minibatch(
            replace(self.obs, obs=obs, rows=self.obs.rows.clone()),
            self.actions.clone(),
            self.log_probs.clone(),
            self.values.clone(),
            self.advantages.clone(),
            self.targets.clone(),
            tuple(part.clone() for part in self.initial_carry),
            self.resets.clone(),
        )


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
