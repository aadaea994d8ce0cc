"""Forward pass and losses of one minibatch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sample_factory.algo.learning import host_returns
from sample_factory.algo.learning.fused_losses import EstimateReturns, Tape, can_fuse, fused_losses
from sample_factory.algo.learning.losses import (
    LossOutput,
    SampleMask,
    clipped_policy_loss,
    clipped_value_loss,
    exploration_loss,
    fixed_kl_loss,
    importance_ratio,
    normalize_advantages,
)
from sample_factory.algo.learning.preparation import ACTION_MASK_KEY
from sample_factory.algo.learning.returns import Returns, vtrace
from sample_factory.algo.learning.rnn_utils import build_core_out_from_seq, build_rnn_inputs
from sample_factory.algo.utils.action_distributions import get_action_distribution
from sample_factory.algo.utils.cuda_graphs import is_capturing
from sample_factory.cfg.shadowing import flag_value
from sample_factory.model.gru_gpu import gru_sequence
from sample_factory.model.standard_network import StandardNetwork
from sample_factory.utils.attr_dict import AttrDict
from sample_factory.utils.typing import ActionDistribution, ActionSpace, Config


def computes_in_bfloat16(cfg: Config) -> bool:
    """Whether ``--mixed_precision=bf16``; configurations of Sample Factory 2 do not have the flag."""
    return bool(flag_value(cfg, "mixed_precision") == "bf16")


def old_action_distribution(mb: Mapping[str, Any], action_space: ActionSpace) -> ActionDistribution:
    """The behaviour policy's distribution, rebuilt from stored logits ``[B, num_params]`` (and the action mask)."""
    return get_action_distribution(action_space, mb["action_logits"], mb.get(ACTION_MASK_KEY))


def _features(actor_critic: Any, mb: AttrDict, cfg: Config) -> Tensor:
    """Output of encoders and core ``[B, H]``."""
    if not computes_in_bfloat16(cfg):
        return _core_output(actor_critic, actor_critic.forward_head(mb.normalized_obs), mb, cfg)
    device_type = next(iter(mb.normalized_obs.values())).device.type
    with torch.autocast(device_type, dtype=torch.bfloat16):
        head_output = actor_critic.forward_head(mb.normalized_obs)
        if device_type == "cuda":
            return _core_output(actor_critic, head_output, mb, cfg).float()
    return _core_output(actor_critic, head_output.float(), mb, cfg)  # torch has no such core for the CPU


def _core_output(actor_critic: Any, head_output: Tensor, mb: AttrDict, cfg: Config) -> Tensor:
    if not cfg.use_rnn:
        return actor_critic.forward_core(head_output, mb.rnn_states[:: cfg.recurrence])[0]
    if is_capturing():
        ends = mb.dones.bool() | ~mb.valids.bool()
        states = mb.rnn_states[:: cfg.recurrence]
        return gru_sequence(actor_critic.core.core, head_output, states, ends, cfg.recurrence)
    core_input, rnn_states, inverted_select_inds = build_rnn_inputs(
        head_output, _starts_anew(mb).float(), mb.rnn_states, cfg.recurrence
    )
    core_sequences, _ = actor_critic.forward_core(core_input, rnn_states)
    return build_core_out_from_seq(core_sequences, inverted_select_inds)


def _starts_anew(mb: AttrDict) -> Tensor:
    """Steps after which the recurrent state is reset, bool ``[B]`` on the CPU: ends of episodes and gaps."""
    valids = mb.valids_cpu if "valids_cpu" in mb else mb.valids.cpu()
    return torch.logical_or(mb.dones_cpu, ~valids.bool())


def forward_minibatch(
    actor_critic: Any, mb: AttrDict, cfg: Config, network: StandardNetwork | None = None, tape: Tape | None = None
) -> tuple[ActionDistribution, Tensor]:
    """Current action distribution and values ``[B]`` of the samples; states do not flow across episodes or gaps.

    ``network``: that of ``actor_critic``, if it is a standard one. ``tape``: takes the place of autograd.
    """
    if network is not None:
        if tape is not None:
            heads = tape.heads = network.record(mb.normalized_obs, computes_in_bfloat16(cfg))
            logits, values = heads.logits, heads.values
        else:
            ends = _starts_anew(mb).numpy() if network.gru_layers else None
            logits, values = network.forward(
                mb.normalized_obs, mb.rnn_states, ends, cfg.recurrence, computes_in_bfloat16(cfg)
            )
        distribution = get_action_distribution(actor_critic.action_space, logits, mb.get(ACTION_MASK_KEY))
        actor_critic.last_action_distribution = distribution
        return distribution, values
    core_output = _features(actor_critic, mb, cfg)
    # Overrides written for Sample Factory 2.1.1 do not know the mask.
    mask_args = {ACTION_MASK_KEY: mb[ACTION_MASK_KEY]} if ACTION_MASK_KEY in mb else {}
    result = actor_critic.forward_tail(core_output, values_only=False, sample_actions=False, **mask_args)
    return actor_critic.action_distribution(), result["values"].reshape(-1)


def advantages_and_targets(mb: AttrDict, ratio: Tensor, values: Tensor, cfg: Config) -> Returns:
    """``[B]`` each: those computed with the dataset, or V-trace with the current values and ratios."""
    if not cfg.with_vtrace:
        return Returns(mb.advantages, mb.returns)
    with torch.no_grad():
        shape = (-1, cfg.recurrence)  # [B / recurrence, recurrence]
        last = slice(cfg.recurrence - 1, None, cfg.recurrence)
        valids = mb.valids.reshape(shape)
        returns = vtrace(
            ratio.reshape(shape),
            mb.rewards.reshape(shape),
            mb.dones.reshape(shape),
            torch.cat([values.reshape(shape), mb.next_values[last].reshape(-1, 1)], dim=1),
            torch.cat([valids, valids[:, -1:]], dim=1),
            gamma=cfg.gamma,
            rho_clip=cfg.vtrace_rho,
            c_clip=cfg.vtrace_c,
        )
        return Returns(returns.advantages.reshape(-1), returns.targets.reshape(-1))


def _numpy_returns(mb: AttrDict, num_invalids: int, cfg: Config) -> EstimateReturns:
    """:func:`advantages_and_targets` of arrays."""
    if not cfg.with_vtrace:
        return lambda ratio, values: (mb.advantages.numpy(), mb.returns.numpy())
    shape = (-1, cfg.recurrence)  # [B / recurrence, recurrence]

    def estimate(ratio: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        advantages, targets = host_returns.vtrace(
            ratio.reshape(shape),
            mb.rewards.numpy().reshape(shape),
            mb.dones.numpy().reshape(shape),
            values.reshape(shape),
            mb.next_values.numpy()[cfg.recurrence - 1 :: cfg.recurrence],
            mb.valids.numpy().reshape(shape) if num_invalids > 0 else None,
            gamma=cfg.gamma,
            rho_clip=cfg.vtrace_rho,
            c_clip=cfg.vtrace_c,
        )
        return advantages.reshape(-1), targets.reshape(-1)

    return estimate


def minibatch_losses(
    distribution: ActionDistribution,
    values: Tensor,
    mb: AttrDict,
    num_invalids: int,
    action_space: ActionSpace,
    cfg: Config,
    tape: Tape | None = None,
) -> LossOutput:
    """All PPO losses of one minibatch with ``num_invalids`` invalid samples; coefficients are taken from ``cfg``."""
    if can_fuse(distribution, values, mb, cfg):
        return fused_losses(distribution, values, mb, num_invalids, cfg, _numpy_returns(mb, num_invalids, cfg), tape)
    mask = SampleMask.make(mb.valids, num_invalids)
    ratio = importance_ratio(distribution.log_prob(mb.actions), mb.log_prob_actions)  # [B]
    clip_high = 1.0 + cfg.ppo_clip_ratio
    clip_low = 1.0 / clip_high

    with torch.no_grad():
        raw_advantages, targets = advantages_and_targets(mb, ratio.detach(), values.detach(), cfg)
        advantages, adv_mean, adv_std = normalize_advantages(raw_advantages, mask)

    kl_old, kl_loss = fixed_kl_loss(distribution, old_action_distribution(mb, action_space), cfg.kl_loss_coeff, mask)
    return LossOutput(
        policy_loss=clipped_policy_loss(ratio, advantages, clip_low, clip_high, mask),
        exploration_loss=exploration_loss(distribution, cfg.exploration_loss, cfg.exploration_loss_coeff, mask),
        kl_old=kl_old,
        kl_loss=kl_loss,
        value_loss=clipped_value_loss(values, mb["values"], targets, cfg.ppo_clip_value, cfg.value_loss_coeff, mask),
        summaries={
            "ratio": ratio.detach(),
            "clip_ratio_low": clip_low,
            "clip_ratio_high": clip_high,
            "values": values.detach(),
            "adv": raw_advantages,
            "adv_std": adv_std,
            "adv_mean": adv_mean,
        },
    )
