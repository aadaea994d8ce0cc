"""The recurrent part of one GRU layer over many steps, with a written-out gradient; see :mod:`lstm_sequence`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sample_factory.algo.utils.products import product_with
from sample_factory.algo.utils.row_threads import compute_by_rows
from sample_factory.ued.models.sequences import (
    recurrent_weight_gradient,
    require_buffers,
    rows_to_reset,
    tanh_by_step,
    without_rows,
)

_ops = torch.ops.aten


class _GruStates(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        projected: Tensor,
        rows: Tensor,
        weight_hh: Tensor,
        candidate_bias: Tensor,
        initial: Tensor,
        resets: Tensor,
    ) -> Tensor:
        (num_steps, num_envs), size = resets.shape, weight_hh.shape[1]
        gates = projected.new_empty(num_steps, num_envs, 3 * size)  # r, z, n
        recurrent = torch.empty_like(gates)  # contributions of the previous state
        output = projected.new_empty(num_steps, num_envs, size)
        reset_rows = rows_to_reset(resets)
        row_steps, gate_steps, recurrent_steps = rows.unbind(), gates.unbind(), recurrent.unbind()
        sigmoid_steps, recurrent_sigmoid = (x[..., : 2 * size].unbind() for x in (gates, recurrent))
        r_steps, z_steps, n_steps = (part.unbind() for part in gates.split(size, dim=-1))
        candidate_steps, output_steps = recurrent[..., 2 * size :].unbind(), output.unbind()
        tanh_of_n = tanh_by_step(gates[..., 2 * size :], gates[..., 2 * size :])
        multiply = product_with(weight_hh, num_envs)
        bias = torch.cat([candidate_bias.new_zeros(2 * size), candidate_bias])
        hidden, previous = initial, []
        for t in range(num_steps):
            hidden = without_rows(hidden, reset_rows[t])
            previous.append(hidden)
            n = n_steps[t]
            torch.index_select(projected, 0, row_steps[t], out=gate_steps[t])
            torch.add(multiply(hidden), bias, out=recurrent_steps[t])
            sigmoid_steps[t].add_(recurrent_sigmoid[t]).sigmoid_()
            n.addcmul_(r_steps[t], candidate_steps[t])
            tanh_of_n(t)
            torch.lerp(n, hidden, z_steps[t], out=output_steps[t])  # (1 - z) n + z h
            hidden = output_steps[t]
        ctx.save_for_backward(rows, weight_hh, initial, output)
        ctx.num_rows, ctx.reset_rows, ctx.buffers = len(projected), reset_rows, (gates, recurrent, *previous)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        rows, weight_hh, initial, output = ctx.saved_tensors
        gates, recurrent, *previous = require_buffers(ctx.buffers)
        ctx.buffers = None
        num_steps, _, size = output.shape
        grad_projected = output.new_zeros(ctx.num_rows, 3 * size)
        grad_hidden, carried, scratch = (torch.zeros_like(initial) for _ in range(3))
        # From here on `recurrent` is the gradient of itself, and the gates that of the input's part.
        row_steps, gate_steps, recurrent_steps = rows.unbind(), gates.unbind(), recurrent.unbind()
        r_steps, z_steps, n_steps = (part.unbind() for part in gates.split(size, dim=-1))
        grad_r_steps, grad_z_steps, candidate_steps = (part.unbind() for part in recurrent.split(size, dim=-1))
        sigmoid_steps, recurrent_sigmoid = (x[..., : 2 * size].unbind() for x in (gates, recurrent))
        multiply = product_with(weight_hh.t(), recurrent.shape[1])
        for t in range(num_steps - 1, -1, -1):
            r, z, n, candidate = r_steps[t], z_steps[t], n_steps[t], candidate_steps[t]
            torch.add(grad_output[t], carried, out=grad_hidden)
            torch.mul(grad_hidden, z, out=carried)
            torch.sub(previous[t], n, out=scratch).mul_(grad_hidden)
            _ops.sigmoid_backward.grad_input(scratch, z, grad_input=grad_z_steps[t])
            torch.sub(grad_hidden, carried, out=grad_hidden)  # (1 - z) times it
            _ops.tanh_backward.grad_input(grad_hidden, n, grad_input=n)
            torch.mul(n, candidate, out=scratch)
            torch.mul(n, r, out=candidate)
            _ops.sigmoid_backward.grad_input(scratch, r, grad_input=grad_r_steps[t])
            sigmoid_steps[t].copy_(recurrent_sigmoid[t])
            grad_projected.index_add_(0, row_steps[t], gate_steps[t])
            if t > 0:
                carried.add_(multiply(recurrent_steps[t]))
                to_reset = ctx.reset_rows[t]
                if to_reset is not None:
                    carried.index_fill_(0, to_reset, 0.0)
        grad_weight = recurrent_weight_gradient(recurrent, output, initial, ctx.reset_rows)
        grad_bias = recurrent[..., 2 * size :].sum((0, 1))
        return grad_projected, None, grad_weight, grad_bias, None, None


def gru_states(
    projected: Tensor, rows: Tensor, weight_hh: Tensor, candidate_bias: Tensor, hidden: Tensor, resets: Tensor
) -> Tensor:
    """Hidden states ``[T, B, H]``; differentiable once with respect to the first, third and fourth argument.

    :param projected: contributions of different inputs to r, z, n, with biases, ``[R, 3 H]``
    :param rows: which of them each step has, int64 ``[T, B]``
    :param weight_hh: ``[3 H, H]``
    :param candidate_bias: of the recurrent part of n ``[H]``
    :param hidden: before the first step ``[B, H]``
    :param resets: before which steps the state is set to zero, bool ``[T, B]``
    """

    def states(part: slice, projected: Tensor, weight_hh: Tensor, candidate_bias: Tensor) -> Tensor:
        return _GruStates.apply(projected, rows[:, part], weight_hh, candidate_bias, hidden[part], resets[:, part])

    return compute_by_rows(
        states, len(hidden), 6.0 * hidden.shape[1] ** 2, (None, None, None), projected, weight_hh, candidate_bias
    )
