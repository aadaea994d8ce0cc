"""What the recurrent layers have in common when they run over many steps with a written-out gradient.

Inputs come as a table of ``R`` different ones, and ``rows`` (int64 ``[T, B]``) says which one each step has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sample_factory.algo.utils.products import multiply

Rows = Tensor | None  # environments, int64 [n], None if there are none; on a GPU one flag for each, bool [B]


def tanh_by_step(x: Tensor, out: Tensor) -> Callable[[int], object]:
    """A function of ``t`` that does ``out[t] = tanh(x[t])``. NumPy's is several times faster than torch's."""
    if x.device.type == "cpu":
        arrays, results = list(x.numpy()), list(out.numpy())
        return lambda t: np.tanh(arrays[t], out=results[t])
    return lambda t: torch.tanh(x[t], out=out[t])


def tanh_in_place(x: Tensor) -> Callable[[], object]:
    """A function that replaces ``x`` by its hyperbolic tangent, whatever it is at that time."""
    if x.device.type == "cpu":
        array = x.numpy()
        return lambda: np.tanh(array, out=array)
    return x.tanh_


class Tanh(torch.autograd.Function):
    """``torch.tanh`` of a tensor on the CPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        output = torch.from_numpy(np.tanh(x.numpy()))
        ctx.save_for_backward(output)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (output,) = ctx.saved_tensors
        return torch.ops.aten.tanh_backward(grad, output)


def tanh(x: Tensor) -> Tensor:
    """``torch.tanh``, differentiable once."""
    return Tanh.apply(x) if x.device.type == "cpu" else torch.tanh(x)


def rows_to_reset(resets: Tensor) -> list[Rows]:
    """For every step of ``resets`` (bool ``[T, B]``) the environments to reset."""
    if resets.is_cuda:
        return list(resets.unbind())
    steps, envs = np.nonzero(resets.cpu().numpy())
    parts = np.split(envs, np.searchsorted(steps, np.arange(1, len(resets))))
    return [torch.from_numpy(part).to(resets.device) if len(part) > 0 else None for part in parts]


def without_rows(state: Tensor, to_reset: Rows) -> Tensor:
    """The state ``[B, H]``, zero in some rows: itself if there are none, else a copy."""
    if to_reset is None:
        return state
    if to_reset.dtype == torch.bool:
        return state.masked_fill(to_reset.unsqueeze(1), 0.0)
    return state.index_fill(0, to_reset, 0.0)


def recurrent_weight_gradient(grads: Tensor, output: Tensor, initial_hidden: Tensor, reset_rows: list[Rows]) -> Tensor:
    """Gradient ``[G, H]`` of weights that are multiplied with the state before each step.

    :param grads: of the products ``[T, B, G]``
    :param output: states after each step ``[T, B, H]``
    :param initial_hidden: state before the first step ``[B, H]``
    :param reset_rows: of :func:`rows_to_reset`
    """
    size = output.shape[-1]
    grad = multiply(grads[1:].flatten(0, 1).t(), output[:-1].reshape(-1, size))
    grad.addmm_(grads[0].t(), without_rows(initial_hidden, reset_rows[0]))
    reset_steps = [t for t in range(1, len(reset_rows)) if reset_rows[t] is not None]
    if reset_steps:
        # Their previous state was zero, not what came before.
        parts = [(t, reset_rows[t]) for t in reset_steps]
        wrong_grads = torch.cat([grads[t].index_select(0, to_reset) for t, to_reset in parts if to_reset is not None])
        wrong_states = torch.cat(
            [output[t - 1].index_select(0, to_reset) for t, to_reset in parts if to_reset is not None]
        )
        grad.addmm_(wrong_grads.t(), wrong_states, alpha=-1.0)
    return grad


def require_buffers(buffers: tuple[Tensor, ...] | None) -> tuple[Tensor, ...]:
    """The buffers of the forward pass, unless they have been used up."""
    if buffers is None:
        raise RuntimeError("the gradient can be computed only once: buffers of the forward pass are reused for it")
    return buffers
