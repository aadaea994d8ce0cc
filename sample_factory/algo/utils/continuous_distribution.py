"""Normally distributed actions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.distributions import Independent, Normal

from sample_factory.utils.utils import log

_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


class ContinuousActionDistribution(Independent):
    """Independent normals: ``params`` ``[b, 2 n]`` are n means, then n log standard deviations.

    Standard deviations are clamped to ``[stddev_min, stddev_max]``. The densities are written out instead of
    delegated to the base class, which spends more time on bookkeeping than on arithmetic; the base is there for code
    that expects it.
    """

    stddev_min, stddev_max = 1e-4, 1e4

    def __init__(self, params: Tensor):
        self.means, self.log_std = torch.chunk(params, 2, dim=1)
        self.stddevs = self.log_std.exp().clamp(self.stddev_min, self.stddev_max)
        self.reinterpreted_batch_ndims = 1
        self._batch_shape, self._event_shape = self.means.shape[:-1], self.means.shape[-1:]
        self._validate_args = False

    @cached_property
    def base_dist(self) -> Normal:  # type: ignore[override]
        return Normal(self.means, self.stddevs, validate_args=False)

    @cached_property
    def _log_stddevs(self) -> Tensor:
        return self.stddevs.log()

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:  # type: ignore[override]
        """Reparameterised sample ``[*sample_shape, b, n]``."""
        noise = torch.randn((*sample_shape, *self.means.shape), dtype=self.means.dtype, device=self.means.device)
        return torch.addcmul(self.means, self.stddevs, noise)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:  # type: ignore[override]
        """Sample ``[*sample_shape, b, n]`` without gradient. Not clipped to the bounds of the space."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density ``[b]``."""
        standardized = (value - self.means) / self.stddevs
        return -(0.5 * standardized.square() + self._log_stddevs + _HALF_LOG_2PI).sum(dim=-1)

    def entropy(self) -> Tensor:
        return (self._log_stddevs + (0.5 + _HALF_LOG_2PI)).sum(dim=-1)

    def kl_divergence(self, other: ContinuousActionDistribution) -> Tensor:
        """KL(self || other), ``[b]``."""
        variance_ratio = (self.stddevs / other.stddevs).square()
        shift = ((self.means - other.means) / other.stddevs).square()
        log_ratio = other._log_stddevs - self._log_stddevs
        return (log_ratio + 0.5 * (variance_ratio + shift - 1.0)).sum(dim=-1)

    def symmetric_kl_with_uniform_prior(self) -> Tensor:
        """``(KL(p || N) + KL(N || p)) / 2``, ``[b]``, with N the unit Gaussian.

        There is no uniform density on an unbounded space; the unit Gaussian is the prior that plays its part here.
        """
        mean_sq, var = self.means.square(), self.stddevs.square()
        return (0.25 * (var + mean_sq + (1.0 + mean_sq) / var - 2.0)).sum(dim=-1)

    def summaries(self) -> dict[str, Tensor]:
        """Mean, smallest and largest of the means, log standard deviations and standard deviations."""
        stats = {}
        for name, values in (("mean", self.means), ("log_std", self.log_std), ("stddev", self.stddevs)):
            base = "action_mean" if name == "mean" else f"action_{name}_mean"
            stats[base] = values.mean()
            stats[f"action_{name}_min"] = values.min()
            stats[f"action_{name}_max"] = values.max()
        return stats

    def dbg_print(self) -> None:
        """Log the summaries."""
        log.debug(" ".join(f"{name}={value.item():.3f}" for name, value in self.summaries().items()))
