"""Actor-critic with one trunk, an optional recurrent core, a policy head and one or more value heads."""

from __future__ import annotations

import itertools
from collections.abc import Collection

import torch
from torch import Generator, Tensor, nn

from sample_factory.algo.utils.products import linear, product_with
from sample_factory.model.capturable import ALWAYS, AUTO, NEVER, is_made_here
from sample_factory.ued.envs.interfaces import ObservationSpec
from sample_factory.ued.models.cores import Carry, Core, GruCore, LstmCore
from sample_factory.ued.models.distinct import DistinctObservations
from sample_factory.ued.models.init import ACTIVATION_GAINS, orthogonal_
from sample_factory.ued.models.options import ModelOptions
from sample_factory.ued.models.s5 import S5Core
from sample_factory.ued.models.sequences import tanh
from sample_factory.ued.models.trunk import KERNEL, Trunk
from sample_factory.ued.models.windows import WindowTable

_WORTH_PACKING = 1024  # rows
POLICY_INIT_SCALE = 0.01  # of the last layer: the first policy is all but uniform

Observations = dict[str, Tensor]


class Head(nn.Module):
    """Hidden layers with tanh, then a linear layer: ``[..., D]`` to ``[..., num_outputs]``."""

    def __init__(
        self, input_size: int, hidden_dim: int, num_hidden: int, num_outputs: int, generator: Generator | None = None
    ) -> None:
        super().__init__()
        sizes = [input_size] + [hidden_dim] * num_hidden
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        self.output = nn.Linear(sizes[-1], num_outputs)
        for layer in self.hidden:
            orthogonal_(layer.weight, ACTIVATION_GAINS["tanh"], generator)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        orthogonal_(self.output.weight, 1.0, generator)
        nn.init.zeros_(self.output.bias)

    @property
    def first(self) -> nn.Linear:
        """The layer that reads the input."""
        return self.hidden[0] if len(self.hidden) > 0 else self.output  # type: ignore[return-value]

    def rest(self, x: Tensor) -> Tensor:
        """What follows the first layer and its activation, whose output is ``x``."""
        if len(self.hidden) == 0:
            return x
        for layer in self.hidden[1:]:  # type: ignore[union-attr]
            x = torch.tanh(layer(x))
        return self.output(x)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.rest(torch.tanh(x)) if len(self.hidden) > 0 else x


class ActorCritic(nn.Module):
    """Values and policy logits of observations.

    :param ignored: names of observations that the network does not use
    :param generator: of the initial weights
    """

    def __init__(
        self,
        spec: ObservationSpec,
        num_actions: int,
        options: ModelOptions,
        ignored: Collection[str] = (),
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        self.num_actions = num_actions
        self.cuda_graphs = AUTO  # or ALWAYS, NEVER
        self.value_ensemble_size = options.value_ensemble_size
        self.trunk = Trunk(spec, options, ignored, generator)
        self.core = make_core(self.trunk.num_features, options, generator)
        head_sizes = (self.core.output_size, options.hidden_dim, options.n_hidden_layers)
        self.policy = Head(*head_sizes, num_actions, generator)
        self.values = nn.ModuleList(Head(*head_sizes, 1, generator) for _ in range(options.value_ensemble_size))
        with torch.no_grad():
            if options.constant_policy_init:
                self.policy.output.weight.fill_(POLICY_INIT_SCALE)
            else:
                self.policy.output.weight.mul_(POLICY_INIT_SCALE)

    @property
    def device(self) -> torch.device:
        return self.trunk.conv.weight.device

    @property
    def is_capturable(self) -> bool:
        """Whether CUDA graphs may hold what the network computes: on a GPU, if it is made of parts of this package."""
        if self.device.type != "cuda" or self.cuda_graphs == NEVER:
            return False
        return self.cuda_graphs == ALWAYS or is_made_here(self)

    @property
    def is_recurrent(self) -> bool:
        return self.core.is_recurrent

    def initial_carry(self, batch_size: int) -> Carry:
        """The carry of ``batch_size`` new episodes: zeros."""
        return self.core.initial_carry(batch_size)

    def step(self, obs: Observations, carry: Carry, reset: Tensor) -> tuple[Tensor, Tensor, Carry]:
        """Values ``[B, K]``, logits ``[B, A]`` and the next carry for observations ``[B, ...]``.

        The carry is taken as zero where ``reset`` (bool ``[B]``).
        """
        x, carry = self.core.step(self.trunk(obs), carry, reset)
        return *self.heads(x), carry

    def sequence(self, obs: Observations | DistinctObservations, carry: Carry, resets: Tensor) -> tuple[Tensor, Tensor]:
        """Values ``[T, B, K]`` and logits ``[T, B, A]`` for observations ``[T, B, ...]``, from the ``carry`` before the
        first step; ``resets`` bool ``[T, B]``. Without recurrence there can be any batch axes.
        """
        distinct = obs if isinstance(obs, DistinctObservations) else self.prepare(obs, resets.ndim)
        layer = self.core.input_layer
        if layer is None:
            values, logits = self.heads(self.trunk(distinct.obs))
            return values[distinct.rows], logits[distinct.rows]
        if distinct.windows is not None:
            projected = self.trunk.window_product(distinct.obs, distinct.windows, *layer)
        else:
            projected = linear(self.trunk(distinct.obs), *layer)
        rows = None if distinct.are_in_order else distinct.rows
        return self.heads(self.core.sequence(projected, rows, carry, resets))

    def prepare(self, obs: Observations, batch_ndim: int) -> DistinctObservations:
        """What ``sequence`` does first with observations of ``batch_ndim`` batch axes; worth keeping if it is called
        several times with the same ones.
        """
        if self.trunk.is_small or self.core.input_layer is None or batch_ndim != 2:
            return DistinctObservations.of(obs, batch_ndim)
        if obs["image"].device.type == "cpu":
            windows = WindowTable.of(obs["image"], KERNEL)
            if windows is not None:
                size = windows.changes.shape[0]
                flat = {name: x.flatten(0, 1) for name, x in obs.items()}
                return DistinctObservations(flat, torch.arange(size).view(-1, windows.num_envs), windows)
        return DistinctObservations.of(obs, batch_ndim)

    def sequence_by_steps(self, obs: Observations, carry: Carry, resets: Tensor) -> tuple[Tensor, Tensor]:
        """The same values as ``sequence``, step by step: the plain reference."""
        return self.heads(self.core.sequence_by_steps(self.trunk(obs), carry, resets))

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Values ``[..., K]`` and logits ``[..., A]`` of core outputs ``[..., H]``."""
        policy, *values = _head_outputs([self.policy, *self.values], x)  # type: ignore[list-item]
        return torch.cat(values, dim=-1), policy

    def head_values(self, x: Tensor) -> Tensor:
        """Values ``[..., K]`` alone."""
        return torch.cat(_head_outputs(list(self.values), x), dim=-1)  # type: ignore[arg-type]


def _head_outputs(heads: list[Head], x: Tensor) -> list[Tensor]:
    """Outputs of all heads for the same input; they share one product with it."""
    layers = [head.first for head in heads]
    weight, bias = (torch.cat([getattr(layer, name) for layer in layers]) for name in ("weight", "bias"))
    rows = x.flatten(0, -2)
    if torch.is_grad_enabled() or len(rows) < _WORTH_PACKING:
        joint = linear(x, weight, bias)
    else:
        joint = product_with(weight, len(rows))(rows).add_(bias).unflatten(0, x.shape[:-1])
    if len(heads[0].hidden) > 0:
        joint = tanh(joint)
    outputs = joint.split([layer.out_features for layer in layers], dim=-1)
    return [head.rest(output) for head, output in zip(heads, outputs, strict=True)]


def make_core(input_size: int, options: ModelOptions, generator: Generator | None = None) -> Core:
    """The recurrent core that ``options`` ask for."""
    size = options.recurrent_hidden_dim
    if options.recurrent_arch == "lstm":
        return LstmCore(input_size, size, generator)
    if options.recurrent_arch == "gru":
        return GruCore(input_size, size, generator)
    if options.recurrent_arch == "s5":
        return S5Core(
            input_size,
            size,
            options.s5_n_layers,
            options.s5_n_blocks,
            options.s5_activation,
            options.s5_layernorm_pos,
            generator,
        )
    return Core(input_size, input_size)
