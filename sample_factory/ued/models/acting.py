"""Networks while acting: few operations per step, none of which could be done once for the whole rollout.

A step computes what the next action depends on. Values wait until the end, when one pass gives those of all steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from sample_factory.algo.utils.products import product_with
from sample_factory.ued.models import lstm_gpu
from sample_factory.ued.models.actor_critic import ActorCritic, Observations
from sample_factory.ued.models.cores import Carry, Core, GruCore, LstmCore, masked
from sample_factory.ued.models.s5 import S5Core, S5Layer
from sample_factory.ued.models.sequences import tanh_in_place
from sample_factory.ued.models.trunk import Trunk

_ALIGNMENT = 16  # matrix products are faster if sizes are multiples of it


class CoreActor:
    """The core of a network, its carry, and a place for its input; the base class calls ``core.step``.

    ``features``: where the input of the next step belongs, ``[B, D]``.
    """

    def __init__(self, core: Core, carry: Carry, num_envs: int, device: torch.device) -> None:
        self._core, self._carry = core, carry
        self.features = torch.zeros(num_envs, core.input_size, device=device)
        self._no_reset = torch.zeros(num_envs, dtype=torch.bool, device=device)

    @property
    def carry(self) -> Carry:
        """A copy of the carry after the last step."""
        return tuple(part.clone() for part in self._carry)

    def reset(self, idx: Tensor) -> None:
        """Set the carry of some environments to zero: int64 ``[n]``, or a flag for each, bool ``[B]``."""
        if idx.dtype == torch.bool:
            self._carry = masked(self._carry, idx)
        else:
            self._carry = tuple(part.index_fill(0, idx, 0) for part in self._carry)

    def step(self, output: Tensor) -> None:
        """Read ``features``, advance the carry, and write the core's output ``[B, H]`` to ``output``."""
        x, self._carry = self._core.step(self.features, self._carry, self._no_reset)
        output.copy_(x)


class _JointInput:
    """Features, hidden state and a constant one side by side, so that a step needs a single matrix product."""

    def __init__(self, hidden: Tensor, num_features: int) -> None:
        num_envs, size = hidden.shape
        width = -(-(num_features + size + 1) // _ALIGNMENT) * _ALIGNMENT
        self.joint = torch.zeros(num_envs, width)
        self.features = self.joint[:, :num_features]
        self.hidden = self.joint[:, num_features : num_features + size]
        self.hidden.copy_(hidden)
        self.joint[:, num_features + size] = 1.0

    def product_with(
        self, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor, num_negated: int = 0
    ) -> Callable[[], Tensor]:
        """A function that gives ``weight_ih x + weight_hh h + bias``, ``[B, G]``, its first columns negated."""
        padding = weight_ih.new_zeros(len(bias), self.joint.shape[1] - weight_ih.shape[1] - weight_hh.shape[1] - 1)
        weight = torch.cat([weight_ih, weight_hh, bias.unsqueeze(1), padding], dim=1)
        weight[:num_negated].neg_()
        multiply = product_with(weight, len(self.joint))
        return lambda: multiply(self.joint)


class LstmActor(CoreActor):
    """Divides by ``1 + exp(-x)`` instead of multiplying by ``sigmoid(x)``: two passes less over the gates."""

    def __init__(self, core: LstmCore, carry: Carry, num_envs: int) -> None:
        size = core.output_size
        self._gates_size = 3 * size
        self._input = _JointInput(carry[1], core.input_size)
        self.features, self._hidden = self._input.features, self._input.hidden
        self._multiply = self._input.product_with(core.weight_ih, core.weight_hh, core.bias, num_negated=3 * size)
        self._cell = carry[0].clone()
        self._cell_array, self._hidden_array = self._cell.numpy(), self._hidden.numpy()
        # Dense arrays of its own are faster than the columns of the product.
        self._divisors = np.empty((num_envs, 3 * size), np.float32)
        self._input_divisor, self._forget_divisor, self._output_divisor = np.split(self._divisors, 3, axis=1)
        self._candidate = np.empty((num_envs, size), np.float32)

    @property
    def carry(self) -> Carry:
        return self._cell.clone(), self._hidden.clone()

    def reset(self, idx: Tensor) -> None:
        _clear_rows(self._cell, idx)
        _clear_rows(self._hidden, idx)

    @np.errstate(over="ignore")  # the divisor of a closed gate can be infinite
    def step(self, output: Tensor) -> None:
        product = self._multiply().numpy()
        np.exp(product[:, : self._gates_size], out=self._divisors)
        self._divisors += 1.0
        candidate, cell, hidden = self._candidate, self._cell_array, output.numpy()
        np.tanh(product[:, self._gates_size :], out=candidate)
        candidate /= self._input_divisor
        cell /= self._forget_divisor
        cell += candidate
        np.tanh(cell, out=hidden)
        hidden /= self._output_divisor
        self._hidden_array[...] = hidden


class GruActor(CoreActor):
    """Divides as :class:`LstmActor` does."""

    def __init__(self, core: GruCore, carry: Carry, num_envs: int) -> None:
        size = self._size = core.output_size
        self._input = _JointInput(carry[0], core.input_size)
        self.features, self._hidden = self._input.features, self._input.hidden
        # r and z of input and state together, then n of the input, then n of the state.
        input_weight = torch.cat([core.weight_ih, torch.zeros(size, core.input_size)])
        none, recurrent = torch.zeros(size, size), core.weight_hh
        hidden_weight = torch.cat([recurrent[: 2 * size], none, recurrent[2 * size :]])
        self._multiply = self._input.product_with(
            input_weight, hidden_weight, torch.cat([core.bias, core.candidate_bias]), num_negated=2 * size
        )
        self._hidden_array = self._hidden.numpy()
        self._divisors = np.empty((num_envs, 2 * size), np.float32)
        self._reset_divisor, self._update_divisor = np.split(self._divisors, 2, axis=1)
        self._candidate = np.empty((num_envs, size), np.float32)

    @property
    def carry(self) -> Carry:
        return (self._hidden.clone(),)

    def reset(self, idx: Tensor) -> None:
        _clear_rows(self._hidden, idx)

    @np.errstate(over="ignore")
    def step(self, output: Tensor) -> None:
        product, size = self._multiply().numpy(), self._size
        np.exp(product[:, : 2 * size], out=self._divisors)
        self._divisors += 1.0
        candidate, hidden = self._candidate, output.numpy()
        np.divide(product[:, 3 * size :], self._reset_divisor, out=candidate)
        candidate += product[:, 2 * size : 3 * size]
        np.tanh(candidate, out=candidate)
        np.subtract(self._hidden_array, candidate, out=hidden)
        hidden /= self._update_divisor
        hidden += candidate
        self._hidden_array[...] = hidden


def _clear_rows(x: Tensor, idx: Tensor) -> None:
    """Set rows of ``x`` ``[B, H]`` to zero: int64 ``[n]``, or a flag for each, bool ``[B]``."""
    if idx.dtype == torch.bool:
        x.masked_fill_(idx.unsqueeze(1), 0.0)
    else:
        x.index_fill_(0, idx, 0.0)


class GpuLstmActor(CoreActor):
    """Three kernels per step besides copying the output."""

    def __init__(self, core: LstmCore, carry: Carry, num_envs: int, device: torch.device) -> None:
        super().__init__(core, carry, num_envs, device)
        self._weight_ih, self._weight_hh, self._bias = (
            lstm_gpu.in_order_of_torch(x.detach()) for x in (core.weight_ih.t(), core.weight_hh.t(), core.bias)
        )

    def step(self, output: Tensor) -> None:
        cell, hidden = self._carry
        from_input = torch.addmm(self._bias, self.features, self._weight_ih)
        hidden, cell, _ = lstm_gpu.lstm_step(from_input, torch.mm(hidden, self._weight_hh), cell)
        self._carry = cell, hidden
        output.copy_(hidden)


class S5Actor(CoreActor):
    """On any device."""

    def __init__(self, core: S5Core, carry: Carry, num_envs: int, device: torch.device) -> None:
        super().__init__(core, carry, num_envs, device)
        self._encoder = core.encoder
        self._layers: list[tuple[S5Layer, Tensor, Tensor, Tensor, Tensor]] = []
        for layer in core.layers:
            transition, input_matrix, output_matrix = layer.state_space.matrices()  # type: ignore[union-attr, operator]
            d = layer.state_space.d  # type: ignore[union-attr]
            self._layers.append((layer, transition, input_matrix.t(), output_matrix.t(), d))  # type: ignore[arg-type]

    def step(self, output: Tensor) -> None:
        x = self._encoder(self.features)
        carry = []
        for (layer, transition, input_matrix, output_matrix, d), state in zip(self._layers, self._carry, strict=True):
            u = layer.before(x)
            inputs = torch.view_as_complex(torch.mm(u, input_matrix).view(len(u), -1, 2))
            state = inputs.addcmul_(transition, state)
            y = torch.addcmul(torch.mm(torch.view_as_real(state).flatten(1), output_matrix), u, d)
            x = layer.after(x, y)
            carry.append(state)
        self._carry = tuple(carry)
        output.copy_(x)


class Actor:
    """A network that acts in ``num_envs`` environments for at most ``num_steps`` steps, from ``carry`` on."""

    def __init__(self, model: ActorCritic, num_steps: int, num_envs: int, carry: Carry) -> None:
        self._model = model
        self._core = _core_actor(model.core, carry, num_envs, model.device)
        self._write_features = features_writer(model.trunk, self._core.features)
        self._outputs = self._core.features.new_empty(num_steps, num_envs, model.core.output_size)
        self._logits = self._outputs.new_empty(num_steps, num_envs, model.num_actions)
        # Indexing takes longer than going through a list.
        self._places = iter(list(zip(self._outputs.unbind(), self._logits.unbind(), strict=True)))
        self._policy = _policy_function(model, num_envs)

    def act(self, obs: Observations) -> Tensor:
        """Policy logits ``[B, A]``."""
        self._write_features(obs)
        output, logits = next(self._places)
        self._core.step(output)
        self._policy(output, logits)
        return logits

    def reset(self, idx: Tensor) -> None:
        """Begin new episodes in some environments: int64 ``[n]``, or a flag for each, bool ``[B]``."""
        self._core.reset(idx)

    @property
    def carry(self) -> Carry:
        """A copy of the carry after the last step."""
        return self._core.carry

    @property
    def outputs(self) -> Tensor:
        """What the values of all steps depend on, ``[T, B, H]``."""
        return self._outputs

    @property
    def logits(self) -> Tensor:
        """Of all steps, ``[T, B, A]``."""
        return self._logits

    def next_values(self, obs: Observations) -> Tensor:
        """Values ``[B, K]`` of the observations after the last step; the carry is of no use afterwards."""
        self._write_features(obs)
        output = torch.empty_like(self._outputs[0])
        self._core.step(output)
        return self._model.head_values(output)


def _core_actor(core: Core, carry: Carry, num_envs: int, device: torch.device) -> CoreActor:
    if type(core) is LstmCore:
        return (
            GpuLstmActor(core, carry, num_envs, device) if device.type == "cuda" else LstmActor(core, carry, num_envs)
        )
    if type(core) is GruCore and device.type == "cpu":
        return GruActor(core, carry, num_envs)
    if type(core) is S5Core:
        return S5Actor(core, carry, num_envs, device)
    return CoreActor(core, carry, num_envs, device)


def features_writer(trunk: Trunk, features: Tensor) -> Callable[[Observations], None]:
    """A function that writes the features of observations into ``features`` ``[B, D]``."""
    if trunk.activation != "relu" or not trunk.is_small:

        def write(obs: Observations) -> None:
            features.copy_(trunk(obs))

        return write

    size = trunk.positions * trunk.channels
    matrix, bias = (x.detach() for x in trunk.dense_convolution())
    num_inputs, convolve = len(matrix), _affine_map(matrix, bias)
    maps = features.new_empty(len(features), size)
    rectify = _rectifier(maps, features[:, :size])
    tables, start = [], size
    for name, layer in trunk.scalars.items():
        if isinstance(layer, nn.Embedding):
            tables.append((name, _row_copier(layer.weight.detach(), features[:, start : start + layer.embedding_dim])))
            start += layer.embedding_dim
    rest = [] if start == features.shape[1] else [features[:, size:]]

    def write_small(obs: Observations) -> None:
        images = obs["image"].view(-1, num_inputs)
        convolve(images if images.dtype == maps.dtype else images.to(maps.dtype), maps)
        rectify()
        for name, copy_rows in tables:
            copy_rows(obs[name])
        for target in rest:
            torch.cat(trunk.other_features(obs), dim=1, out=target)

    return write_small


# NumPy's functions cost a third of torch's to call after a large product, which leaves nothing in the caches.


def _affine_map(weight: Tensor, bias: Tensor) -> Callable[[Tensor, Tensor], object]:
    """A function that writes ``x weight + bias`` into its second argument; ``weight`` ``[D, G]``."""
    if weight.device.type != "cpu":
        return lambda x, out: torch.addmm(bias, x, weight, out=out)
    matrix, constant = weight.numpy(), bias.numpy()

    def write(x: Tensor, out: Tensor) -> None:
        array = out.numpy()
        np.matmul(x.numpy(), matrix, out=array)
        array += constant

    return write


def _affine_layer(layer: nn.Linear) -> Callable[[Tensor, Tensor], object]:
    return _affine_map(layer.weight.detach().t().contiguous(), layer.bias.detach())


def _rectifier(source: Tensor, target: Tensor) -> Callable[[], object]:
    """A function that writes ``max(source, 0)`` into ``target``, whatever ``source`` is at that time."""
    if source.device.type != "cpu":
        return lambda: torch.clamp_min(source, 0.0, out=target)
    array, result = source.numpy(), target.numpy()
    return lambda: np.maximum(array, 0.0, out=result)


def _row_copier(table: Tensor, target: Tensor) -> Callable[[Tensor], object]:
    """A function that copies rows of the table, int64 ``[B]``, to ``target`` ``[B, D]``."""
    if table.device.type != "cpu":
        return lambda rows: target.copy_(table.index_select(0, rows))
    source, array = table.numpy(), target.numpy()

    def copy(rows: Tensor) -> None:
        array[...] = source.take(rows.numpy(), axis=0)

    return copy


def _policy_function(model: ActorCritic, num_envs: int) -> Callable[[Tensor, Tensor], None]:
    """A function of the core's output ``[B, H]`` that writes the logits ``[B, A]`` into its second argument."""
    layers = []
    for module in model.policy.hidden:
        layer = cast(nn.Linear, module)
        result = layer.weight.new_empty(num_envs, layer.out_features)
        layers.append((_affine_layer(layer), result, tanh_in_place(result)))
    write_logits = _affine_layer(model.policy.output)

    def write(x: Tensor, logits: Tensor) -> None:
        for write_layer, result, activate in layers:
            write_layer(x, result)
            activate()
            x = result
        write_logits(x, logits)

    return write
