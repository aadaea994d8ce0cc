"""From policy requests to model inputs, and from model outputs to trajectory rows.

Requests address rows and one rollout step of the trajectory tensors, so a batch is gathered from, and results are
scattered to, columns ``[rows, step]``. A single request of a whole split, the common case in small runs, is read
through a view.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sample_factory.algo.utils.action_distributions import argmax_actions
from sample_factory.algo.utils.policy_channel import PolicyRequest
from sample_factory.algo.utils.rl_utils import prepare_and_normalize_obs
from sample_factory.algo.utils.shared_buffers import BufferMgr
from sample_factory.algo.utils.tensor_dict import TensorDict
from sample_factory.model.actor_critic import ActorCritic
from sample_factory.utils.typing import Device, PolicyID

ACTION_MASK_KEY = "action_mask"
# Outputs stored per step, in the order they are packed; next recurrent states go to the following step.
_OUTPUTS = ("actions", "action_logits", "log_prob_actions", "values")


@dataclass(frozen=True)
class RowsAtStep:
    """Rows of the trajectory tensors that need actions at one rollout step."""

    rows: slice | np.ndarray
    step: int
    num_rows: int


class RequestBatch:
    """Requests of one policy whose trajectories live on one device, served by one forward pass."""

    def __init__(self, traj_tensors: TensorDict, device: Device, parts: Sequence[RowsAtStep]) -> None:
        self.traj, self.device, self.parts = traj_tensors, device, parts
        self.num_samples = sum(part.num_rows for part in parts)

    def inputs(self) -> tuple[TensorDict, Tensor]:
        """``obs`` dict of ``[b, ...]`` tensors and recurrent states ``[b, rnn_size]``; fresh or views, not to be
        modified.
        """
        obs = TensorDict((key, self._gather(tensor)) for key, tensor in self.traj["obs"].items())
        return obs, self._gather(self.traj["rnn_states"])

    def _gather(self, tensor: Tensor) -> Tensor:
        pieces = [tensor[part.rows, part.step] for part in self.parts]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def store(self, columns: Sequence[Tensor], policy_version: int) -> None:
        """Write the columns ``[b, k]`` of :func:`act` where they were computed for."""
        if self.device == "cpu" and columns[0].device.type != "cpu":
            # One transfer, not one for each.
            columns = torch.cat(list(columns), dim=1).cpu().split([column.shape[1] for column in columns], dim=1)
        start = 0
        for part in self.parts:
            rows, step, stop = part.rows, part.step, start + part.num_rows
            for name, column in zip(_OUTPUTS, columns, strict=False):
                target = self.traj[name]
                values = column[start:stop]
                target[rows, step] = values if target.dim() > 2 else values[:, 0]
            self.traj["rnn_states"][rows, step + 1] = columns[-1][start:stop]
            self.traj["policy_version"][rows, step] = policy_version
            start = stop


def rows_of_request(buffer_mgr: BufferMgr, policy_id: PolicyID, request: PolicyRequest) -> slice | np.ndarray:
    """Rows within the block that the policy acts for."""
    if not request.partial:
        return slice(None)
    agent_policy = buffer_mgr.channel.agent_policy[request.worker_idx, request.split_idx]
    return np.flatnonzero(agent_policy == policy_id)


def make_request_batches(
    buffer_mgr: BufferMgr, policy_id: PolicyID, requests: Sequence[PolicyRequest]
) -> list[RequestBatch]:
    """One batch per trajectory device (one in all, unless rollout workers have GPUs of their own)."""
    parts: dict[Device, list[RowsAtStep]] = {}
    for request in requests:
        block = buffer_mgr.blocks[request.block_idx]
        rows = rows_of_request(buffer_mgr, policy_id, request)
        if isinstance(rows, slice):
            part = RowsAtStep(block.rows, request.rollout_step, block.stop - block.start)
        else:
            part = RowsAtStep(rows + block.start, request.rollout_step, len(rows))
        if part.num_rows:
            parts.setdefault(block.device, []).append(part)
    return [
        RequestBatch(buffer_mgr.traj_tensors_torch[device], device, device_parts)
        for device, device_parts in parts.items()
    ]


def act(
    actor_critic: ActorCritic, obs: TensorDict, rnn_states: Tensor, device: torch.device, deterministic: bool
) -> list[Tensor]:
    """Actions for a batch: normalise, forward, then sample or take the most likely ones.

    :param obs: observations ``[b, ...]`` by name; the dict is changed
    :returns: actions, their logits and log-probabilities, values and new recurrent states, float32 ``[b, k]`` each
    """
    action_mask = obs.pop(ACTION_MASK_KEY, None)
    normalized_obs = prepare_and_normalize_obs(actor_critic, obs)
    rnn_states = rnn_states.to(device)
    # Models written for older versions have no action_mask parameter.
    mask = {} if action_mask is None else {"action_mask": action_mask.to(device)}
    outputs = actor_critic(normalized_obs, rnn_states, **mask)
    if deterministic:
        outputs["actions"] = argmax_actions(actor_critic.action_distribution())
    num_samples = len(rnn_states)
    return [outputs[name].reshape(num_samples, -1).float() for name in (*_OUTPUTS, "new_rnn_states")]
