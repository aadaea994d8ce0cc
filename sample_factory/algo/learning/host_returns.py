"""Advantages and value targets on the CPU, by NumPy: the formulas of :mod:`returns` without torch's cost per operator.

``valids`` is ``None`` if every step counts. Arrays are float32 ``[N, T]``; ``values`` and ``valids`` ``[N, T+1]``.
"""

from __future__ import annotations

import numpy as np

_MAX_SCAN_SIZE = (
    4096  # with more numbers arithmetic costs more than calls, and the scan has log2(T) times as much of it
)

_ZERO = np.float32(0.0)


def reverse_recurrence(x: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """``y_t = x_t + coefficients_t * y_{t+1}`` along the first dimension of ``[T, N]``; both arrays are overwritten."""
    num_steps = len(x)
    if x.size > _MAX_SCAN_SIZE:
        product = np.empty_like(x[0])
        for t in range(num_steps - 2, -1, -1):
            np.multiply(coefficients[t], x[t + 1], out=product)
            np.add(x[t], product, out=x[t])
        return x
    stride = 1
    while stride < num_steps:  # recursive doubling
        x[:-stride] += coefficients[:-stride] * x[stride:]
        stride_after = 2 * stride
        if stride_after < num_steps:
            coefficients[:-stride] *= coefficients[stride:]
        stride = stride_after
    return x


def _time_major(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x.T)


def gae(
    rewards: np.ndarray,
    dones: np.ndarray,
    values: np.ndarray,
    valids: np.ndarray | None,
    gamma: float,
    gae_lambda: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Advantages and targets ``[N, T]`` of :func:`returns.gae`."""
    r, v = _time_major(rewards), _time_major(values)
    not_done = np.subtract(np.float32(1.0), _time_major(dones), dtype=np.float32)
    coefficients = not_done * np.float32(gamma * gae_lambda)
    if valids is not None:
        m = _time_major(valids)
        v, r = np.where(m, v, _ZERO), np.where(m[:-1], r, _ZERO)
        coefficients = np.where(m[:-1], coefficients, not_done)
    deltas = v[1:] * (not_done * np.float32(gamma))
    deltas += r
    deltas -= v[:-1]
    advantages = reverse_recurrence(deltas, coefficients)
    return np.ascontiguousarray(advantages.T), np.ascontiguousarray((advantages + v[:-1]).T)


def vtrace(
    ratio: np.ndarray,
    rewards: np.ndarray,
    dones: np.ndarray,
    values: np.ndarray,
    last_values: np.ndarray,
    valids: np.ndarray | None,
    *,
    gamma: float,
    rho_clip: float,
    c_clip: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Advantages and targets ``[N, T]`` of :func:`returns.vtrace`.

    ``values``, ``valids`` ``[N, T]`` and ``last_values`` ``[N]``, which counts if the step before it does.
    """
    ratio, r, v = _time_major(ratio), _time_major(rewards), _time_major(values)
    discount = np.subtract(np.float32(1.0), _time_major(dones), dtype=np.float32)
    not_done = discount
    discount = discount * np.float32(gamma)
    m: np.ndarray | None = None
    if valids is not None:
        m = _time_major(valids)
        v, last_values = np.where(m, v, _ZERO), np.where(m[-1], last_values, _ZERO)
    next_v = np.concatenate([v[1:], last_values[None]])
    rho, c = np.minimum(ratio, np.float32(rho_clip)), np.minimum(ratio, np.float32(c_clip))

    bootstrap = discount * next_v
    deltas, decay = rho * (r + bootstrap - v), discount * c
    if m is not None:
        deltas, decay = np.where(m, deltas, bootstrap), np.where(m, decay, not_done)
    x = reverse_recurrence(deltas, decay)
    targets = v + x
    next_v[:-1] += x[1:]
    advantages = rho * (r + discount * next_v - v)
    if m is not None:
        advantages = np.where(m, advantages, _ZERO)
    return np.ascontiguousarray(advantages.T), np.ascontiguousarray(targets.T)
