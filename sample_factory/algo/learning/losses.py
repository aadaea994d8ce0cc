"""PPO losses (Schulman et al. 2017, arXiv 1707.06347). Pure functions of flat tensors ``[B]`` (one entry per sample).

Means run over valid samples only. Masks are applied by multiplication and division by a count the host already knows,
so nothing here waits for the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sample_factory.utils.typing import ActionDistribution

MIN_RATIO, MAX_RATIO = 0.05, 20.0
MIN_ADVANTAGE_STD = 1e-7
MAX_SYMMETRIC_KL = 30.0


@dataclass(frozen=True)
class LossOutput:
    """Scalar losses of one minibatch, coefficients included; ``kl_old`` ``[B]`` is 0 at invalid samples."""

    policy_loss: Tensor
    exploration_loss: Tensor | float
    kl_old: Tensor | None
    kl_loss: Tensor | float
    value_loss: Tensor
    summaries: dict[str, Any]

    @property
    def total(self) -> Tensor:
        return self.policy_loss + self.exploration_loss + self.kl_loss + self.value_loss


@dataclass(frozen=True)
class SampleMask:
    """Which samples of a minibatch count. ``valid`` ``[B]`` bool, ``None`` if all of them do."""

    valid: Tensor | None
    num_valid: int

    @classmethod
    def make(cls, valids: Tensor, num_invalids: int) -> SampleMask:
        return cls(valids.bool() if num_invalids > 0 else None, valids.numel() - num_invalids)

    def mean(self, x: Tensor) -> Tensor:
        """Mean of ``x`` ``[B]`` over valid samples, a scalar. Invalid entries may hold anything, also NaN."""
        if self.valid is None:
            return x.mean()
        return self.zero_invalid(x).sum() / self.num_valid

    def zero_invalid(self, x: Tensor) -> Tensor:
        return x if self.valid is None else torch.where(self.valid, x, x.new_zeros(()))

    def max(self, x: Tensor) -> Tensor:
        return (x if self.valid is None else torch.where(self.valid, x, x.new_full((), -torch.inf))).max()

    def min(self, x: Tensor) -> Tensor:
        return -self.max(-x)


def importance_ratio(log_probs: Tensor, old_log_probs: Tensor) -> Tensor:
    """pi_new(a|s) / pi_old(a|s) ``[B]``, clamped to [0.05, 20] so that single samples cannot dominate."""
    _check_flat(log_probs=log_probs, old_log_probs=old_log_probs)
    return torch.exp(log_probs - old_log_probs).clamp(MIN_RATIO, MAX_RATIO)


def normalize_advantages(advantages: Tensor, mask: SampleMask) -> tuple[Tensor, Tensor, Tensor]:
    """(adv - mean) / max(std, 1e-7) ``[B]`` with the unbiased std of the valid samples; also returns mean and std."""
    _check_flat(advantages=advantages)
    mean = mask.mean(advantages)
    deviations = mask.zero_invalid(advantages - mean)
    variance = deviations.square().sum() / max(mask.num_valid - 1, 1)  # one sample: 0 instead of NaN
    std = variance.sqrt()
    return deviations / std.clamp(min=MIN_ADVANTAGE_STD), mean, std


def clipped_policy_loss(
    ratio: Tensor, advantages: Tensor, clip_low: float, clip_high: float, mask: SampleMask
) -> Tensor:
    """-mean(min(ratio * adv, clip(ratio, clip_low, clip_high) * adv)): equation 7 of the PPO paper."""
    _check_flat(ratio=ratio, advantages=advantages)
    surrogate = torch.min(ratio * advantages, ratio.clamp(clip_low, clip_high) * advantages)  # [B]
    return -mask.mean(surrogate)


def clipped_value_loss(
    values: Tensor, old_values: Tensor, targets: Tensor, clip_value: float, coeff: float, mask: SampleMask
) -> Tensor:
    """coeff * mean(max((v - y)^2, (v_old + clip(v - v_old, +-clip_value) - y)^2)), no factor 1/2."""
    _check_flat(values=values, old_values=old_values, targets=targets)
    clipped_values = old_values + (values - old_values).clamp(-clip_value, clip_value)
    errors = torch.max((values - targets).square(), (clipped_values - targets).square())  # [B]
    return coeff * mask.mean(errors)


def entropy_loss(distribution: ActionDistribution, coeff: float, mask: SampleMask) -> Tensor:
    """-coeff * mean(H(pi)): rewards spread-out policies."""
    return -coeff * mask.mean(distribution.entropy())


def symmetric_kl_loss(distribution: ActionDistribution, coeff: float, mask: SampleMask) -> Tensor:
    """coeff * min(mean(symmetric KL of pi and the uniform policy), 30); a non-finite mean counts as 0."""
    mean_kl = mask.mean(distribution.symmetric_kl_with_uniform_prior())
    return coeff * torch.where(torch.isfinite(mean_kl), mean_kl.clamp(max=MAX_SYMMETRIC_KL), 0.0)


def exploration_loss(distribution: ActionDistribution, kind: str, coeff: float, mask: SampleMask) -> Tensor | float:
    """The loss named by ``--exploration_loss``; the float 0.0 if its coefficient is exactly 0."""
    if kind not in _EXPLORATION_LOSSES:
        raise ValueError(f"--exploration_loss={kind}: unknown; choose one of {', '.join(_EXPLORATION_LOSSES)}")
    return 0.0 if coeff == 0.0 else _EXPLORATION_LOSSES[kind](distribution, coeff, mask)


def kl_divergence_to_old(
    distribution: ActionDistribution, old_distribution: ActionDistribution, mask: SampleMask
) -> Tensor:
    """KL(pi_new || pi_old) ``[B]``, 0 at invalid samples."""
    return mask.zero_invalid(distribution.kl_divergence(old_distribution))


def fixed_kl_loss(
    distribution: ActionDistribution, old_distribution: ActionDistribution, coeff: float, mask: SampleMask
) -> tuple[Tensor | None, Tensor | float]:
    """``(kl_old, coeff * mean(kl_old))``; ``(None, 0.0)`` if the coefficient is exactly 0 (PPO paper, section 4)."""
    if coeff == 0.0:
        return None, 0.0
    kl_old = kl_divergence_to_old(distribution, old_distribution, mask)
    return kl_old, coeff * (kl_old.sum() / mask.num_valid)


_EXPLORATION_LOSSES = {"entropy": entropy_loss, "symmetric_kl": symmetric_kl_loss}


def _check_flat(**tensors: Tensor) -> None:
    """All tensors are one-dimensional and equally long; otherwise broadcasting would silently give [B, B]."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) != 1 or len(next(iter(shapes.values()))) != 1:
        raise ValueError(f"expected tensors of one shape [B], got {shapes}")
