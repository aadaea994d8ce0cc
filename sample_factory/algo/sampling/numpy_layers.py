"""Layers of :mod:`numpy_policy`: they take and give features as rows, ``[features, n]``.

Results are valid until the next call with the same number of columns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sample_factory.algo.utils.products import has_one_dnn, product_with
from sample_factory.model.conv_stack import ConvStack, convolve, prepared_weights

_LARGE_MATRIX = 200_000
"""From here on reading the matrix costs more than a call of oneDNN, which has a copy of it in good order."""

Activation = Callable[[np.ndarray, np.ndarray], None]  # (x, scratch of the same shape): in place


class Affine:
    """``weight @ x + bias`` for ``weight`` ``[k, d]`` and ``bias`` ``[k]``, which may be changed in place.

    Call :meth:`refresh` afterwards.
    """

    def __init__(self, weight: np.ndarray, bias: np.ndarray):
        self._weight, self._bias = weight, bias
        self._is_large = weight.size >= _LARGE_MATRIX and has_one_dnn()
        self._packed: Callable[[Tensor], Tensor] | None = None
        self._buffers: dict[int, np.ndarray] = {}

    def refresh(self) -> None:
        self._packed = None

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """``[k, n]`` for ``x`` ``[d, n]``; in memory, either of both may be transposed."""
        n = x.shape[1]
        if self._is_large and n > 1:
            if self._packed is None:
                bias = torch.from_numpy(self._bias)
                self._packed = product_with(torch.from_numpy(self._weight), n, bias)
            return self._packed(torch.from_numpy(np.ascontiguousarray(x.T))).numpy().T  # type: ignore[no-any-return]
        out = self._buffers.get(n)
        if out is None:
            out = self._buffers[n] = np.empty((len(self._weight), n), np.float32)
        np.dot(self._weight, x, out=out)
        return np.add(out, self._bias[:, None], out=out)


class Dense:
    """An :class:`Affine`, then the activation."""

    def __init__(self, affine: Affine, activation: Activation | None):
        self._affine, self._activation = affine, activation
        self._scratch: np.ndarray = np.empty(0, np.float32)

    def refresh(self) -> None:
        self._affine.refresh()

    def __call__(self, x: np.ndarray) -> np.ndarray:
        out = self._affine(x)
        if self._activation is not None:
            if self._scratch.shape != out.shape or self._scratch.strides != out.strides:
                self._scratch = np.empty_like(out)
            self._activation(out, self._scratch)
        return out


class Convolutions:
    """Normalised images ``[n, C, H, W]`` to features ``[d, n]``; the arithmetic is that of torch."""

    def __init__(self, stack: ConvStack):
        self._stack = stack
        self._weights: list[Tensor] | None = None

    def refresh(self) -> None:
        self._weights = None

    def __call__(self, x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            if self._weights is None:
                self._weights = prepared_weights(self._stack)
            return convolve(self._stack, torch.from_numpy(x), self._weights).numpy().T


class GruCell:
    """One layer of ``nn.GRU``, one step: the equations of its documentation."""

    def __init__(self, gru: nn.GRU, layer: int):
        self.size = gru.hidden_size
        weight_ih, weight_hh, bias_ih, bias_hh = (tensor.detach().numpy() for tensor in gru.all_weights[layer])
        self._from_input, self._from_state = Affine(weight_ih, bias_ih), Affine(weight_hh, bias_hh)

    def refresh(self) -> None:
        self._from_input.refresh()
        self._from_state.refresh()

    def __call__(self, x: np.ndarray, h: np.ndarray) -> np.ndarray:
        size = self.size
        gi, gh = self._from_input(x), self._from_state(h)
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
        Dense(Affine(linear.weight.detach().numpy(), linear.bias.detach().numpy()), _activation(activation))
        for linear, activation in zip(layers[::2], layers[1::2], strict=True)
    ]
