"""Writing the observations of all agents of a split into one step of a trajectory block."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from sample_factory.algo.sampling.env_faults import MAX_DOT_SIZE, check_column, checked_value, is_finite, value_of

# Larger observations are written one by one: joining them first would copy them twice.
_MAX_JOINED_BYTES = 1024


class ObsWriter:
    """Writes into step ``t`` of a block, ``{key: [n, T+1, ...]}``, and checks what it writes.

    All methods raise :class:`BadObservationError` for values that the observation space does not allow: missing ones,
    other shapes, types that lose information, numbers that are not finite. Writing can be repeated.
    """

    def __init__(self, columns: dict[str, np.ndarray]):
        self._columns = columns
        # One-dimensional views of every step, where memory allows.
        self._flat = {key: _flat_steps(array) for key, array in columns.items()}
        self._joins = {key: flat is not None and _is_joined(columns[key]) for key, flat in self._flat.items()}
        self._unseen = set(columns)
        self._is_float = {key: array.dtype.kind == "f" for key, array in columns.items()}
        self._is_short = {key: flat is None or len(flat[0]) <= MAX_DOT_SIZE for key, flat in self._flat.items()}

    def write(self, step: int, obs: Sequence[Any]) -> None:
        """``obs``: one dict per agent. Agents that are not in the game may have none (``None``): zeros then."""
        is_absent = [agent_obs is None for agent_obs in obs]
        if any(is_absent):
            for key, column in self._columns.items():
                for row, agent_obs in enumerate(obs):
                    if agent_obs is None:
                        column[row, step] = 0
                    else:
                        column[row, step] = checked_value(key, row, value_of(key, row, agent_obs), column[row, step])
                self._check(key, step)
            return
        for key in self._columns:
            try:
                values = [agent_obs[key] for agent_obs in obs]
            except (KeyError, TypeError, IndexError):
                values = [value_of(key, row, agent_obs) for row, agent_obs in enumerate(obs)]
            self.write_key(key, step, values)

    def write_key(self, key: str, step: int, values: list[Any]) -> None:
        """``values``: one observation per agent."""
        if self._joins[key]:
            flat = self._flat[key]
            assert flat is not None
            try:
                if key in self._unseen:  # lengths that only add up to the right one
                    self._unseen.remove(key)
                    np.stack(values)
                np.concatenate(values, out=flat[step], casting="same_kind")
            except (ValueError, TypeError):
                # Arrays of one element more dimension, or whole numbers where a smaller type is stored: allowed but
                # slow from now on. Whatever is wrong raises again below, with the reason.
                self._joins[key] = False
            else:
                joined = flat[step]
                # Saves two calls in the usual case.
                if self._is_float[key] and not (self._is_short[key] and math.isfinite(joined.dot(joined))):
                    self._check(key, step)
                return
        column = self._columns[key]
        for row, value in enumerate(values):
            column[row, step] = checked_value(key, row, value, column[row, step])
        self._check(key, step)

    def _check(self, key: str, step: int) -> None:
        if self._is_float[key]:
            flat = self._flat[key]
            if flat is None or not is_finite(flat[step]):
                check_column(key, self._columns[key][:, step])

    def zeros_instead(self, obs: Any, key: str | None, wraps_obs: bool) -> Any:
        """The observation of one agent with zeros where it is bad."""
        if key is None:
            return obs
        column = self._columns[key]
        zeros = np.zeros(column.shape[2:], column.dtype)
        return zeros if wraps_obs else {**(obs if isinstance(obs, dict) else {}), key: zeros}


def _is_joined(array: np.ndarray) -> bool:
    return array.ndim == 3 and array[0, 0].nbytes <= _MAX_JOINED_BYTES


def _flat_steps(array: np.ndarray) -> list[np.ndarray] | None:
    steps = [array[:, step] for step in range(array.shape[1])]
    return [step.reshape(-1) for step in steps] if all(step.flags.c_contiguous for step in steps) else None
