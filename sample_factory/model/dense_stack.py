"""Stacks of linear layers with one activation, computed forwards and backwards without a tape, on the CPU.

The arithmetic is that of ``nn.Linear`` and of the activation modules; what is saved is the cost of several dozen small
operators and of torch's scalar loops for exponentials. Only plain float32 layers qualify, see :func:`plain_stack`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sample_factory.algo.utils.products import affine, product
from sample_factory.algo.utils.row_threads import (
    MIN_FLOPS_PER_CALL,
    MIN_FLOPS_PER_ROW,
    add_gradients,
    row_parts,
    run_together,
    without_gradient,
)

_ACTIVATIONS: dict[type[nn.Module], str] = {nn.ELU: "elu", nn.ReLU: "relu", nn.Tanh: "tanh"}
_BLOCK_NUMBERS = 2**18
"""Of the widest layer of a block of rows, 1 MB: what one layer writes is still in the cache when the next reads it."""
HOOK_ATTRIBUTES = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

Parameters = Sequence[Tensor]  # weight, bias, weight, bias, ...


class DenseStack(NamedTuple):
    """Layers that follow each other; ``activation`` is applied after each. Empty: the identity."""

    parameters: tuple[Tensor, ...]
    activation: str


def has_hooks(module: Any) -> bool:
    """Whether somebody wants to be told about calls of the module, so that it has to be called."""
    attributes = module.__dict__
    return any(attributes.get(name) for name in HOOK_ATTRIBUTES) or "forward" in attributes


def plain_linear(module: Any) -> tuple[Tensor, Tensor] | None:
    """Weight and bias of a float32 ``nn.Linear`` on the CPU, ``None`` for anything else."""
    if type(module) is not nn.Linear or has_hooks(module):
        return None
    weight, bias = module._parameters.get("weight"), module._parameters.get("bias")
    if weight is None or bias is None:
        return None
    is_plain = weight.dtype == bias.dtype == torch.float32 and weight.device.type == bias.device.type == "cpu"
    return (weight, bias) if is_plain and weight.is_contiguous() else None


def activation_of(module: Any) -> str | None:
    """The activation this module applies, ``None`` if it is none of those known here."""
    is_plain = not has_hooks(module) and getattr(module, "alpha", 1.0) == 1.0
    return _ACTIVATIONS.get(type(module)) if is_plain else None


def plain_stack(module: Any) -> DenseStack | None:
    """The layers of what ``create_mlp`` builds; ``None`` if the module is, or contains, anything else."""
    if type(module) is nn.Identity and not has_hooks(module):
        return DenseStack((), "relu")
    if type(module) is not nn.Sequential or has_hooks(module) or len(module._modules) % 2 != 0:
        return None
    layers = list(module._modules.values())
    parameters: list[Tensor] = []
    kinds = set()
    for linear, activation in zip(layers[::2], layers[1::2], strict=True):
        pair = plain_linear(linear)
        kind = activation_of(activation)
        if pair is None or kind is None:
            return None
        parameters += pair
        kinds.add(kind)
    return DenseStack(tuple(parameters), kinds.pop()) if len(kinds) == 1 else None


def activate_(x: Tensor, activation: str) -> Tensor:
    """Apply the activation in place to a contiguous tensor."""
    if activation == "relu":
        return x.clamp_(min=0.0)
    if activation == "tanh":
        np.tanh(x.numpy(), out=x.numpy())  # NumPy's exponentials use vector instructions
        return x
    negative = torch.clamp(x, max=0.0)
    np.expm1(negative.numpy(), out=negative.numpy())
    return torch.maximum(x, negative, out=x)  # exp(x) - 1 >= x, so this picks it for x < 0 and x itself otherwise


def activation_backward_(grad: Tensor, output: Tensor, activation: str) -> Tensor:
    """Turn the gradient of the activation's ``output`` into that of its input, in place."""
    if activation == "relu":
        return torch.ops.aten.threshold_backward.grad_input(grad, output, 0.0, grad_input=grad)
    if activation == "tanh":
        return torch.ops.aten.tanh_backward.grad_input(grad, output, grad_input=grad)
    return torch.ops.aten.elu_backward.grad_input(grad, 1.0, 1.0, 1.0, True, output, grad_input=grad)


def stack_forward(x: Tensor, parameters: Parameters, activation: str, rounded: bool = False) -> list[Tensor]:
    """The input ``[b, D]`` and the outputs of all layers."""
    outputs = [x]
    for weight, bias in zip(parameters[::2], parameters[1::2], strict=True):
        x = activate_(affine(x, weight, bias, rounded), activation)
        outputs.append(x)
    return outputs


def row_blocks(rows: slice, parameters: Parameters) -> list[slice]:
    """The rows in blocks of almost equal size that fit into the cache; layers go over one block after the other."""
    widest = max((weight.shape[0] for weight in parameters[::2]), default=1)
    num_rows = rows.stop - rows.start
    number = max(1, -(-num_rows * widest // _BLOCK_NUMBERS))
    bounds = [rows.start + num_rows * i // number for i in range(number + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(bounds)]


def stack_backward(
    grad: Tensor,
    outputs: Sequence[Tensor],
    parameters: Parameters,
    activation: str,
    rounded: bool,
    needs_input_grad: bool,
) -> tuple[Tensor | None, list[Tensor]]:
    """Gradients of the input and of the parameters; ``grad`` ``[b, H]``, that of the last output, is overwritten."""
    grads: list[Tensor] = []
    for i in range(len(parameters) // 2 - 1, -1, -1):
        weight = parameters[2 * i]
        activation_backward_(grad, outputs[i + 1], activation)
        grads[:0] = [weight_gradient(grad, outputs[i], rounded), grad.sum(0)]
        if i > 0 or needs_input_grad:
            grad = product(grad, weight, rounded)
    return (grad if needs_input_grad else None), grads


def weight_gradient(grad: Tensor, x: Tensor, rounded: bool) -> Tensor:
    """``grad^T x``; MKL is several times slower at it when ``x`` has few columns, but not at its transpose."""
    if x.shape[1] < 16:
        return torch.mm(x.t(), grad).t().contiguous()
    return product(grad.t(), x, rounded)


class _Dense(torch.autograd.Function):
    """Threads share the rows."""

    @staticmethod
    def forward(ctx: Any, activation: str, rounded: bool, x: Tensor, *parameters: Tensor) -> Tensor:
        is_inference = torch.is_inference_mode_enabled()

        def forward(part: slice) -> list[Tensor]:
            with without_gradient(is_inference):
                return stack_forward(x[part], parameters, activation, rounded)

        ctx.parts = _parts_for_threads(len(x), parameters)
        outputs = run_together([partial(forward, part) for part in ctx.parts])
        ctx.activation, ctx.rounded, ctx.num_parameters = activation, rounded, len(parameters)
        ctx.save_for_backward(*parameters, *itertools.chain.from_iterable(outputs))
        return outputs[0][-1] if len(outputs) == 1 else torch.cat([of_part[-1] for of_part in outputs])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        parameters, saved = ctx.saved_tensors[: ctx.num_parameters], ctx.saved_tensors[ctx.num_parameters :]
        size = len(saved) // len(ctx.parts)
        needs_input_grad = ctx.needs_input_grad[2]

        def backward(part: slice, outputs: Sequence[Tensor]) -> tuple[Tensor | None, list[Tensor]]:
            own_grad = grad[part].clone(memory_format=torch.contiguous_format)
            with torch.no_grad():
                return stack_backward(own_grad, outputs, parameters, ctx.activation, ctx.rounded, needs_input_grad)

        tasks = [partial(backward, part, saved[size * i : size * (i + 1)]) for i, part in enumerate(ctx.parts)]
        grads_x: list[Tensor | None] = []
        total: list[Tensor] = []
        for grad_x, grads in run_together(tasks):
            grads_x.append(grad_x)
            total = add_gradients(total, grads)
        return None, None, _joined_rows(grads_x), *total


def _joined_rows(parts: Sequence[Tensor | None]) -> Tensor | None:
    known = [part for part in parts if part is not None]
    return torch.cat(known) if len(known) > 1 else next(iter(known), None)


def _parts_for_threads(num_rows: int, parameters: Parameters) -> list[slice]:
    """The rows each thread computes; narrow layers have one thread."""
    flops_per_row = 2.0 * sum(parameter.numel() for parameter in parameters)
    return row_parts(num_rows, flops_per_row if flops_per_row >= MIN_FLOPS_PER_ROW else 0.0, MIN_FLOPS_PER_CALL)


def dense(stack: DenseStack, x: Tensor, rounded: bool = False) -> Tensor:
    """Output ``[b, H]`` of the stack for ``x`` ``[b, D]``, differentiable once; see :func:`product` for ``rounded``."""
    return _Dense.apply(stack.activation, rounded, x, *stack.parameters) if stack.parameters else x


class _Block(NamedTuple):
    rows: slice
    outputs: list[Tensor]  # of all layers; the first one is the input


class StackWithHeads:
    """A stack and the two heads on top, computed without autograd; the gradient on demand. Threads share the rows."""

    def __init__(self, activation: str, rounded: bool, x: Tensor, parameters: Parameters) -> None:
        *layers, actor_weight, actor_bias, critic_weight, critic_bias = parameters
        self._activation, self._rounded, self._x, self._layers = activation, rounded, x, layers
        self._head_weight = torch.cat([actor_weight, critic_weight])  # [A + 1, H]
        # Action by action: the loss works on such rows.
        heads = self._head_weight.new_empty(len(self._head_weight), len(x))  # [A + 1, b]
        is_inference = torch.is_inference_mode_enabled()

        def forward(part: slice) -> list[_Block]:
            blocks = []
            with without_gradient(is_inference):
                for rows in row_blocks(part, layers):
                    outputs = stack_forward(x[rows], layers, activation, rounded)
                    torch.mm(self._head_weight, outputs[-1].t(), out=heads[:, rows])
                    blocks.append(_Block(rows, outputs))
            return blocks

        parts = _parts_for_threads(len(x), parameters)
        self._blocks = run_together([partial(forward, part) for part in parts])  # of each part
        heads += torch.cat([actor_bias, critic_bias]).unsqueeze(1)
        self._heads: Tensor | None = heads

    def take_heads(self) -> tuple[Tensor, Tensor]:
        """Logits ``[b, A]`` and values ``[b]``, once: outputs of autograd that stay here would refer to themselves."""
        assert self._heads is not None
        heads, self._heads = self._heads, None
        return heads[:-1].t(), heads[-1]

    def gradients(self, grad_heads: Tensor, needs_input_grad: bool) -> tuple[Tensor | None, list[Tensor]]:
        """Of the input and of the parameters, given those of the heads ``[A + 1, b]``: of the logits and the values."""
        grad_x = torch.empty_like(self._x) if needs_input_grad else None

        def backward(blocks: list[_Block]) -> list[Tensor]:
            total: list[Tensor] = []
            with torch.no_grad():
                for block in blocks:
                    total = add_gradients(total, self._gradients_of_block(block, grad_heads[:, block.rows], grad_x))
            return total

        total: list[Tensor] = []
        for of_part in run_together([partial(backward, blocks) for blocks in self._blocks]):
            total = add_gradients(total, of_part)
        grad_weight, grad_bias, *grads = total
        return grad_x, [*grads, grad_weight[:-1], grad_bias[:-1], grad_weight[-1:], grad_bias[-1:]]

    def _gradients_of_block(self, block: _Block, of_heads: Tensor, grad_x: Tensor | None) -> list[Tensor]:
        """Of the heads' weight and bias together and of the layers; that of the input is written to ``grad_x``."""
        grads = [torch.mm(of_heads, block.outputs[-1]), of_heads.sum(1)]
        if not self._layers and grad_x is None:
            return grads
        grad = torch.mm(of_heads.t(), self._head_weight)
        needs_input_grad = grad_x is not None
        of_input, of_layers = stack_backward(
            grad, block.outputs, self._layers, self._activation, self._rounded, needs_input_grad
        )
        if grad_x is not None and of_input is not None:
            grad_x[block.rows] = of_input
        return grads + of_layers


class _DenseHeads(torch.autograd.Function):
    """Logits ``[b, A]`` and values ``[b]``."""

    @staticmethod
    def forward(ctx: Any, activation: str, rounded: bool, x: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        ctx.computed = StackWithHeads(activation, rounded, x, parameters)
        ctx.save_for_backward(x, *parameters)  # finds out whether they were changed in place
        return ctx.computed.take_heads()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logits: Tensor, grad_values: Tensor) -> Any:
        if ctx.computed is None:
            raise RuntimeError("the gradient of a stack with heads can be computed only once: its outputs are let go")
        computed, ctx.computed = ctx.computed, None
        assert ctx.saved_tensors  # reading them raises the error if one was changed
        grad_heads = torch.cat([grad_logits.t(), grad_values.unsqueeze(0)])
        grad_x, grads = computed.gradients(grad_heads, ctx.needs_input_grad[2])
        return None, None, grad_x, *grads


def dense_with_heads(
    stack: DenseStack, actor: tuple[Tensor, Tensor], critic: tuple[Tensor, Tensor], x: Tensor, rounded: bool = False
) -> tuple[Tensor, Tensor]:
    """Logits ``[b, A]`` and values ``[b]`` for ``x`` ``[b, D]``, differentiable once; the heads are never rounded."""
    return _DenseHeads.apply(stack.activation, rounded, x, *stack.parameters, *actor, *critic)


class RecordedHeads:
    """:func:`dense_with_heads` without autograd: the result, and the gradients of the parameters on demand."""

    def __init__(
        self,
        stack: DenseStack,
        actor: tuple[Tensor, Tensor],
        critic: tuple[Tensor, Tensor],
        x: Tensor,
        rounded: bool = False,
    ) -> None:
        self._parameters = (*stack.parameters, *actor, *critic)
        with torch.no_grad():
            self._computed = StackWithHeads(stack.activation, rounded, x, self._parameters)
        self.logits, self.values = self._computed.take_heads()

    def backward(self, grad_heads: Tensor) -> None:
        """Set ``grad`` of all parameters that need one; ``grad_heads`` ``[A + 1, b]``: of the logits and the values."""
        with torch.no_grad():
            _, grads = self._computed.gradients(grad_heads, needs_input_grad=False)
        for parameter, grad in zip(self._parameters, grads, strict=True):
            if parameter.requires_grad:
                parameter.grad = grad
