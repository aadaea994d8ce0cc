"""Recurrent cores. Sequences are time-major; where a step is marked as a reset, the carry is zero before it."""

from __future__ import annotations

import torch
from torch import Generator, Tensor, nn

from sample_factory.model import gru_gpu
from sample_factory.ued.models import lstm_gpu
from sample_factory.ued.models.gru_sequence import gru_states
from sample_factory.ued.models.init import orthogonal_gates_
from sample_factory.ued.models.lstm_sequence import lstm_states

Carry = tuple[Tensor, ...]  # each [B, ...]; empty without recurrence


def masked(carry: Carry, reset: Tensor) -> Carry:
    """The carry ``[B, ...]``, zero where ``reset`` ``[B]``."""
    return tuple(part.masked_fill(reset.view(-1, *[1] * (part.ndim - 1)), 0) for part in carry)


def by_step(projected: Tensor, rows: Tensor | None, resets: Tensor) -> Tensor:
    """Rows of a table ``[R, G]`` in the order of the steps, ``[T, B, G]``; see :meth:`Core.sequence`."""
    return projected.unflatten(0, resets.shape) if rows is None else projected[rows]


def numbered(rows: Tensor | None, resets: Tensor) -> Tensor:
    """``rows``, or the numbers of all steps in order, int64 ``[T, B]``."""
    return torch.arange(resets.numel()).view(resets.shape) if rows is None else rows


class Core(nn.Module):
    """Base of all cores, and the core that passes its input through."""

    is_recurrent = False

    def __init__(self, input_size: int, output_size: int) -> None:
        super().__init__()
        self.input_size, self.output_size = input_size, output_size

    def initial_carry(self, batch_size: int) -> Carry:
        return ()

    def step(self, x: Tensor, carry: Carry, reset: Tensor) -> tuple[Tensor, Carry]:
        """One step: ``x`` ``[B, D]``, ``reset`` bool ``[B]``; output ``[B, H]`` and the next carry."""
        return x, ()

    def sequence_by_steps(self, x: Tensor, carry: Carry, resets: Tensor) -> Tensor:
        """``step`` for all ``x`` ``[T, B, D]`` and ``resets`` ``[T, B]``, output ``[T, B, H]``: the plain reference."""
        outputs = []
        for t in range(len(x)):
            output, carry = self.step(x[t], carry, resets[t])
            outputs.append(output)
        return torch.stack(outputs)

    @property
    def input_layer(self) -> tuple[Tensor, Tensor] | None:
        """Weight ``[G, D]`` and bias ``[G]`` of the linear layer a core begins with; ``None``: it has none."""
        return None

    def sequence(self, projected: Tensor, rows: Tensor | None, carry: Carry, resets: Tensor) -> Tensor:
        """The same values as ``sequence_by_steps``, faster.

        :param projected: outputs of the ``input_layer`` for different inputs, ``[R, G]``
        :param rows: which of them each step has, int64 ``[T, B]``; ``None``: each has its own, in order
        """
        return by_step(projected, rows, resets)


class LstmCore(Core):
    """LSTM without peepholes (Hochreiter & Schmidhuber, 1997; Gers et al., 2000), one bias per gate.

    Gates ``i, f, o, g = W_in x + W_rec h + b``, stacked in this order; ``c' = sigmoid(f) c + sigmoid(i) tanh(g)``;
    ``h' = sigmoid(o) tanh(c')``. The carry is (cell, hidden).
    """

    is_recurrent = True

    def __init__(self, input_size: int, hidden_size: int, generator: Generator | None = None) -> None:
        super().__init__(input_size, hidden_size)
        self.weight_ih = nn.Parameter(torch.empty(4 * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(4 * hidden_size, hidden_size))
        self.bias = nn.Parameter(torch.zeros(4 * hidden_size))
        orthogonal_gates_(self.weight_ih, 4, generator)
        orthogonal_gates_(self.weight_hh, 4, generator)

    def initial_carry(self, batch_size: int) -> Carry:
        zeros = self.bias.detach().new_zeros(batch_size, self.output_size)
        return zeros, zeros.clone()

    def step(self, x: Tensor, carry: Carry, reset: Tensor) -> tuple[Tensor, Carry]:
        cell, hidden = masked(carry, reset)
        i, f, o, g = (x @ self.weight_ih.t() + hidden @ self.weight_hh.t() + self.bias).chunk(4, dim=-1)
        cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
        hidden = torch.sigmoid(o) * torch.tanh(cell)
        return hidden, (cell, hidden)

    @property
    def input_layer(self) -> tuple[Tensor, Tensor]:
        return self.weight_ih, self.bias

    def sequence(self, projected: Tensor, rows: Tensor | None, carry: Carry, resets: Tensor) -> Tensor:
        cell, hidden = carry
        if projected.is_cuda:
            from_input = by_step(projected, rows, resets)
            return lstm_gpu.lstm_states(from_input, self.weight_hh, cell, hidden, resets)
        return lstm_states(projected, numbered(rows, resets), self.weight_hh, cell, hidden, resets)


class GruCore(Core):
    """GRU (Cho et al., 2014) with the candidate's recurrent part inside of the reset gate.

    ``r, z = sigmoid(W_in x + b + W_rec h)``; ``n = tanh(W_in x + b + r (W_rec h + b_rec))``; ``h' = (1 - z) n + z h``.
    """

    is_recurrent = True

    def __init__(self, input_size: int, hidden_size: int, generator: Generator | None = None) -> None:
        super().__init__(input_size, hidden_size)
        self.weight_ih = nn.Parameter(torch.empty(3 * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(3 * hidden_size, hidden_size))
        self.bias = nn.Parameter(torch.zeros(3 * hidden_size))
        self.candidate_bias = nn.Parameter(torch.zeros(hidden_size))
        orthogonal_gates_(self.weight_ih, 3, generator)
        orthogonal_gates_(self.weight_hh, 3, generator)

    def initial_carry(self, batch_size: int) -> Carry:
        return (self.bias.detach().new_zeros(batch_size, self.output_size),)

    def step(self, x: Tensor, carry: Carry, reset: Tensor) -> tuple[Tensor, Carry]:
        (hidden,) = masked(carry, reset)
        input_r, input_z, input_n = (x @ self.weight_ih.t() + self.bias).chunk(3, dim=-1)
        hidden_r, hidden_z, hidden_n = (hidden @ self.weight_hh.t()).chunk(3, dim=-1)
        r, z = torch.sigmoid(input_r + hidden_r), torch.sigmoid(input_z + hidden_z)
        n = torch.tanh(input_n + r * (hidden_n + self.candidate_bias))
        hidden = (1 - z) * n + z * hidden
        return hidden, (hidden,)

    @property
    def input_layer(self) -> tuple[Tensor, Tensor]:
        return self.weight_ih, self.bias

    def sequence(self, projected: Tensor, rows: Tensor | None, carry: Carry, resets: Tensor) -> Tensor:
        (hidden,) = carry
        if projected.is_cuda:
            keeps = (~resets).to(projected.dtype).unsqueeze(2)  # [T, B, 1]
            zeros = torch.zeros_like(self.bias)
            bias_hh = torch.cat([zeros[: -self.output_size], self.candidate_bias])
            from_input = by_step(projected, rows, resets)
            return gru_gpu.gru_states(from_input, hidden * keeps[0], keeps[1:], self.weight_hh, zeros, bias_hh)
        return gru_states(projected, numbered(rows, resets), self.weight_hh, self.candidate_bias, hidden, resets)
