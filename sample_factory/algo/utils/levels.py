"""Environments with levels, as curricula of the asynchronous runner see them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from sample_factory.algo.utils.env_interfaces import find_wrapper_interface
from sample_factory.utils.typing import Env

Level = npt.NDArray[Any]
LEVEL_KEY = "level"  # in the options of ``reset``


@runtime_checkable
class LevelInterface(Protocol):
    """What an environment needs besides the methods of Gymnasium, on any of its layers.

    A *level* is an array; all levels of an environment have one shape and one type. ``reset(options={"level": level})``
    begins an episode on that level, ``reset()`` on any. Every random number of both methods comes from ``rng``.
    """

    def sample_level(self, rng: np.random.Generator) -> Level:
        """A random level, independent of what the environment is doing."""
        ...


@runtime_checkable
class MutableLevelInterface(LevelInterface, Protocol):
    """Levels that can be edited, for ``--curriculum=accel``."""

    def mutate_level(self, level: Level, rng: np.random.Generator, num_mutations: int) -> Level:
        """A copy of ``level`` after this many random edits; ``level`` itself stays as it is."""
        ...


@dataclass(frozen=True)
class LevelSpec:
    """What levels of an environment look like. ``resets_itself``: nobody else begins its episodes (several agents)."""

    shape: tuple[int, ...]
    dtype: str
    can_mutate: bool
    resets_itself: bool

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def check(self, level: Any, method: str) -> Level:
        """``level`` if it is one.

        :raises ValueError: type or shape differ; the message names the method it comes from.
        """
        dtype = np.dtype(self.dtype)
        if not isinstance(level, np.ndarray) or level.shape != self.shape or level.dtype != dtype:
            raise ValueError(f"{method} has to return {dtype} arrays of shape {self.shape}, it returned {_kind(level)}")
        return level

    def to_bytes(self, level: Level) -> npt.NDArray[np.uint8]:
        """Flat bytes ``[num_bytes]``, a view if the level is contiguous."""
        return np.ascontiguousarray(level).reshape(-1).view(np.uint8)

    def from_bytes(self, data: npt.NDArray[np.uint8]) -> Level:
        """Inverse of :meth:`to_bytes`: a new array."""
        return data.copy().view(np.dtype(self.dtype)).reshape(self.shape)


def find_level_interface(env: Env) -> LevelInterface | None:
    """The outermost layer that has levels; ``None`` if no layer has."""
    return find_wrapper_interface(env, LevelInterface)  # type: ignore[type-abstract]


def level_spec_of(env: Env) -> LevelSpec | None:
    """``None`` if the environment has no levels.

    :param env: in batched or non-batched form (see ``make_env``).
    :raises ValueError: ``sample_level`` returns something that cannot be kept in shared memory.
    """
    interface = find_level_interface(env)
    if interface is None:
        return None
    level = interface.sample_level(np.random.default_rng(0))
    if not isinstance(level, np.ndarray) or level.dtype.hasobject or level.nbytes == 0:
        raise ValueError(
            f"sample_level has to return a NumPy array of numbers with at least one byte, it returned {_kind(level)}"
        )
    resets_itself = getattr(env, "single_agent_env", None) is None
    return LevelSpec(level.shape, level.dtype.str, isinstance(interface, MutableLevelInterface), resets_itself)


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"a {value.dtype} array of shape {value.shape}"
    return f"a {type(value).__name__}"
