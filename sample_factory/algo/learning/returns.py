"""Advantages and value targets: GAE with validity mask, V-trace, time-out bootstrap.

All functions are pure. Trajectories are rows: rewards, dones ``[N, T]``, values, valids ``[N, T+1]``; suffix ``t`` in
names means time t, ``tp1`` time t+1. Nothing here reads a number back from the device.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sample_factory.algo.utils.rl_utils import gae_advantages, reverse_linear_recurrence


class Returns(NamedTuple):
    """``advantages`` and value ``targets``, both ``[N, T]``."""

    advantages: Tensor
    targets: Tensor


def bootstrap_time_outs(rewards: Tensor, values: Tensor, time_outs: Tensor, dones: Tensor, gamma: float) -> Tensor:
    """Rewards ``[N, T]`` with gamma * V(s_t) added where an episode ended by a time limit.

    A time limit is not a property of the task, so its end should not look like a terminal state (Pardo et al. 2018,
    arXiv 1712.00378). The value of the last *acted* state s_t stands in for that of the state after it, which
    environments with automatic reset never show. ``values`` ``[N, T+1]`` are denormalised.
    """
    _check_rollout_shapes(rewards, dones, values)
    ended_by_time_limit = (time_outs.bool() & dones.bool()).to(rewards.dtype)  # [N, T]
    return rewards + gamma * values[:, :-1] * ended_by_time_limit


def gae(rewards: Tensor, dones: Tensor, values: Tensor, valids: Tensor, gamma: float, gae_lambda: float) -> Returns:
    """Generalised advantage estimation (Schulman et al. 2016, arXiv 1506.02438), invalid steps are skipped over.

    delta_t = (r_t - V_t) m_t + (1 - d_t) gamma V_tp1 m_tp1
    A_t = delta_t + (1 - d_t) (gamma lambda m_t + 1 - m_t) A_tp1, A_T = 0;  target_t = A_t + m_t V_t
    """
    _check_rollout_shapes(rewards, dones, values)
    _check_same_shape("valids", valids, "values", values)
    advantages = gae_advantages(rewards, dones, values, valids, gamma, gae_lambda)  # [N, T]
    return Returns(advantages, advantages + valids[:, :-1] * values[:, :-1])


def vtrace(
    ratio: Tensor,
    rewards: Tensor,
    dones: Tensor,
    values: Tensor,
    valids: Tensor,
    *,
    gamma: float,
    rho_clip: float,
    c_clip: float,
) -> Returns:
    """V-trace (Espeholt et al. 2018, arXiv 1802.01561, equations 1-2 and section 4.2), invalid steps are skipped over.

    ``ratio`` ``[N, T]`` is pi_new / pi_behaviour; ``values`` ``[N, T+1]`` includes the bootstrap value V_T.
    rho_t = min(rho_clip, ratio_t), c_t = min(c_clip, ratio_t), gamma_t = gamma (1 - d_t); for a valid step
      x_t = rho_t (r_t + gamma_t m_tp1 V_tp1 - V_t) + gamma_t c_t x_tp1, x_T = 0
      target_t = V_t + x_t
      advantage_t = rho_t (r_t + gamma_t target_tp1 - V_t)
    An invalid step has no usable value, reward or ratio: it passes the estimate after it on, undiscounted, as in
    :func:`gae`, with which this agrees for ratio = 1 and lambda = 1.
    """
    _check_rollout_shapes(rewards, dones, values)
    _check_same_shape("ratio", ratio, "rewards", rewards)
    _check_same_shape("valids", valids, "values", values)

    zero = rewards.new_zeros(())
    m_t, m_tp1 = valids[:, :-1], valids[:, 1:]
    v_t = torch.where(m_t, values[:, :-1], zero)  # where, not multiplication: unwritten slots may hold NaN
    v_tp1 = torch.where(m_tp1, values[:, 1:], zero)
    not_done = 1.0 - dones.to(rewards.dtype)
    rho_t = ratio.clamp(max=rho_clip)
    c_t = ratio.clamp(max=c_clip)

    bootstrap = gamma * not_done * v_tp1
    delta_t = torch.where(m_t, rho_t * (rewards + bootstrap - v_t), bootstrap)
    decay_t = not_done * torch.where(m_t, gamma * c_t, torch.ones_like(c_t))
    x_t = reverse_linear_recurrence(delta_t.t(), decay_t.t()).t()
    targets = v_t + x_t  # [N, T]

    x_tp1 = torch.cat([x_t[:, 1:], torch.zeros_like(x_t[:, :1])], dim=1)
    advantages = rho_t * (rewards + gamma * not_done * (v_tp1 + x_tp1) - v_t)
    return Returns(torch.where(m_t, advantages, zero), targets)


def _check_rollout_shapes(rewards: Tensor, dones: Tensor, values: Tensor) -> None:
    if rewards.dim() != 2:
        raise ValueError(f"rewards must be [N, T], got shape {tuple(rewards.shape)}")
    _check_same_shape("dones", dones, "rewards", rewards)
    expected = (rewards.shape[0], rewards.shape[1] + 1)
    if tuple(values.shape) != expected:
        raise ValueError(f"values must be [N, T+1] = {expected}, got {tuple(values.shape)}")


def _check_same_shape(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    if tensor.shape != other.shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, {other_name} has {tuple(other.shape)}")
