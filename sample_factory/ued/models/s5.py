"""S5: stacked diagonal state-space layers (Smith, Warrington & Linderman, 2023), in a form that can be reset (Lu et
al., 2023).
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from sample_factory.ued.models.cores import Carry, Core, by_step
from sample_factory.ued.models.init import lecun_normal_, orthogonal_
from sample_factory.ued.models.s5_scan import scan, scan_by_steps

_MIN_STEP, _MAX_STEP = 1e-3, 1e-1
_LAYERNORM_EPSILON = 1e-6


def hippo_normal_eigenvalues(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues complex128 ``[size]`` by ascending imaginary part, and eigenvectors as columns ``[size, size]``, of
    the normal part of the HiPPO-LegS matrix (Gu et al., 2022, "normal plus low-rank").
    """
    n = np.arange(size)
    a = -np.tril(np.sqrt(np.outer(1 + 2 * n, 1 + 2 * n)), -1) - np.diag(n + 1.0)
    p = np.sqrt(n + 0.5)
    normal = a + np.outer(p, p)
    real = np.full(size, normal.diagonal().mean())
    imaginary, vectors = np.linalg.eigh(-1j * (normal - np.diag(normal.diagonal())))
    return real + 1j * imaginary, vectors


def block_eigenvectors(size: int, num_blocks: int) -> tuple[np.ndarray, np.ndarray]:
    """One of each conjugate pair of eigenvalues, ``[size / 2]``, and eigenvectors ``[size, size / 2]`` of a
    block-diagonal state matrix.
    """
    block = size // num_blocks
    eigenvalues, vectors = hippo_normal_eigenvalues(block)
    half = block // 2
    return np.tile(eigenvalues[:half], num_blocks), np.kron(np.eye(num_blocks), vectors[:, :half])


def discretise(eigenvalues: Tensor, b: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """Zero-order hold: complex ``exp(L step)`` ``[P]`` and ``(exp(L step) - 1) / L * B`` ``[P, D]``."""
    transition = torch.exp(eigenvalues * step)
    return transition, ((transition - 1) / eigenvalues).unsqueeze(-1) * b


class StateSpace(nn.Module):
    """``y_t = 2 Re(C x_t) + d * u_t`` of the states of a diagonal linear system with inputs ``u``, all of width D."""

    def __init__(self, size: int, num_blocks: int, generator: Generator | None = None) -> None:
        super().__init__()
        self.num_states = size // 2
        eigenvalues, vectors = block_eigenvectors(size, num_blocks)
        self.eigenvalues_re = nn.Parameter(torch.tensor(eigenvalues.real, dtype=torch.float32))
        self.eigenvalues_im = nn.Parameter(torch.tensor(eigenvalues.imag, dtype=torch.float32))
        v = torch.tensor(vectors, dtype=torch.complex64)  # [D, P]
        b = torch.empty(size, size)
        lecun_normal_(b, size, generator)
        self.b = nn.Parameter(torch.view_as_real(v.mH @ b.to(v.dtype)).contiguous())  # [P, D, 2]
        c = torch.empty(size, size, 2)
        lecun_normal_(c, size * size, generator)
        self.c = nn.Parameter(torch.view_as_real(torch.view_as_complex(c) @ v).contiguous())  # [D, P, 2]
        self.d = nn.Parameter(torch.empty(size).normal_(generator=generator))
        uniform = torch.rand(self.num_states, generator=generator)
        low, high = math.log(_MIN_STEP), math.log(_MAX_STEP)
        self.log_step = nn.Parameter(low + (high - low) * uniform)

    def matrices(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of one step: transition, complex ``[P]``; and, with real and imaginary parts of every state side by side,
        the matrix of inputs ``[2 P, D]`` and the matrix of outputs ``[D, 2 P]``, real.
        """
        eigenvalues = torch.complex(self.eigenvalues_re, self.eigenvalues_im)
        transition, b = discretise(eigenvalues, torch.view_as_complex(self.b), self.log_step.exp())
        input_matrix = torch.view_as_real(b).transpose(1, 2).flatten(0, 1)
        output_matrix = torch.stack([2.0 * self.c[..., 0], -2.0 * self.c[..., 1]], dim=-1).flatten(1)  # 2 Re(C x)
        return transition, input_matrix, output_matrix

    def forward(self, u: Tensor, initial: Tensor, resets: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs ``[T, B, D]`` for ``u`` ``[T, B, D]``, and the last state ``[B, P]``."""
        return self.run(u, initial, resets, self.matrices())

    def run(
        self, u: Tensor, initial: Tensor, resets: Tensor, matrices: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """``forward`` with the result of ``matrices()``, which depends on parameters alone."""
        transition, input_matrix, output_matrix = matrices
        inputs = torch.view_as_complex(F.linear(u, input_matrix).unflatten(-1, (-1, 2)))
        scan_steps = scan_by_steps if len(u) == 1 else scan
        states = scan_steps(transition, inputs, initial, resets)
        return F.linear(torch.view_as_real(states).flatten(-2), output_matrix) + self.d * u, states[-1]


class S5Layer(nn.Module):
    """State space with a gate and a residual connection; optionally a LayerNorm before or after."""

    def __init__(
        self,
        size: int,
        num_blocks: int,
        activation: str,
        layernorm_pos: str | None,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        self.activation, self.layernorm_pos = activation, layernorm_pos
        self.state_space = StateSpace(size, num_blocks, generator)
        num_dense = {"full_glu": 2, "gelu": 0}.get(activation, 1)
        self.dense = nn.ModuleList(nn.Linear(size, size) for _ in range(num_dense))
        for layer in self.dense:
            lecun_normal_(layer.weight, size, generator)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        self.norm = nn.LayerNorm(size, eps=_LAYERNORM_EPSILON) if layernorm_pos is not None else nn.Identity()

    def forward(self, x: Tensor, initial: Tensor, resets: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs ``[T, B, D]`` and the last state, complex ``[B, P]``."""
        y, last_state = self.state_space(self.before(x), initial, resets)
        return self.after(x, y), last_state

    def before(self, x: Tensor) -> Tensor:
        """The state space's input."""
        return self.norm(x) if self.layernorm_pos == "pre" else x

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        """The layer's output, given that of the state space."""
        x = x + self.gate(y)
        return self.norm(x) if self.layernorm_pos == "post" else x

    def gate(self, y: Tensor) -> Tensor:
        activated = F.gelu(y, approximate="tanh")
        if self.activation == "gelu":
            return activated
        if self.activation == "half_glu1":
            return activated * torch.sigmoid(self.dense[0](activated))
        if self.activation == "half_glu2":
            return y * torch.sigmoid(self.dense[0](activated))
        return self.dense[0](activated) * torch.sigmoid(self.dense[1](activated))


class S5Core(Core):
    """A dense layer to the model's width, then S5 layers. The carry has one complex state ``[B, P]`` per layer."""

    is_recurrent = True

    def __init__(
        self,
        input_size: int,
        size: int,
        num_layers: int,
        num_blocks: int = 1,
        activation: str = "half_glu1",
        layernorm_pos: str | None = None,
        generator: Generator | None = None,
    ) -> None:
        super().__init__(input_size, size)
        self.encoder = nn.Linear(input_size, size)
        orthogonal_(self.encoder.weight, 1.0, generator)
        nn.init.zeros_(self.encoder.bias)
        self.layers = nn.ModuleList(
            S5Layer(size, num_blocks, activation, layernorm_pos, generator) for _ in range(num_layers)
        )

    def initial_carry(self, batch_size: int) -> Carry:
        num_states = self.output_size // 2
        device = self.encoder.weight.device
        return tuple(torch.zeros(batch_size, num_states, dtype=torch.complex64, device=device) for _ in self.layers)

    def step(self, x: Tensor, carry: Carry, reset: Tensor) -> tuple[Tensor, Carry]:
        output, carry = self._run(self.encoder(x).unsqueeze(0), carry, reset.unsqueeze(0))
        return output.squeeze(0), carry

    @property
    def input_layer(self) -> tuple[Tensor, Tensor]:
        return self.encoder.weight, self.encoder.bias

    def sequence(self, projected: Tensor, rows: Tensor | None, carry: Carry, resets: Tensor) -> Tensor:
        return self._run(by_step(projected, rows, resets), carry, resets)[0]

    def _run(self, x: Tensor, carry: Carry, resets: Tensor) -> tuple[Tensor, Carry]:
        last_states = []
        for layer, initial in zip(self.layers, carry, strict=True):
            x, last_state = layer(x, initial, resets)
            last_states.append(last_state)
        return x, tuple(last_states)
