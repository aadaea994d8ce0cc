"""What becomes of an environment that raises, or that returns what cannot be learned from.

An environment that raises is built anew in place: its agents' episodes end as truncated, everybody else notices
nothing. One that fails again and again, without one good step in between, is given up: the worker dies of the
exception, and the runner starts it anew as often as it may.

Numbers that are not finite, and observations of the wrong shape, type or name, are found at the first bad step, and
treated as ``--bad_obs`` says.
"""

from __future__ import annotations

import functools
import math
import traceback
from collections import Counter
from typing import Any

import numpy as np

from sample_factory.algo.utils.child_process import FinalError
from sample_factory.cfg.shadowing import flag_value
from sample_factory.utils.typing import Config
from sample_factory.utils.utils import log

ENV_FAILURES, BAD_OBSERVATIONS = "env_failures", "bad_observations"
# More than one process will see: seeds of different restarts stay different.
MAX_REPAIRS = 1_000_000
_MAX_LOGGED_BAD_OBSERVATIONS = 10
# Above, BLAS starts threads, each of which then keeps a core busy with waiting for the next call.
MAX_DOT_SIZE = 10_000


class BadObservationError(Exception):
    """The agent in this row (of the split) got an observation (``key``) or a reward (``key=None``) that is no good."""

    def __init__(self, row: int, key: str | None, problem: str) -> None:
        super().__init__(f"{'reward' if key is None else f'observation {key!r}'}: {problem}")
        self.row, self.key = row, key


class EnvFaults:
    """Faults of the environments of one split: counts them, logs them and decides."""

    def __init__(self, cfg: Config, worker_idx: int, first_env: int) -> None:
        self.policy: str = flag_value(cfg, "bad_obs")
        self._max_in_a_row: int = flag_value(cfg, "max_env_rebuilds")
        self._env_name: str = cfg.env
        self._worker_idx, self._first_env = worker_idx, first_env
        self._in_a_row: Counter[int] = Counter()
        self._failed_at: dict[int, int] = {}  # environment -> step of the split
        self._bad_at: Counter[tuple[int, int]] = Counter()  # environment, step of the split
        self._num_bad = 0
        self.unreported: Counter[str] = Counter()

    def _name(self, env_i: int) -> str:
        return f"Environment {self._first_env + env_i} ({self._env_name}) of rollout worker {self._worker_idx}"

    def on_exception(self, env_i: int, step: int) -> None:
        """Inside an ``except`` block: environment ``env_i`` raised in step number ``step`` of the split. Returns if it
        is to be built anew, and raises the exception again if that has been tried often enough.
        """
        has_recovered = step > self._failed_at.get(env_i, step) + 1
        self._in_a_row[env_i] = 1 if has_recovered else self._in_a_row[env_i] + 1
        self._failed_at[env_i] = step
        self.unreported[ENV_FAILURES] += 1
        if self._in_a_row[env_i] > self._max_in_a_row:
            log.error(f"{self._name(env_i)} failed {self._in_a_row[env_i]} times in a row (--max_env_rebuilds)")
            raise
        log.error(f"{self._name(env_i)} failed and is built anew:\n{traceback.format_exc()}")

    def on_bad_observation(self, env_i: int, step: int, error: BadObservationError) -> None:
        """Log it; returns if it is to be repaired.

        :raises FinalError: ``--bad_obs=error``, or the environment returns nothing good even after resets.
        """
        self.unreported[BAD_OBSERVATIONS] += 1
        self._num_bad += 1
        text = f"{self._name(env_i)}: {error}"
        if self.policy == "error":
            raise FinalError(f"{text}. Repair the environment, or choose --bad_obs=reset or --bad_obs=zero") from error
        if (env_i, step) not in self._bad_at:
            self._bad_at.clear()  # of earlier steps
        self._bad_at[env_i, step] += 1
        if self.policy == "reset" and self._bad_at[env_i, step] > self._max_in_a_row:
            raise FinalError(f"{text}, after {self._max_in_a_row} resets (--max_env_rebuilds), too") from error
        if self._num_bad <= _MAX_LOGGED_BAD_OBSERVATIONS:
            what = "the environment is reset" if self.policy == "reset" else "zeros are used instead"
            log.warning(f"{text}; {what} (--bad_obs={self.policy})")


def is_finite(values: np.ndarray) -> bool:
    """Whether all of this 1-D float array is finite. The sum of squares tells in one pass unless it overflows."""
    if len(values) > MAX_DOT_SIZE:
        starts = range(0, len(values), MAX_DOT_SIZE)
        return all(is_finite(values[start : start + MAX_DOT_SIZE]) for start in starts)
    return math.isfinite(values.dot(values)) or bool(np.isfinite(values).all())


def single_number(reward: Any, row: int) -> float:
    """A reward that may be wrapped in an array of one element.

    :raises ValueError: it is anything else.
    """
    try:
        return float(np.asarray(reward).reshape(()))
    except (TypeError, ValueError) as exc:
        raise ValueError(f"the reward of agent {row} of the split is no number but {reward!r}") from exc


def check_rewards(rewards: np.ndarray) -> None:
    """:raises BadObservationError: one of the rewards ``[n]`` is not finite."""
    if not is_finite(rewards):
        row = int(np.flatnonzero(~np.isfinite(rewards))[0])
        raise BadObservationError(row, None, f"{rewards[row]} is not a finite number")


def check_column(key: str, column: np.ndarray) -> None:
    """``column``: float observations of all agents at one step, ``[n, ...]``.

    :raises BadObservationError: one of the values is not finite.
    """
    is_bad = ~np.isfinite(column.reshape(len(column), -1))
    for row in np.flatnonzero(is_bad.any(axis=1)).tolist():
        where = int(np.flatnonzero(is_bad[row])[0])
        value = column.reshape(len(column), -1)[row, where]
        raise BadObservationError(row, key, f"element {where} is {value}, which is not a finite number")


def checked_value(key: str, row: int, value: Any, like: np.ndarray) -> np.ndarray:
    """One agent's observation as an array of the shape and type of ``like``. Integers take the whole part of fractions.

    :raises BadObservationError: the shape differs by more than axes of length one, or the type cannot hold the values.
    """
    array = np.asarray(value)
    if array.shape != like.shape and _without_ones(array.shape) != _without_ones(like.shape):
        raise BadObservationError(row, key, f"has the shape {array.shape}, the observation space says {like.shape}")
    if array.dtype == like.dtype:
        return array.reshape(like.shape)
    try:
        with np.errstate(invalid="ignore"):
            converted = array.astype(like.dtype)
        if not np.can_cast(array.dtype, like.dtype, "same_kind") and not np.array_equal(converted, array):
            if not np.array_equal(converted, np.trunc(array)):
                raise BadObservationError(
                    row, key, f"has values of type {array.dtype} that {like.dtype} of the observation space cannot hold"
                )
            _warn_of_fractions(key, array.dtype, like.dtype)
    except (TypeError, ValueError) as exc:
        raise BadObservationError(row, key, f"has the type {array.dtype}, which is no number ({exc})") from exc
    return converted.reshape(like.shape)


def _without_ones(shape: tuple[int, ...]) -> list[int]:
    return [size for size in shape if size != 1]


@functools.cache  # once per process
def _warn_of_fractions(key: str, found: np.dtype, stored: np.dtype) -> None:
    log.warning(
        f"Observation {key!r} has fractions ({found}), of which the observation space ({stored}) keeps the whole part; "
        "round in the environment, or declare a space of floats"
    )


def value_of(key: str, row: int, obs: Any) -> Any:
    """``obs[key]`` of one agent.

    :raises BadObservationError: there is no such key.
    """
    try:
        return obs[key]
    except (KeyError, TypeError, IndexError) as exc:
        found = sorted(obs) if isinstance(obs, dict) else type(obs).__name__
        raise BadObservationError(row, key, f"is missing; the environment returned {found}") from exc
