"""The recurrent part of one LSTM layer over many steps on a GPU, with a written-out gradient.

Few kernels per step, whose shapes do not depend on data, so that a CUDA graph can hold all of them: states are
multiplied by zero where an episode ended.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_ops = torch.ops.aten


def in_order_of_torch(x: Tensor) -> Tensor:
    """The gates i, f, o, g along the last axis of ``x`` in the order of the fused cell: i, f, g, o."""
    i_and_f, o, g = x.split([x.shape[-1] // 2, x.shape[-1] // 4, x.shape[-1] // 4], dim=-1)
    return torch.cat([i_and_f, g, o], dim=-1)


def lstm_step(from_input: Tensor, from_hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden and cell state ``[N, H]`` after a step, and what its gradient needs ``[N, 4 H]``.

    :param from_input: contributions of input and bias to the gates i, f, g, o, ``[N, 4 H]``
    :param from_hidden: contributions of the hidden state
    :param cell: before the step ``[N, H]``
    """
    return _ops._thnn_fused_lstm_cell(from_input, from_hidden, cell)  # type: ignore[no-any-return]


def lstm_step_gradient(
    grad_hidden: Tensor, grad_cell: Tensor | None, cells: tuple[Tensor, Tensor], workspace: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of the gates' arguments ``[N, 4 H]`` and of the cell state before the step.

    :param cells: cell states before and after the step
    :param workspace: third result of :func:`lstm_step`
    """
    grads = _ops._thnn_fused_lstm_cell_backward_impl(grad_hidden, grad_cell, *cells, workspace, False)
    return grads[0], grads[1]


class _LstmStates(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, from_input: Tensor, weight_hh: Tensor, cell: Tensor, hidden: Tensor, keeps: Tensor) -> Tensor:
        weight_hh_t = weight_hh.t()
        hidden, cell = hidden.contiguous(), cell.contiguous()
        previous, cells, workspaces, outputs = [], [], [], []
        for t, from_input_now in enumerate(from_input.unbind()):
            if t > 0:
                hidden, cell = hidden * keeps[t - 1], cell * keeps[t - 1]
            previous.append(hidden)
            before = cell
            hidden, cell, workspace = lstm_step(from_input_now, torch.mm(hidden, weight_hh_t), before)
            cells.append((before, cell))
            workspaces.append(workspace)
            outputs.append(hidden)
        ctx.save_for_backward(weight_hh, keeps)
        ctx.steps = previous, cells, workspaces
        return torch.stack(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        weight_hh, keeps = ctx.saved_tensors
        previous, cells, workspaces = ctx.steps
        grads = []
        grad_hidden: Tensor = grad_output[-1].contiguous()
        grad_cell: Tensor | None = None
        for t in range(len(grad_output) - 1, -1, -1):
            grad_gates, grad_before = lstm_step_gradient(grad_hidden, grad_cell, cells[t], workspaces[t])
            grads.append(grad_gates)
            if t > 0:
                grad_hidden = torch.addcmul(grad_output[t - 1], torch.mm(grad_gates, weight_hh), keeps[t - 1])
                grad_cell = grad_before * keeps[t - 1]
        from_input = torch.stack(grads[::-1])
        grad_weight = torch.mm(from_input.flatten(0, 1).t(), torch.stack(previous).flatten(0, 1))
        return from_input, grad_weight, None, None, None


def lstm_states(from_input: Tensor, weight_hh: Tensor, cell: Tensor, hidden: Tensor, resets: Tensor) -> Tensor:
    """Hidden states ``[T, B, H]``; differentiable once with respect to the first two arguments.

    :param from_input: contributions of inputs and biases to the gates i, f, o, g, ``[T, B, 4 H]``
    :param weight_hh: ``[4 H, H]``, gates in the same order
    :param cell: before the first step ``[B, H]``
    :param hidden: before the first step ``[B, H]``
    :param resets: before which steps the state is set to zero, bool ``[T, B]``
    """
    keeps = (~resets).to(from_input.dtype).unsqueeze(2)  # [T, B, 1]
    weight = in_order_of_torch(weight_hh.t()).t()
    return _LstmStates.apply(in_order_of_torch(from_input), weight, cell * keeps[0], hidden * keeps[0], keeps[1:])  # type: ignore[no-any-return]
