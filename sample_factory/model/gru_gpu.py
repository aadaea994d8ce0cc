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


class _GruStates(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        from_input: Tensor,
        initial: Tensor,
        keeps: Tensor,
        weight_hh: Tensor,
        bias_ih: Tensor,
        bias_hh: Tensor,
    ) -> Tensor:
        weight_hh_t = weight_hh.t()
        outputs: list[Tensor] = []
        previous, workspaces = [initial.contiguous()], []
        for t, from_input_now in enumerate(from_input.unbind()):
            if t > 0:
                previous.append(outputs[-1] * keeps[t - 1])
            state, workspace = _ops._thnn_fused_gru_cell(
                from_input_now, torch.mm(previous[t], weight_hh_t), previous[t], bias_ih, bias_hh
            )
            outputs.append(state)
            workspaces.append(workspace)
        ctx.save_for_backward(keeps, weight_hh)
        ctx.steps = previous, workspaces
        return torch.stack(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        keeps, weight_hh = ctx.saved_tensors
        previous, workspaces = ctx.steps
        num_steps = len(grad_output)
        grads: list[tuple[Tensor, Tensor]] = []
        grad_state = grad_output[-1].contiguous()
        for t in range(num_steps - 1, -1, -1):
            grad_from_input, grad_from_state, grad_previous, _, _ = _ops._thnn_fused_gru_cell_backward(
                grad_state, workspaces[t], False
            )
            grads.append((grad_from_input, grad_from_state))
            if t > 0:
                grad_previous = torch.addmm(grad_previous, grad_from_state, weight_hh)
                grad_state = torch.addcmul(grad_output[t - 1], grad_previous, keeps[t - 1])
        from_input, from_state = (torch.stack(of_steps[::-1]) for of_steps in zip(*grads, strict=True))
        by_state = from_state.flatten(0, 1)  # [T N, 3 H]
        return (
            from_input,
            None,
            None,
            torch.mm(by_state.t(), torch.stack(previous).flatten(0, 1)),
            from_input.sum((0, 1)),
            by_state.sum(0),
        )


def gru_states(
    from_input: Tensor, initial: Tensor, keeps: Tensor, weight_hh: Tensor, bias_ih: Tensor, bias_hh: Tensor
) -> Tensor:
    """States after every step ``[T, N, H]``; differentiable once with respect to all but ``initial`` and ``keeps``.

    :param from_input: products of ``weight_ih`` and the inputs ``[T, N, 3 H]``
    :param initial: states before the first step ``[N, H]``
    :param keeps: float ``[T - 1, N, 1]``, 0 where the state is reset between two steps, else 1
    :param weight_hh: ``[3 H, H]``, and biases ``[3 H]``, as in ``torch.nn.GRU``
    """
    return _GruStates.apply(from_input, initial, keeps, weight_hh, bias_ih, bias_hh)


def gru_sequence(core: torch.nn.GRU, x: Tensor, initial: Tensor, ends: Tensor, num_steps: int) -> Tensor:
    """All layers of a GRU over trajectories.

    :param x: features, trajectory after trajectory, ``[N*T, D]``
    :param initial: states at the starts of the trajectories ``[N, layers * H]``
    :param ends: bool ``[N*T]``, steps after which the state is reset
    :returns: ``[N*T, H]``, trajectory after trajectory
    """
    shape = (-1, num_steps)
    keeps = (~ends).to(x.dtype).view(shape).t()[:-1].unsqueeze(2).contiguous()  # [T - 1, N, 1]
    x = x.unflatten(0, shape).transpose(0, 1).contiguous()
    for weights, state in zip(core.all_weights, initial.chunk(core.num_layers, dim=1), strict=True):
        weight_ih, weight_hh, bias_ih, bias_hh = weights
        x = gru_states(x @ weight_ih.t(), state, keeps, weight_hh, bias_ih, bias_hh)
    return x.transpose(0, 1).flatten(0, 1)
