"""Initial weights. All functions fill tensors in place and draw from the given generator."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn

# Of the activation that follows a layer.
ACTIVATION_GAINS = {
    "relu": math.sqrt(2.0),
    "crelu": math.sqrt(2.0),
    "gelu": 0.75,
    "leaky_relu": math.sqrt(2.0 / 1.01),
    "tanh": math.sqrt(2.0),
}
_TRUNCATED_STD = 0.87962566103423978  # standard deviation of a standard normal variable cut off at +-2


@torch.no_grad()
def orthogonal_(weight: Tensor, gain: float = 1.0, generator: Generator | None = None) -> None:
    """Orthogonal matrix ``[out, ...]`` times ``gain`` (Saxe et al., 2013)."""
    nn.init.orthogonal_(weight, gain, generator=generator)


@torch.no_grad()
def orthogonal_gates_(weight: Tensor, num_gates: int, generator: Generator | None = None) -> None:
    """Every gate of a stacked weight ``[num_gates * H, D]`` is an orthogonal matrix of its own."""
    for gate in weight.chunk(num_gates):
        nn.init.orthogonal_(gate, generator=generator)


@torch.no_grad()
def lecun_normal_(weight: Tensor, fan_in: int, generator: Generator | None = None) -> None:
    """Normal with variance ``1 / fan_in``, truncated at two standard deviations before rescaling."""
    nn.init.trunc_normal_(weight, 0.0, 1.0, -2.0, 2.0, generator=generator)
    weight.mul_(1.0 / (_TRUNCATED_STD * math.sqrt(fan_in)))
