"""The recurrent part of one LSTM layer over many steps, with a written-out gradient.

What depends on the input alone has been computed for all steps at once; of the rest, the gradient of the recurrent
weights is one matrix product for the whole sequence. Autograd would add it up step by step, through memory.
"""

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


class _LstmStates(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        projected: Tensor,
        rows: Tensor,
        weight_hh: Tensor,
        initial_cell: Tensor,
        initial_hidden: Tensor,
        resets: Tensor,
    ) -> Tensor:
        (num_steps, num_envs), size = resets.shape, weight_hh.shape[1]
        gates = projected.new_empty(num_steps, num_envs, 4 * size)  # i, f, o, g
        cells, tanh_cells, output = (projected.new_empty(num_steps, num_envs, size) for _ in range(3))
        reset_rows = rows_to_reset(resets)
        sigmoid_steps = gates[..., : 3 * size].unbind()
        i_steps, f_steps, o_steps, g_steps = (part.unbind() for part in gates.split(size, dim=-1))
        row_steps, gate_steps, cell_steps = rows.unbind(), gates.unbind(), cells.unbind()
        tanh_steps, output_steps = tanh_cells.unbind(), output.unbind()
        g = gates[..., 3 * size :]
        tanh_of_g, tanh_of_cell = tanh_by_step(g, g), tanh_by_step(cells, tanh_cells)
        multiply = product_with(weight_hh, num_envs)
        cell, hidden = initial_cell, initial_hidden
        previous_cells = []
        for t in range(num_steps):
            cell, hidden = without_rows(cell, reset_rows[t]), without_rows(hidden, reset_rows[t])
            previous_cells.append(cell)
            gate, new_cell = gate_steps[t], cell_steps[t]
            torch.index_select(projected, 0, row_steps[t], out=gate)
            gate.add_(multiply(hidden))
            sigmoid_steps[t].sigmoid_()
            tanh_of_g(t)
            torch.mul(f_steps[t], cell, out=new_cell)
            new_cell.addcmul_(i_steps[t], g_steps[t])
            tanh_of_cell(t)
            torch.mul(o_steps[t], tanh_steps[t], out=output_steps[t])
            cell, hidden = new_cell, output_steps[t]
        ctx.save_for_backward(rows, weight_hh, initial_hidden, output)
        ctx.num_rows, ctx.reset_rows, ctx.buffers = len(projected), reset_rows, (gates, tanh_cells, *previous_cells)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        rows, weight_hh, initial_hidden, output = ctx.saved_tensors
        gates, tanh_cells, *previous_cells = require_buffers(ctx.buffers)
        ctx.buffers = None
        num_steps, num_envs, size = output.shape
        grad_projected = output.new_zeros(ctx.num_rows, 4 * size)
        grad_hidden, grad_cell, carried, scratch = (torch.zeros_like(initial_hidden) for _ in range(4))
        sigmoid_grads = output.new_empty(num_envs, 3 * size)
        grad_i, grad_f, grad_o = sigmoid_grads.split(size, dim=1)
        sigmoid_steps = gates[..., : 3 * size].unbind()
        i_steps, f_steps, o_steps, g_steps = (part.unbind() for part in gates.split(size, dim=-1))
        row_steps, gate_steps = rows.unbind(), gates.unbind()
        tanh_steps, grad_steps = tanh_cells.unbind(), grad_output.unbind()
        multiply = product_with(weight_hh.t(), num_envs)
        for t in range(num_steps - 1, -1, -1):
            g, past = g_steps[t], sigmoid_steps[t]
            torch.add(grad_steps[t], carried, out=grad_hidden)
            torch.mul(grad_hidden, o_steps[t], out=scratch)
            grad_cell.add_(_ops.tanh_backward.grad_input(scratch, tanh_steps[t], grad_input=scratch))
            torch.mul(grad_hidden, tanh_steps[t], out=grad_o)
            torch.mul(grad_cell, g, out=grad_i)
            torch.mul(grad_cell, previous_cells[t], out=grad_f)
            torch.mul(grad_cell, i_steps[t], out=scratch)
            grad_cell.mul_(f_steps[t])
            # From here on the gates are the gradients of their own arguments.
            _ops.tanh_backward.grad_input(scratch, g, grad_input=g)
            _ops.sigmoid_backward.grad_input(sigmoid_grads, past, grad_input=past)
            grad_projected.index_add_(0, row_steps[t], gate_steps[t])
            if t > 0:
                carried = multiply(gate_steps[t])
                to_reset = ctx.reset_rows[t]
                if to_reset is not None:
                    carried.index_fill_(0, to_reset, 0.0)
                    grad_cell.index_fill_(0, to_reset, 0.0)
        grad_weight = recurrent_weight_gradient(gates, output, initial_hidden, ctx.reset_rows)
        return grad_projected, None, grad_weight, None, None, None


def lstm_states(
    projected: Tensor, rows: Tensor, weight_hh: Tensor, cell: Tensor, hidden: Tensor, resets: Tensor
) -> Tensor:
    """Hidden states ``[T, B, H]``; differentiable once with respect to ``projected`` and ``weight_hh``.

    :param projected: contributions of different inputs to the gates i, f, o, g, with biases, ``[R, 4 H]``
    :param rows: which of them each step has, int64 ``[T, B]``
    :param weight_hh: ``[4 H, H]``
    :param cell: before the first step ``[B, H]``
    :param hidden: before the first step ``[B, H]``
    :param resets: before which steps the state is set to zero, bool ``[T, B]``
    """

    def states(part: slice, projected: Tensor, weight_hh: Tensor) -> Tensor:
        return _LstmStates.apply(projected, rows[:, part], weight_hh, cell[part], hidden[part], resets[:, part])

    return compute_by_rows(states, len(cell), 8.0 * cell.shape[1] ** 2, (None, None), projected, weight_hh)
