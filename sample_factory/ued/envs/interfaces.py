"""What unsupervised environment design asks of an environment. Everything is batched: B environments are one object.

Random numbers come only from the :class:`torch.Generator` that is passed in, so a run can be resumed exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
from torch import Generator, Tensor

from sample_factory.ued.envs.tensor_struct import TensorStruct

Levels = TypeVar("Levels", bound=TensorStruct)
LevelsOut = TypeVar("LevelsOut", bound=TensorStruct, covariant=True)
LevelsIn = TypeVar("LevelsIn", bound=TensorStruct, contravariant=True)
State = TypeVar("State", bound=TensorStruct)
Observations = dict[str, Tensor]


@dataclass(frozen=True)
class ObservationSpec:
    """Shape and kind of every observation, per environment (no batch axis).

    ``image``: [H, W, C] float32 or uint8. ``scalars``: name -> number of values (an index below it). ``vectors``: name
    -> length.
    """

    image: tuple[int, int, int]
    scalars: Mapping[str, int]
    vectors: Mapping[str, int]


@dataclass(frozen=True)
class StepOutcome:
    """Of one step of B environments, before any reset."""

    reward: Tensor  # [B] float32
    done: Tensor  # [B] bool: the episode ended, for whatever reason
    truncated: Tensor  # [B] bool: it ended only because of the step limit (subset of done)


class UedEnv(Protocol, Generic[Levels, State]):
    """A student environment. Stateless: parameters only; what changes lives in ``State``."""

    num_actions: int
    max_episode_steps: int
    observation_spec: ObservationSpec

    def sample_levels(self, num_levels: int, generator: Generator) -> Levels:
        """Random levels of the base distribution (domain randomisation)."""
        ...

    def reset(self, levels: Levels, generator: Generator) -> State:
        """Start states of these levels. Most environments need no generator."""
        ...

    def step(self, state: State, actions: Tensor, generator: Generator) -> StepOutcome:
        """Advance all environments in place by ``actions`` [B] int64. Nothing is reset: the caller writes new start
        states over the rows that are done (``state.put``).
        """
        ...

    def observe(self, state: State) -> Observations:
        """New tensors (never views of the state) of B observations, named as in ``observation_spec``."""
        ...

    def levels_of(self, state: State) -> Levels:
        """The levels these states belong to, with their start positions."""
        ...

    def level_metrics(self, levels: Levels) -> dict[str, Tensor]:
        """Complexity of levels, [B] each. ``passable`` (bool) must be there if it can be computed."""
        ...

    def solved(self, episode_return: Tensor) -> Tensor:
        """Whether episodes with these returns count as solved, bool."""
        ...


class TeacherEnv(Protocol, Generic[LevelsOut, State]):
    """The environment in which a teacher builds one level per episode. All episodes have the same length."""

    num_actions: int
    episode_length: int
    observation_spec: ObservationSpec

    def reset(self, num_levels: int, generator: Generator) -> State: ...

    def step(self, state: State, actions: Tensor, generator: Generator) -> None:
        """Advance in place. There are no rewards: they come from the students."""
        ...

    def observe(self, state: State, generator: Generator) -> Observations: ...

    def decode(self, state: State) -> LevelsOut:
        """The levels that have been built."""
        ...


class Mutator(Protocol, Generic[Levels]):
    def __call__(self, levels: Levels, num_edits: int, generator: Generator) -> Levels:
        """Edited copies."""
        ...


class Comparator(Protocol, Generic[LevelsIn]):
    def __call__(self, levels: LevelsIn, others: LevelsIn) -> Tensor:
        """[len(levels), len(others)] bool: which are the same level."""
        ...


# How a registered environment is made from the options of its flags (names without prefix, all with defaults).
EnvBuilder = Callable[..., UedEnv[Any, Any]]
# The same for the teacher environment. Its first argument is the student environment, whose sizes it copies.
TeacherBuilder = Callable[..., TeacherEnv[Any, Any]]


class CapturableEnv(UedEnv[Levels, State], Protocol[Levels, State]):
    """A student environment whose steps a CUDA graph can hold. Optional: on a GPU rollouts are faster then.

    ``is_capturable`` says that ``step`` and ``observe`` draw no random numbers, read nothing back from the device, and
    launch the same operations on the same memory every time. Nor may anything depend on Python variables that change.
    """

    is_capturable: bool


@runtime_checkable
class RenderableEnv(UedEnv[Levels, State], Protocol[Levels, State]):
    """A student environment that can be drawn. Optional: nothing but pictures depends on it."""

    def render(self, state: State, *, tile_px: int = 32, highlight: bool = True) -> np.ndarray:
        """Pictures [B, height, width, 3] uint8; `highlight` shows what the agent sees, where that makes sense."""
        ...
