"""Steps of a rollout: what they record, how actions are drawn, and where new episodes begin."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic

import torch
from torch import Generator, Tensor

from sample_factory.ued.envs.interfaces import Observations, State
from sample_factory.ued.models.cores import Carry


@dataclass
class Steps:
    """T steps of B environments, time-major.

    ``outputs`` are those of the network's core, on which values depend. ``carry``: after the last step, not reset.
    ``next_values`` gives the values ``[B, K]`` of the observations after the last step; it can be called once.
    """

    obs: Observations  # [T, B, ...]
    actions: Tensor  # [T, B] int64
    rewards: Tensor  # [T, B]
    dones: Tensor  # [T, B]
    truncated: Tensor  # [T, B]
    outputs: Tensor  # [T, B, H]
    logits: Tensor  # [T, B, A]
    carry: Carry
    next_values: Callable[[Observations], Tensor]
    final_values: Tensor | None = None  # [T, B, K]


class Starts(ABC, Generic[State]):
    """Start states of the episodes of a rollout, which can be had beforehand.

    ``is_per_env``: an episode that ends in an environment is followed by one that begins like the first one there.
    Otherwise episodes take the next state that nobody has used, in the order of environments.
    """

    is_per_env: bool

    @abstractmethod
    def __call__(self, done: Tensor, state: State) -> State:
        """Of the environments ``done``, int64 ``[n]``, whose episodes ended."""

    @abstractmethod
    def take(self, count: int) -> State:
        """Of all ``count`` environments, or the next ``count`` ones."""


def gumbel_noise(shape: list[int], generator: Generator) -> Tensor:
    """Independent standard Gumbel variables: ``argmax(logits + noise)`` is a sample of the categorical distribution."""
    uniform = torch.rand(shape, generator=generator, device=generator.device)
    # zero is one of the numbers it can be; this takes half the time of torch's exponential distribution
    return uniform.clamp_(min=torch.finfo(torch.float32).tiny).log_().neg_().log_().neg_()


def write_samples(logits: Tensor, noise: Tensor, actions: Tensor) -> None:
    """Write samples of categorical distributions ``[B, A]`` into ``actions`` ``[B]``; uses the Gumbel noise up."""
    if noise.device.type == "cpu":
        array = noise.numpy()
        array += logits.numpy()
        array.argmax(axis=1, out=actions.numpy())
    else:
        torch.argmax(noise.add_(logits), dim=1, out=actions)


def joined(steps: list[Observations]) -> Observations:
    """Observations of all steps, ``[T, B, ...]``."""
    return {name: torch.stack([obs[name] for obs in steps]) for name in steps[0]}


def in_step(*tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """What the tensors ``[T, ...]`` hold for every step: lists are faster than indexing."""
    return list(zip(*(tensor.unbind() for tensor in tensors), strict=True))
