"""Stacks of convolutions with one activation, computed forwards and backwards without a tape, on the CPU.

The images of a minibatch and what the layers make of them are a hundred times larger than the caches. Here a block of
images goes through all layers before the next one, so that every layer finds in the cache what the one before has
written; and threads share the blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sample_factory.algo.utils.row_threads import (
    MIN_FLOPS_PER_CALL,
    add_gradients,
    row_parts,
    run_together,
    without_gradient,
)
from sample_factory.model.dense_stack import activate_, activation_backward_, activation_of, has_hooks

_BLOCK_NUMBERS = 2**20
"""Of the largest layer of a block of images, 4 MB: smaller blocks are slower by what every call costs."""

Stride = tuple[int, int]


class ConvStack(NamedTuple):
    """Convolutions without padding that follow each other; ``activation`` is applied after each."""

    parameters: tuple[Tensor, ...]  # weight [O, I, h, w], bias [O], weight, bias, ...
    strides: tuple[Stride, ...]
    activation: str


def plain_convolutions(module: Any) -> ConvStack | None:
    """The layers of the package's plain convolutional networks, float32 on the CPU; ``None`` for anything else."""
    if type(module) is not nn.Sequential or has_hooks(module) or not module._modules or len(module) % 2 != 0:
        return None
    layers = list(module._modules.values())
    kinds = {activation_of(activation) for activation in layers[1::2]}
    if not all(_is_plain_convolution(layer) for layer in layers[::2]) or None in kinds or len(kinds) != 1:
        return None
    convolutions: list[Any] = layers[::2]
    parameters = tuple(p for layer in convolutions for p in (layer.weight, layer.bias))
    return ConvStack(parameters, tuple(layer.stride for layer in convolutions), kinds.pop() or "")


def _is_plain_convolution(layer: Any) -> bool:
    if type(layer) is not nn.Conv2d or has_hooks(layer):
        return False
    weight, bias = layer._parameters.get("weight"), layer._parameters.get("bias")
    if weight is None or bias is None:
        return False
    is_simple = layer.padding == (0, 0) and layer.dilation == (1, 1) and layer.groups == 1
    return is_simple and weight.dtype == bias.dtype == torch.float32 and weight.device.type == bias.device.type == "cpu"


class _Shape(NamedTuple):
    """What one image becomes."""

    of_layers: tuple[tuple[int, int, int], ...]  # channels, height, width after each layer
    flops: float

    @property
    def num_features(self) -> int:
        channels, height, width = self.of_layers[-1]
        return channels * height * width


def _shape(stack: ConvStack, height: int, width: int) -> _Shape:
    shapes, flops = [], 0.0
    for weight, (down, right) in zip(stack.parameters[::2], stack.strides, strict=True):
        height, width = (height - weight.shape[2]) // down + 1, (width - weight.shape[3]) // right + 1
        shapes.append((weight.shape[0], height, width))
        flops += 2.0 * weight.numel() * height * width
    return _Shape(tuple(shapes), flops)


def _blocks(part: slice, shape: _Shape) -> list[slice]:
    """The images of a part, as many at a time as fit into the cache."""
    largest = max(channels * height * width for channels, height, width in shape.of_layers)
    size = max(1, _BLOCK_NUMBERS // largest)
    return [slice(start, min(start + size, part.stop)) for start in range(part.start, part.stop, size)]


def _forward_block(stack: ConvStack, weights: Sequence[Tensor], x: Tensor) -> list[Tensor]:
    """The images ``[n, C, H, W]`` and the outputs of all layers, channels last in memory."""
    outputs = [x]
    for weight, bias, stride in zip(weights, stack.parameters[1::2], stack.strides, strict=True):
        x = F.conv2d(x, weight, bias, stride)
        activate_(x.permute(0, 2, 3, 1), stack.activation)
        outputs.append(x)
    return outputs


def _backward_block(
    stack: ConvStack, weights: Sequence[Tensor], outputs: Sequence[Tensor], grad: Tensor, needs_input_grad: bool
) -> tuple[Tensor | None, list[Tensor]]:
    """Gradients of the images and of the parameters; ``grad``, that of the last output, is overwritten."""
    grads: list[Tensor] = []
    for i in range(len(weights) - 1, -1, -1):
        activation_backward_(grad, outputs[i + 1], stack.activation)
        needs_grad = i > 0 or needs_input_grad
        grad_x, *of_layer = torch.ops.aten.convolution_backward.default(
            grad,
            outputs[i],
            weights[i],
            [len(weights[i])],
            stack.strides[i],
            (0, 0),
            (1, 1),
            False,
            (0, 0),
            1,
            (needs_grad, True, True),
        )
        grads[:0] = of_layer
        grad = grad_x
    return (grad if needs_input_grad else None), grads


class _Saved(NamedTuple):
    rows: slice
    outputs: list[Tensor]


class _Convolutions(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, stack: ConvStack, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.stack, ctx.shape = stack, _shape(stack, *x.shape[2:])
        ctx.weights = prepared_weights(stack)
        features, ctx.saved = _features(stack, ctx.weights, ctx.shape, x, keep=True)
        ctx.save_for_backward(x, *parameters)  # finds changes in place
        return features

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_features: Tensor) -> Any:
        if ctx.saved is None:
            raise RuntimeError("the gradient of convolutions can be computed only once: their outputs are let go")
        all_saved, ctx.saved = ctx.saved, None
        x = ctx.saved_tensors[0]
        needs_input_grad = ctx.needs_input_grad[1]
        grad_x = torch.empty_like(x) if needs_input_grad else None
        weights, last = ctx.weights, ctx.shape.of_layers[-1]

        def backward(saved: list[_Saved]) -> list[Tensor]:
            total: list[Tensor] = []
            with torch.no_grad():
                for rows, outputs in saved:
                    grad = grad_features[rows].view(-1, *last).clone(memory_format=torch.channels_last)
                    of_images, grads = _backward_block(ctx.stack, weights, outputs, grad, needs_input_grad)
                    if grad_x is not None and of_images is not None:
                        grad_x[rows] = of_images
                    total = add_gradients(total, grads)
            return total

        total: list[Tensor] = []
        for grads in run_together([partial(backward, saved) for saved in all_saved]):
            total = add_gradients(total, grads)
        return None, grad_x, *total


def prepared_weights(stack: ConvStack) -> list[Tensor]:
    """Copies of the weights in the order in which convolutions are fastest."""
    return [weight.detach().contiguous(memory_format=torch.channels_last) for weight in stack.parameters[::2]]


def _features(
    stack: ConvStack, weights: Sequence[Tensor], shape: _Shape, x: Tensor, keep: bool
) -> tuple[Tensor, list[list[_Saved]]]:
    """Features ``[b, D]`` and, if they are to be kept, the outputs of all layers by part and block."""
    features = torch.empty([len(x), shape.num_features])
    is_inference = torch.is_inference_mode_enabled()

    def forward(part: slice) -> list[_Saved]:
        saved = []
        with without_gradient(is_inference):
            for rows in _blocks(part, shape):
                images = x[rows].contiguous(memory_format=torch.channels_last)
                outputs = _forward_block(stack, weights, images)
                features[rows].view(outputs[-1].shape).copy_(outputs[-1])
                if keep:
                    saved.append(_Saved(rows, outputs))
        return saved

    parts = row_parts(len(x), shape.flops, MIN_FLOPS_PER_CALL)
    return features, run_together([partial(forward, part) for part in parts])


def convolve(stack: ConvStack, x: Tensor, weights: Sequence[Tensor] | None = None) -> Tensor:
    """Features ``[b, D]`` of images ``[b, C, H, W]``: the flattened output of the stack, differentiable once.

    :param weights: :func:`prepared_weights` of earlier; only where no gradient is wanted
    """
    if torch.is_grad_enabled():
        return _Convolutions.apply(stack, x, *stack.parameters)  # type: ignore[no-any-return]
    return _features(stack, weights or prepared_weights(stack), _shape(stack, *x.shape[2:]), x, keep=False)[0]
