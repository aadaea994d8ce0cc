"""Generalised advantage estimation (Schulman et al., 2016)."""

from __future__ import annotations

import torch
from torch import Tensor


def generalised_advantages(
    rewards: Tensor,
    dones: Tensor,
    values: Tensor,
    last_values: Tensor,
    discount: float,
    gae_lambda: float,
    truncated: Tensor | None = None,
    final_values: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Advantages and targets ``[T, B, K]`` of K value functions.

    ``delta_t = r_t + discount V_{t+1} (1 - d_t) - V_t``; ``A_t = delta_t + discount gae_lambda (1 - d_t) A_{t+1}``;
    target ``A_t + V_t``. ``V_T`` is ``last_values``. Where an episode was only cut off by its step limit and
    ``final_values`` are given, the latter take the place of ``V_{t+1} (1 - d_t)``; otherwise a time-out is a true end.

    :param rewards: ``[T, B]``
    :param dones: bool ``[T, B]``, after the step
    :param values: ``[T, B, K]`` at acting time
    :param last_values: ``[B, K]`` of the observation after the last step
    :param truncated: bool ``[T, B]``
    :param final_values: ``[T, B, K]``; used where ``truncated`` only
    """
    keep = discount * (~dones).to(values.dtype).unsqueeze(-1)  # [T, B, 1]
    next_values = torch.cat([values[1:], last_values.unsqueeze(0)])
    advantages = torch.addcmul(rewards.unsqueeze(-1) - values, keep, next_values)
    if final_values is not None:
        if truncated is None:
            raise ValueError("values of final observations are of use only together with the flags of truncation")
        advantages += discount * final_values.masked_fill(~truncated.unsqueeze(-1), 0.0)
    decay = gae_lambda * keep
    steps = advantages.unbind()
    for now, later, decay_now in zip(steps[-2::-1], steps[:0:-1], decay.unbind()[-2::-1], strict=True):
        now.addcmul_(decay_now, later)
    return advantages, advantages + values
