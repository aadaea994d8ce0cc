"""Policies whose actions are known."""

from __future__ import annotations

import torch
from torch import Tensor

from sample_factory.ued.models.cores import Carry

NUM_ACTIONS = 7
_CERTAIN = 1e6


class ScriptedModel:
    """Moves that depend on what is seen and on the number of steps since the start of the episode."""

    num_actions = NUM_ACTIONS

    def initial_carry(self, batch_size: int) -> Carry:
        return (torch.zeros(batch_size, 1),)

    def step(self, obs: dict[str, Tensor], carry: Carry, reset: Tensor) -> tuple[Tensor, Tensor, Carry]:
        count = carry[0] * (~reset)[:, None]
        seen = (obs["image"].flatten(1) * 10).sum(1).long()
        action = (seen + 3 * obs["agent_dir"] + 5 * count[:, 0].long()) % 3
        logits = obs["image"].new_zeros(len(action), NUM_ACTIONS)
        logits[range(len(action)), action] = _CERTAIN
        return count, logits, (count + 1,)


class UniformModel(ScriptedModel):
    """Chooses each of the three actions that do anything equally often."""

    def step(self, obs: dict[str, Tensor], carry: Carry, reset: Tensor) -> tuple[Tensor, Tensor, Carry]:
        values, logits, carry = super().step(obs, carry, reset)
        logits.fill_(-_CERTAIN)
        logits[:, :3] = 0.0
        return values, logits, carry
