"""One GRU layer over many steps on a GPU, with a written-out gradient and shapes that do not depend on data.

Same cell as ``torch.nn.GRU``. Sequences are equally long, states are multiplied by zero where an episode ended: packed
sequences, which cuDNN runs faster when kernels are launched one by one, could not be recorded as a CUDA graph.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_ops = torch.ops.aten


class _GruLayer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        initial: Tensor,
        keeps: Tensor,
        weight_ih: Tensor,
        weight_hh: Tensor,
        bias_ih: Tensor,
        bias_hh: Tensor,
    ) -> Tensor:
        num_steps, num_rows, _ = x.shape
        size = initial.shape[1]
        from_input = torch.mm(x.flatten(0, 1), weight_ih.t()).view(num_steps, num_rows, 3 * size)
        weight_hh_t = weight_hh.t()
        previous, workspaces, outputs = [initial.contiguous()], [], []
        for t in range(num_steps):
            state, workspace = _ops._thnn_fused_gru_cell(
                from_input[t], torch.mm(previous[t], weight_hh_t), previous[t], bias_ih, bias_hh
            )
            outputs.append(state)
            workspaces.append(workspace)
            if t + 1 < num_steps:
                previous.append(state * keeps[t])
        ctx.save_for_backward(x, keeps, weight_ih, weight_hh)
        ctx.steps = previous, workspaces
        return torch.stack(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        x, keeps, weight_ih, weight_hh = ctx.saved_tensors
        previous, workspaces = ctx.steps
        num_steps = len(grad_output)
        grad_from_input: list[Tensor] = [x] * num_steps
        grad_from_state: list[Tensor] = [x] * num_steps
        carried: Tensor | None = None
        for t in range(num_steps - 1, -1, -1):
            grad_state = grad_output[t].contiguous() if carried is None else grad_output[t] + carried
            grad_from_input[t], grad_from_state[t], grad_previous, _, _ = _ops._thnn_fused_gru_cell_backward(
                grad_state, workspaces[t], False
            )
            if t > 0:
                carried = torch.addmm(grad_previous, grad_from_state[t], weight_hh).mul_(keeps[t - 1])
        from_input = torch.stack(grad_from_input).flatten(0, 1)  # [T N, 3 H]
        from_state = torch.stack(grad_from_state).flatten(0, 1)
        grad_x = torch.mm(from_input, weight_ih).view_as(x) if ctx.needs_input_grad[0] else None
        return (
            grad_x,
            None,
            None,
            torch.mm(from_input.t(), x.flatten(0, 1)),
            torch.mm(from_state.t(), torch.stack(previous).flatten(0, 1)),
            from_input.sum(0),
            from_state.sum(0),
        )


def gru_layer(x: Tensor, initial: Tensor, keeps: Tensor, parameters: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
    """States after every step ``[T, N, H]``; differentiable once with respect to all but ``initial``.

    :param x: inputs ``[T, N, D]``
    :param initial: states before the first step ``[N, H]``
    :param keeps: float ``[T, N, 1]``, 0 where the state is reset after the step, else 1
    :param parameters: ``weight_ih, weight_hh, bias_ih, bias_hh`` as in ``torch.nn.GRU``
    """
    return _GruLayer.apply(x, initial, keeps, *parameters)


def gru_sequence(core: torch.nn.GRU, x: Tensor, initial: Tensor, ends: Tensor, num_steps: int) -> Tensor:
    """All layers of a GRU over trajectories.

    :param x: features, trajectory after trajectory, ``[N*T, D]``
    :param initial: states at the starts of the trajectories ``[N, layers * H]``
    :param ends: bool ``[N*T]``, steps after which the state is reset
    :returns: ``[N*T, H]``, trajectory after trajectory
    """
    shape = (-1, num_steps)
    keeps = (~ends).to(x.dtype).view(shape).t().unsqueeze(2).contiguous()  # [T, N, 1]
    x = x.unflatten(0, shape).transpose(0, 1).contiguous()
    for weights, state in zip(core.all_weights, initial.chunk(core.num_layers, dim=1), strict=True):
        x = gru_layer(x, state, keeps, (weights[0], weights[1], weights[2], weights[3]))
    return x.transpose(0, 1).flatten(0, 1)
