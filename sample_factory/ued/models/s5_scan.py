"""The scan of a diagonal state-space layer, with a written-out gradient.

States are few and the recurrence is elementwise, so that on a CPU going through time step by step, one operation each,
costs a fraction of the layer's matrix products; a parallel scan would do a multiple of the arithmetic.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sample_factory.ued.models.sequences import rows_to_reset, without_rows


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, transition: Tensor, inputs: Tensor, initial: Tensor, resets: Tensor) -> Tensor:
        states = torch.empty_like(inputs)
        reset_rows = rows_to_reset(resets)
        state = initial
        for now, target, to_reset in zip(inputs.unbind(), states.unbind(), reset_rows, strict=True):
            torch.addcmul(now, transition, without_rows(state, to_reset), out=target)
            state = target
        ctx.save_for_backward(transition, states, initial)
        ctx.reset_rows = reset_rows
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_states: Tensor) -> Any:
        transition, states, initial = ctx.saved_tensors
        conjugate = transition.conj().resolve_conj()
        grad_inputs = torch.empty_like(states)
        by_env = torch.zeros_like(initial)  # gradient of the transition, summed over time
        carried = torch.zeros_like(initial)
        for t in range(len(states) - 1, -1, -1):
            grad = grad_inputs[t]
            torch.addcmul(grad_states[t], conjugate, carried, out=grad)
            previous = without_rows(initial if t == 0 else states[t - 1], ctx.reset_rows[t])
            by_env.addcmul_(previous.conj(), grad)
            carried = without_rows(grad, ctx.reset_rows[t])
        return by_env.sum(0), grad_inputs, None, None


def scan(transition: Tensor, inputs: Tensor, initial: Tensor, resets: Tensor) -> Tensor:
    """States ``x_t = transition * x_{t-1} + inputs_t``, complex ``[T, B, P]``; the state is zero before a reset.

    Differentiable with respect to ``transition`` and ``inputs``.

    :param transition: complex ``[P]``
    :param inputs: complex ``[T, B, P]``
    :param initial: state before the first step, complex ``[B, P]``
    :param resets: bool ``[T, B]``
    """
    return _Scan.apply(transition, inputs, initial, resets)


def scan_by_steps(transition: Tensor, inputs: Tensor, initial: Tensor, resets: Tensor) -> Tensor:
    """The same as :func:`scan`, differentiated step by step: the plain reference."""
    states, state = [], initial
    for t in range(len(inputs)):
        state = transition * state.masked_fill(resets[t].unsqueeze(-1), 0) + inputs[t]
        states.append(state)
    return torch.stack(states)
