"""From the flat float actions of a policy to what an environment wants.

Policies store every action as ``float32 [num_actions]``. What ``env.step`` gets depends on the action space only, so
the conversion is chosen once. Policies count from 0: ``start`` of Discrete and MultiDiscrete spaces is added here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from sample_factory.algo.utils.action_distributions import calc_num_actions
from sample_factory.utils.typing import ActionSpace

RowConverter = Callable[[np.ndarray], Any]
RowsConverter = Callable[[np.ndarray], list]


class ActionConverter:
    """Non-batched actions. ``converter(row)`` converts one agent's ``[num_actions]``, ``converter.many(rows)`` a whole
    split's ``[N, num_actions]`` into a list of N environment actions that share no memory with ``rows``.

    =========================================== ==========================================================
    action space                                environment action
    =========================================== ==========================================================
    Discrete, one-element MultiDiscrete or Tuple ``int``
    MultiDiscrete, Tuple of Discretes           ``int32 [num_actions]``
    Box                                         ``float32 [num_actions]`` (``space.shape`` if it has more dims)
    any other Tuple                             list with one entry per sub-space, as above
    =========================================== ==========================================================
    """

    def __init__(self, one: RowConverter, many: RowsConverter):
        self.one = one
        self.many = many

    def __call__(self, row: np.ndarray) -> Any:
        return self.one(row)


class BatchedActionConverter:
    """Batched actions: ``converter(actions [N, num_actions])`` gives ``int32 [N]`` for Discrete, ``int32 [N, k]`` for
    several Discretes, ``float [N, k]`` for Box and a list of such arrays for a mixed Tuple."""

    def __init__(self, action_space: ActionSpace):
        self._is_mixed = is_mixed_tuple(action_space)
        self._parts = _sub_spaces(action_space) if self._is_mixed else [action_space]
        self._splits = [calc_num_actions(space) for space in self._parts]
        self._is_discrete = [_is_all_discrete(space) for space in self._parts]
        self._starts = [
            _start_offsets(space) if d else None for space, d in zip(self._parts, self._is_discrete, strict=True)
        ]

    def __call__(self, actions: Tensor | np.ndarray, gpu_actions: bool = False, to_numpy: bool = True) -> Any:
        if isinstance(actions, np.ndarray):
            if to_numpy and not gpu_actions:
                return self._convert_arrays(actions)
            actions = torch.from_numpy(actions)
        parts = torch.split(actions, self._splits, dim=-1) if self._is_mixed else [actions]
        converted = [self._convert(part, i, gpu_actions=gpu_actions, to_numpy=to_numpy) for i, part in enumerate(parts)]
        return converted if self._is_mixed else converted[0]

    def _convert_arrays(self, actions: np.ndarray) -> Any:
        """From array to array, without memory in common: environments keep their last action."""
        if not self._is_mixed:
            return self._convert_array(actions, 0)
        bounds = np.cumsum([0, *self._splits]).tolist()
        return [self._convert_array(actions[..., first:last], i) for i, (first, last) in enumerate(pairwise(bounds))]

    def _convert_array(self, actions: np.ndarray, part_idx: int) -> np.ndarray:
        if not self._is_discrete[part_idx]:
            return actions.copy()
        start = self._starts[part_idx]
        converted = actions.astype(np.int32) if start is None else (actions + start).astype(np.int32)
        return converted[..., 0] if converted.ndim > 1 and converted.shape[-1] == 1 else converted

    def _convert(self, actions: Tensor, part_idx: int, gpu_actions: bool, to_numpy: bool) -> Tensor | np.ndarray:
        is_discrete, start = self._is_discrete[part_idx], self._starts[part_idx]
        if start is not None:
            actions = actions + torch.as_tensor(start, device=actions.device)
        return process_action_space(actions, gpu_actions, is_discrete, to_numpy)


def make_action_converter(action_space: ActionSpace, batched: bool) -> Any:
    """The conversion for this action space: an ActionConverter, or a BatchedActionConverter if ``batched``.

    :raises ValueError: the space is no Discrete, MultiDiscrete, Box, or Tuple of these.
    """
    check_action_space(action_space)
    if batched:
        return BatchedActionConverter(action_space)
    if is_mixed_tuple(action_space):
        return _mixed_tuple_converter(_sub_spaces(action_space))
    if _is_all_discrete(action_space):
        return _discrete_converter(action_space)
    assert isinstance(action_space, spaces.Box)
    return _box_converter(action_space)


def check_action_space(action_space: ActionSpace) -> None:
    """:raises ValueError: no policy can act in this space."""
    parts = _sub_spaces(action_space) if isinstance(action_space, spaces.Tuple) else [action_space]
    for part in parts:
        if not isinstance(part, (spaces.Discrete, spaces.MultiDiscrete, spaces.Box)):
            raise ValueError(
                f"Action space {action_space} contains {part}, which is not supported: "
                "use Discrete, MultiDiscrete, Box or a Tuple of these (wrap the environment to convert)"
            )
        calc_num_actions(part)  # raises for a Box that is not one-dimensional


def is_mixed_tuple(action_space: ActionSpace) -> bool:
    """A Tuple with anything besides Discrete: its actions are a list with one entry per sub-space."""
    return isinstance(action_space, spaces.Tuple) and not _is_all_discrete(action_space)


def _sub_spaces(action_space: ActionSpace) -> list[Any]:
    return list(action_space.spaces)  # type: ignore[union-attr]


def _is_all_discrete(action_space: ActionSpace) -> bool:
    if isinstance(action_space, spaces.Tuple):
        return all(isinstance(space, spaces.Discrete) for space in action_space.spaces)
    return isinstance(action_space, (spaces.Discrete, spaces.MultiDiscrete))


def _start_offsets(action_space: ActionSpace) -> np.ndarray | None:
    """First action of every discrete component, int32 ``[num_actions]``; ``None`` if all count from 0."""
    starts: list[Any]
    if isinstance(action_space, spaces.Tuple):
        starts = [getattr(space, "start", 0) for space in action_space.spaces]
    elif isinstance(action_space, spaces.MultiDiscrete):  # has no start in Gymnasium 0.29
        starts = np.ravel(getattr(action_space, "start", np.zeros_like(action_space.nvec))).tolist()
    else:
        starts = [getattr(action_space, "start", 0)]
    offsets = np.asarray(starts, dtype=np.int32)
    return offsets if offsets.any() else None


def _discrete_converter(action_space: ActionSpace) -> ActionConverter:
    offsets = _start_offsets(action_space)
    shape = getattr(action_space, "nvec", np.empty(calc_num_actions(action_space))).shape

    if calc_num_actions(action_space) == 1:
        start = 0 if offsets is None else int(offsets[0])
        if start == 0:
            return ActionConverter(
                lambda row: int(row.reshape(-1)[0]), lambda rows: rows.astype(np.int32).reshape(-1).tolist()
            )
        return ActionConverter(
            lambda row: int(row.reshape(-1)[0]) + start,
            lambda rows: (rows.astype(np.int32).reshape(-1) + start).tolist(),
        )

    def many(rows: np.ndarray) -> list:
        actions = rows.astype(np.int32)
        if offsets is not None:
            actions += offsets
        return list(actions.reshape(len(rows), *shape))

    return ActionConverter(lambda row: many(row[None])[0], many)


def _box_converter(space: spaces.Box) -> ActionConverter:
    shape = space.shape if len(space.shape) > 1 else (calc_num_actions(space),)

    def many(rows: np.ndarray) -> list:
        # the copy: environments keep their last action, the rows are overwritten by the next one
        return list(np.array(rows, dtype=np.float32).reshape(len(rows), *shape))

    return ActionConverter(lambda row: many(row[None])[0], many)


def _mixed_tuple_converter(sub_spaces: Sequence[ActionSpace]) -> ActionConverter:
    converters = [make_action_converter(space, batched=False) for space in sub_spaces]
    bounds = np.cumsum([0] + [calc_num_actions(space) for space in sub_spaces]).tolist()
    columns = [slice(first, last) for first, last in pairwise(bounds)]

    def many(rows: np.ndarray) -> list:
        per_space = [converter.many(rows[:, cols]) for converter, cols in zip(converters, columns, strict=True)]
        return [list(agent_actions) for agent_actions in zip(*per_space, strict=True)]

    return ActionConverter(lambda row: many(row[None])[0], many)


def process_action_space(
    actions: Tensor, gpu_actions: bool, is_discrete: bool, to_numpy: bool = True
) -> Tensor | np.ndarray:
    """Actions ``[N, k]`` of one sub-space for a batched environment.

    Discrete: int32, ``[N]`` if ``k == 1``. NumPy on the CPU unless ``gpu_actions`` (then a tensor where it is);
    ``to_numpy=False`` always gives a tensor.
    """
    if is_discrete:
        actions = actions.to(torch.int32)
        if actions.dim() > 1 and actions.shape[-1] == 1:
            actions = actions.squeeze(-1)
    if gpu_actions:
        return actions
    actions = actions.cpu()
    return actions.numpy() if to_numpy else actions


def preprocess_actions(env_info: Any, actions: Tensor | np.ndarray, to_numpy: bool = True) -> Any:
    """Policy actions ``[N, num_actions]`` in the form a batched environment wants, see :class:`BatchedActionConverter`.

    The converter is chosen on the first call with a space. Spaces are not hashable: they are told apart by identity,
    and the entry keeps its space alive, so that an identity is not used twice.
    """
    action_space = env_info.action_space
    entry = _converters.get(id(action_space))
    if entry is None:
        entry = _converters[id(action_space)] = (action_space, BatchedActionConverter(action_space))
    return entry[1](actions, env_info.gpu_actions, to_numpy)


_converters: dict[int, tuple[ActionSpace, BatchedActionConverter]] = {}
