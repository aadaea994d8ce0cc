"""The clipped objective of proximal policy optimisation (Schulman et al., 2017). Pure functions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_STD_EPSILON = 1e-5


@dataclass(frozen=True)
class Losses:
    """Scalars, differentiable."""

    total: Tensor
    actor: Tensor
    value: Tensor
    entropy: Tensor


def normalised(advantages: Tensor) -> Tensor:
    """Zero mean and unit (population) deviation over all elements."""
    std, mean = torch.std_mean(advantages, correction=0)
    return (advantages - mean) / (std + _STD_EPSILON)


def policy_loss(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, clip_eps: float) -> Tensor:
    """``- mean min(ratio A, clip(ratio, 1 - eps, 1 + eps) A)`` with ``A`` as given; all of the same shape."""
    if not log_probs.shape == old_log_probs.shape == advantages.shape:
        raise ValueError(
            f"shapes differ: {tuple(log_probs.shape)}, {tuple(old_log_probs.shape)}, {tuple(advantages.shape)}"
        )
    ratio = torch.exp(log_probs - old_log_probs)
    clipped = ratio.clamp(1.0 - clip_eps, 1.0 + clip_eps)
    return -torch.minimum(ratio * advantages, clipped * advantages).mean()


def value_loss(values: Tensor, old_values: Tensor, targets: Tensor, clip_eps: float, is_clipped: bool) -> Tensor:
    """Clipped: ``0.5 mean max((V - R)^2, (V_c - R)^2)`` with ``V_c = V_old + clip(V - V_old, -eps, eps)``. Otherwise
    the mean Huber loss with delta 1. All of the same shape.
    """
    if not values.shape == old_values.shape == targets.shape:
        raise ValueError(f"shapes differ: {tuple(values.shape)}, {tuple(old_values.shape)}, {tuple(targets.shape)}")
    if not is_clipped:
        return F.huber_loss(values, targets, delta=1.0)
    clipped = old_values + (values - old_values).clamp(-clip_eps, clip_eps)
    return 0.5 * torch.maximum((values - targets).square(), (clipped - targets).square()).mean()


def ppo_losses(
    log_probs: Tensor,
    entropy: Tensor,
    values: Tensor,
    old_log_probs: Tensor,
    old_values: Tensor,
    advantages: Tensor,
    targets: Tensor,
    *,
    clip_eps: float,
    clip_value_loss: bool,
    value_loss_coef: float,
    entropy_coef: float,
) -> Losses:
    """Losses of one minibatch. ``log_probs``, ``entropy``, ``old_log_probs``, ``advantages`` (of the first value
    function, not yet normalised): ``[...]``; ``values``, ``old_values``, ``targets``: ``[..., K]``.
    """
    actor = policy_loss(log_probs, old_log_probs, normalised(advantages), clip_eps)
    value = value_loss(values, old_values, targets, clip_eps, clip_value_loss)
    mean_entropy = entropy.mean()
    return Losses(actor + value_loss_coef * value - entropy_coef * mean_entropy, actor, value, mean_entropy)


def categorical(logits: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of ``actions`` (int64 ``[...]``) and entropies ``[...]`` under ``logits`` ``[..., A]``."""
    log_probs = F.log_softmax(logits, dim=-1)
    entropy = -(log_probs.exp() * log_probs).sum(-1)
    return log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1), entropy
