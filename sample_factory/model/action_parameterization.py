"""The actor's head: from features to the parameters of the action distribution."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from sample_factory.algo.utils.action_distributions import (
    ActionMask,
    calc_num_action_parameters,
    calc_num_actions,
    get_action_distribution,
    is_continuous_action_space,
)
from sample_factory.utils.typing import ActionSpace, Config


class ActionsParameterization(nn.Module):
    """Base: ``forward(features [b, D], action_mask=None) -> (action logits [b, num_parameters], distribution)``."""

    def __init__(self, cfg: Config, action_space: ActionSpace):
        super().__init__()
        self.cfg = cfg
        self.action_space = action_space


class ActionParameterizationDefault(ActionsParameterization):
    """One linear layer gives all parameters."""

    def __init__(self, cfg: Config, core_out_size: int, action_space: ActionSpace):
        super().__init__(cfg, action_space)
        self.distribution_linear = nn.Linear(core_out_size, calc_num_action_parameters(action_space))

    def forward(self, actor_core_output: Tensor, action_mask: ActionMask | None = None) -> tuple[Tensor, Any]:
        parameters = self.distribution_linear(actor_core_output)
        return parameters, get_action_distribution(self.action_space, parameters, action_mask)


class ActionParameterizationContinuousNonAdaptiveStddev(ActionsParameterization):
    """Box actions whose standard deviations are learned, but do not depend on the observation.

    ``continuous_tanh_scale = s > 0`` bounds the means: ``s * tanh(mean / s)``.
    """

    def __init__(self, cfg: Config, core_out_size: int, action_space: ActionSpace):
        super().__init__(cfg, action_space)
        assert not cfg.adaptive_stddev and is_continuous_action_space(action_space)
        num_actions = calc_num_actions(action_space)
        self.tanh_scale = float(cfg.continuous_tanh_scale)
        # Named and initialised as in Sample Factory 2: it holds the logarithm.
        self.learned_stddev = nn.Parameter(torch.full([num_actions], math.log(cfg.initial_stddev)))
        self.distribution_linear = nn.Linear(core_out_size, num_actions)

    def forward(self, actor_core_output: Tensor, action_mask: ActionMask | None = None) -> tuple[Tensor, Any]:
        means = self.distribution_linear(actor_core_output)
        if self.tanh_scale > 0:
            means = torch.tanh(means / self.tanh_scale) * self.tanh_scale
        parameters = torch.cat([means, self.learned_stddev.expand_as(means)], dim=1)
        return parameters, get_action_distribution(self.action_space, parameters, action_mask)
