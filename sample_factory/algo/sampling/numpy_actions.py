"""Sampling of actions and their log-probabilities in NumPy.

The numbers are those of :mod:`sample_factory.algo.utils.action_distributions`; parameters come as rows ``[p, n]``, one
column per agent.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from gymnasium import spaces

from sample_factory.algo.utils.action_distributions import calc_num_action_parameters, calc_num_actions
from sample_factory.utils.typing import ActionSpace

_MIN_STDDEV, _MAX_STDDEV = 1e-4, 1e4
_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)

# (parameters [p, n], actions [n, k], log_probs [n]): reads the first, writes the others.
ActionSampler = Callable[[np.ndarray, np.ndarray, np.ndarray], None]


def make_action_sampler(
    action_space: ActionSpace, rng: np.random.Generator, deterministic: bool
) -> ActionSampler | None:
    """The sampler of an action space, or ``None`` if there is none for it.

    :param deterministic: the most likely action (the mean) instead of a random one.
    """
    if isinstance(action_space, spaces.Discrete):
        return _Categorical(rng, deterministic)
    if isinstance(action_space, spaces.Box) and len(action_space.shape) == 1:
        return _Normal(rng, deterministic)
    if isinstance(action_space, spaces.MultiDiscrete):
        return _Joint([spaces.Discrete(int(n)) for n in action_space.nvec.ravel()], rng, deterministic)
    if isinstance(action_space, spaces.Tuple):
        return _Joint(list(action_space.spaces), rng, deterministic)
    return None


class _Categorical:
    """One discrete action, by inversion of the cumulative distribution."""

    def __init__(self, rng: np.random.Generator, deterministic: bool):
        self._rng, self._deterministic = rng, deterministic
        self._columns: dict[int, np.ndarray] = {}

    def __call__(self, logits: np.ndarray, actions: np.ndarray, log_probs: np.ndarray) -> None:
        num_actions, n = logits.shape
        shifted = logits - logits.max(axis=0)
        cumulative = np.add.accumulate(np.exp(shifted), axis=0)
        total = cumulative[-1]
        if not total.sum() > 0.0:  # at least 1 per row otherwise
            raise ValueError("action probabilities contain NaN: bad observations or diverged weights")
        if self._deterministic:
            chosen = logits.argmax(axis=0)
        else:
            # In float64: a threshold that rounding lifts to the total would choose the last action whatever its
            # probability.
            below = cumulative[:-1] <= self._rng.random(n) * total
            chosen = below[0].astype(np.intp) if num_actions == 2 else below.sum(axis=0)
        columns = self._columns.get(n)
        if columns is None:
            columns = self._columns[n] = np.arange(n)
        actions[:, 0] = chosen
        np.subtract(shifted.ravel().take(chosen * n + columns), np.log(total), out=log_probs)


class _Normal:
    """Independent normals: means, then log standard deviations."""

    def __init__(self, rng: np.random.Generator, deterministic: bool):
        self._rng, self._deterministic = rng, deterministic

    def __call__(self, parameters: np.ndarray, actions: np.ndarray, log_probs: np.ndarray) -> None:
        means, log_stddevs = np.split(parameters, 2)  # [k, n]
        if np.isnan(parameters.sum()):
            raise ValueError("action distributions contain NaN: bad observations or diverged weights")
        stddevs = np.clip(np.exp(log_stddevs), _MIN_STDDEV, _MAX_STDDEV)
        if self._deterministic:
            noise = np.zeros(means.shape, np.float32)
        else:
            noise = self._rng.standard_normal(means.shape, dtype=np.float32)
        actions[...] = (means + stddevs * noise).T
        log_probs[...] = -(0.5 * np.square(noise) + np.log(stddevs) + _HALF_LOG_2PI).sum(axis=0)


class _Joint:
    """Independent sub-spaces, parameters and actions side by side."""

    def __init__(self, parts: list[spaces.Space], rng: np.random.Generator, deterministic: bool):
        self._parts: list[tuple[ActionSampler, slice, slice]] = []
        first_parameter = first_action = 0
        for space in parts:
            sampler = make_action_sampler(space, rng, deterministic)
            if sampler is None:
                raise ValueError(f"action space {space} inside a Tuple has no distribution")
            parameters = slice(first_parameter, first_parameter + calc_num_action_parameters(space))
            columns = slice(first_action, first_action + calc_num_actions(space))
            self._parts.append((sampler, parameters, columns))
            first_parameter, first_action = parameters.stop, columns.stop

    def __call__(self, parameters: np.ndarray, actions: np.ndarray, log_probs: np.ndarray) -> None:
        of_part = np.empty(log_probs.shape, np.float32)
        log_probs[...] = 0.0
        for sampler, rows, columns in self._parts:
            sampler(parameters[rows], actions[:, columns], of_part)
            log_probs += of_part
