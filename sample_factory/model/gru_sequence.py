"""One GRU layer over many steps on the CPU, with a written-out gradient.

Same cell as ``torch.nn.GRU``. All sequences are equally long; where an episode ends inside of one, the state is set to
zero, which is what cutting the sequence there and starting a new one amounts to. All that does not depend on the
previous step is one matrix product for the whole sequence, forwards and backwards; torch's own backward pass adds up
the gradient of the recurrent weights step by step, through memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sample_factory.algo.utils.products import affine, product, product_with
from sample_factory.algo.utils.row_threads import compute_by_rows

_ops = torch.ops.aten


class _GruLayer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        initial: Tensor,
        resets: Sequence[Tensor | None],
        rounded: bool,
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias_ih: Tensor,
        bias_hh: Tensor,
    ) -> Tensor:
        num_steps, (num_rows, size) = len(resets), initial.shape
        # [T, N, 3 H]: contributions of the input to r, z, n; they become the gates themselves.
        gates = affine(x, weight_ih, bias_ih, rounded).view(num_steps, num_rows, 3 * size)
        recurrent = torch.empty_like(gates)  # contributions of the previous state
        previous = torch.empty([num_steps, num_rows, size])  # state before each step
        output = torch.empty_like(previous)
        previous[0].copy_(initial)
        from_state = _step_product(weight_hh, num_rows, rounded)
        for t in range(num_steps):
            before = previous[t]
            torch.add(from_state(before), bias_hh, out=recurrent[t])
            r_and_z, n = gates[t, :, : 2 * size], gates[t, :, 2 * size :]
            r_and_z.add_(recurrent[t, :, : 2 * size]).sigmoid_()
            n.addcmul_(r_and_z[:, :size], recurrent[t, :, 2 * size :])
            np.tanh(n.numpy(), out=n.numpy())
            torch.lerp(n, before, r_and_z[:, size:], out=output[t])  # (1 - z) n + z h
            if t + 1 < num_steps:
                _carry_over(output[t], resets[t], previous[t + 1])
        ctx.save_for_backward(x, weight_ih, weight_hh)
        ctx.resets, ctx.rounded, ctx.buffers = resets, rounded, (gates, recurrent, previous)
        return output.view(num_steps * num_rows, size)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        x, weight_ih, weight_hh = ctx.saved_tensors
        if ctx.buffers is None:
            raise RuntimeError("the gradient of a GRU layer can be computed only once: its buffers are reused for it")
        (gates, recurrent, previous), ctx.buffers = ctx.buffers, None
        size = previous.shape[-1]
        grad_output = grad_output.reshape(previous.shape)
        # From here on `recurrent` is the gradient of itself; that of the input's part differs in n only.
        grad_n = torch.empty_like(previous)
        rounded = ctx.rounded
        to_state = _step_product(weight_hh.t(), previous.shape[1], rounded)
        _backward_through_time(grad_output, gates, recurrent, previous, grad_n, to_state, ctx.resets)

        flat = recurrent.view(-1, 3 * size)
        r_and_z, n = flat[:, : 2 * size], grad_n.view(-1, size)
        grad_weight_hh = product(flat.t(), previous.view(-1, size), rounded)
        grad_weight_ih = torch.cat([product(r_and_z.t(), x, rounded), product(n.t(), x, rounded)])
        grad_bias_hh = flat.sum(0)
        grad_bias_ih = torch.cat([grad_bias_hh[: 2 * size], n.sum(0)])
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = product(r_and_z, weight_ih[: 2 * size], rounded)
            grad_x += product(n, weight_ih[2 * size :], rounded)
        return grad_x, None, None, None, grad_weight_ih, grad_weight_hh, grad_bias_ih, grad_bias_hh


def _step_product(weight: Tensor, num_rows: int, rounded: bool) -> Callable[[Tensor], Tensor]:
    """A function that gives ``x weight^T`` for ``x`` ``[num_rows, D]``, as often as it is wanted."""
    if not rounded:
        return product_with(weight, num_rows)
    factor = weight.bfloat16().t()
    return lambda x: torch.mm(x.bfloat16(), factor)


def _carry_over(state: Tensor, rows_to_reset: Tensor | None, target: Tensor) -> None:
    target.copy_(state)
    if rows_to_reset is not None:
        target.index_fill_(0, rows_to_reset, 0.0)


def _backward_through_time(
    grad_output: Tensor,
    gates: Tensor,
    recurrent: Tensor,
    previous: Tensor,
    grad_n: Tensor,
    to_state: Callable[[Tensor], Tensor],
    resets: Sequence[Tensor | None],
) -> None:
    """Fill ``grad_n`` and overwrite ``recurrent`` with its gradient, step by step from the last one."""
    num_steps, num_rows, size = previous.shape
    grad_h, carried, scratch = (torch.empty([num_rows, size]) for _ in range(3))
    carried.zero_()
    for t in range(num_steps - 1, -1, -1):
        r, z, n = gates[t, :, :size], gates[t, :, size : 2 * size], gates[t, :, 2 * size :]
        grad_r, grad_z, grad_rn = (recurrent[t, :, i * size : (i + 1) * size] for i in range(3))
        torch.add(grad_output[t], carried, out=grad_h)
        torch.addcmul(grad_h, grad_h, z, value=-1.0, out=scratch)
        _ops.tanh_backward.grad_input(scratch, n, grad_input=grad_n[t])
        torch.mul(grad_n[t], grad_rn, out=scratch)  # still the recurrent part of n itself
        _ops.sigmoid_backward.grad_input(scratch, r, grad_input=grad_r)
        torch.mul(grad_n[t], r, out=grad_rn)
        torch.sub(previous[t], n, out=scratch).mul_(grad_h)
        _ops.sigmoid_backward.grad_input(scratch, z, grad_input=grad_z)
        if t > 0:
            torch.mul(grad_h, z, out=carried)
            carried.add_(to_state(recurrent[t]))
            rows = resets[t - 1]
            if rows is not None:
                carried.index_fill_(0, rows, 0.0)


def gru_layer(
    x: Tensor,
    initial: Tensor,
    resets: Sequence[Tensor | None],
    parameters: tuple[Tensor, Tensor, Tensor, Tensor],
    rounded: bool = False,
) -> Tensor:
    """States after every step ``[T * N, H]``, step after step; differentiable once with respect to all but ``initial``.

    :param x: inputs, step after step, ``[T * N, D]``
    :param initial: states before the first step ``[N, H]``
    :param resets: for each of the T steps the rows (int64) whose state is zero after it; ``None`` if there are none
    :param parameters: ``weight_ih, weight_hh, bias_ih, bias_hh`` as in ``torch.nn.GRU``
    :param rounded: matrix products have the precision of bfloat16
    """
    num_rows = len(initial)

    def layer(part: slice, x: Tensor, *parameters: Tensor) -> Tensor:
        own_resets = resets if part == slice(0, num_rows) else [_rows_within(rows, part) for rows in resets]
        flat = _GruLayer.apply(x.reshape(-1, x.shape[-1]), initial[part], own_resets, rounded, *parameters)
        return flat.view(len(resets), part.stop - part.start, initial.shape[1])  # type: ignore[no-any-return]

    steps = x.view(len(resets), num_rows, x.shape[-1])
    flops_per_row = 6.0 * initial.shape[1] ** 2
    axes = (1, None, None, None, None)
    return compute_by_rows(layer, num_rows, flops_per_row, axes, steps, *parameters).flatten(0, 1)


def _rows_within(rows: Tensor | None, part: slice) -> Tensor | None:
    if rows is None:
        return None
    within = rows[(rows >= part.start) & (rows < part.stop)]
    return within - part.start if len(within) > 0 else None


def rows_to_reset(ends: np.ndarray) -> list[Tensor | None]:
    """``resets`` of :func:`gru_layer` for episode ends, bool ``[N, T]``."""
    steps, rows = np.nonzero(ends.T)
    boundaries = np.searchsorted(steps, np.arange(1, ends.shape[1]))
    return [torch.from_numpy(part) if len(part) > 0 else None for part in np.split(rows, boundaries)]
