"""Layers of :mod:`numpy_policy`: they take and give features as rows, ``[features, n]``.

Results are valid until the next call with the same number of columns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import nn

# Above, and for very few columns, BLAS spends more on rearranging the matrix than on reading it once per column.
_LARGE_MATRIX, _FEW_COLUMNS = 500_000, 2

Activation = Callable[[np.ndarray, np.ndarray], None]  # (x, scratch of the same shape): in place


def multiply(weight: np.ndarray, x: np.ndarray, out: np.ndarray) -> None:
    """``out = weight @ x`` for ``weight`` ``[k, d]``, ``x`` ``[d, n]``; ``out`` ``[k, n]`` is contiguous."""
    if x.shape[1] <= _FEW_COLUMNS and weight.size >= _LARGE_MATRIX:
        for column in range(x.shape[1]):
            out[:, column] = np.dot(weight, x[:, column])
    else:
        np.dot(weight, x, out=out)


class Dense:
    """``weight @ x + bias``, then the activation; ``bias`` ``[k, 1]``."""

    def __init__(self, weight: np.ndarray, bias: np.ndarray, activation: Activation | None):
        self._weight, self._bias, self._activation = weight, bias, activation
        self._buffers: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def __call__(self, x: np.ndarray) -> np.ndarray:
        n = x.shape[1]
        buffers = self._buffers.get(n)
        if buffers is None:
            shape = (len(self._weight), n)
            buffers = self._buffers[n] = np.empty(shape, np.float32), np.empty(shape, np.float32)
        out, scratch = buffers
        multiply(self._weight, x, out)
        np.add(out, self._bias, out=out)
        if self._activation is not None:
            self._activation(out, scratch)
        return out


class GruCell:
    """One layer of ``nn.GRU``, one step: the equations of its documentation."""

    def __init__(self, gru: nn.GRU, layer: int):
        self.size = gru.hidden_size
        self._weight_ih, self._weight_hh, bias_ih, bias_hh = (
            tensor.detach().numpy() for tensor in gru.all_weights[layer]
        )
        self._bias_ih, self._bias_hh = bias_ih[:, None], bias_hh[:, None]
        self._buffers: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def __call__(self, x: np.ndarray, h: np.ndarray) -> np.ndarray:
        n, size = x.shape[1], self.size
        buffers = self._buffers.get(n)
        if buffers is None:
            shape = (3 * size, n)
            buffers = self._buffers[n] = np.empty(shape, np.float32), np.empty(shape, np.float32)
        gi, gh = buffers
        multiply(self._weight_ih, x, gi)
        np.add(gi, self._bias_ih, out=gi)
        multiply(self._weight_hh, h, gh)
        np.add(gh, self._bias_hh, out=gh)

        gates = gi[: 2 * size]  # reset, update
        np.add(gates, gh[: 2 * size], out=gates)
        _sigmoid(gates)
        candidate, reset, update = gh[2 * size :], gates[:size], gates[size:]
        np.multiply(candidate, reset, out=candidate)
        np.add(candidate, gi[2 * size :], out=candidate)
        np.tanh(candidate, out=candidate)
        # (1 - z) * n + z * h
        difference = np.subtract(h, candidate, out=gh[:size])
        np.multiply(difference, update, out=difference)
        return np.add(candidate, difference, out=difference)


def _sigmoid(x: np.ndarray) -> None:
    # By the hyperbolic tangent, which does not overflow.
    np.multiply(x, np.float32(0.5), out=x)
    np.tanh(x, out=x)
    np.multiply(x, np.float32(0.5), out=x)
    np.add(x, np.float32(0.5), out=x)


def _elu(x: np.ndarray, scratch: np.ndarray) -> None:
    # exp(min(x, 0)) - 1 is 0 where x is positive and above x where it is negative.
    np.minimum(x, 0.0, out=scratch)
    np.exp(scratch, out=scratch)
    np.subtract(scratch, 1.0, out=scratch)
    np.maximum(x, scratch, out=x)


def _relu(x: np.ndarray, scratch: np.ndarray) -> None:
    np.maximum(x, 0.0, out=x)


def _tanh(x: np.ndarray, scratch: np.ndarray) -> None:
    np.tanh(x, out=x)


def _activation(module: Any) -> Activation | None:
    if type(module) is nn.ELU and module.alpha == 1.0:
        return _elu
    return {nn.ReLU: _relu, nn.Tanh: _tanh}.get(type(module))


def is_mlp(module: nn.Module) -> bool:
    """Nothing, or linear layers with an activation each."""
    if type(module) is nn.Identity:
        return True
    if type(module) is not nn.Sequential or len(module) % 2:
        return False
    linear, activations = list(module)[::2], list(module)[1::2]
    return all(type(layer) is nn.Linear and layer.bias is not None for layer in linear) and all(
        _activation(activation) is not None for activation in activations
    )


def dense_layers(module: nn.Module) -> list[Dense]:
    """The layers of what :func:`is_mlp` accepts, as views of their parameters."""
    if isinstance(module, nn.Identity):
        return []
    layers: list[Any] = list(module)  # type: ignore[call-overload]
    return [
        Dense(linear.weight.detach().numpy(), linear.bias.detach().numpy()[:, None], _activation(activation))
        for linear, activation in zip(layers[::2], layers[1::2], strict=True)
    ]
