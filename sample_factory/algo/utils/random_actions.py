"""Random actions that respect action masks."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from sample_factory.utils.typing import ActionSpace


def sample_action(action_space: ActionSpace, action_mask: Any = None) -> Any:
    """A random element of the space that the mask allows.

    ``action_mask``: numbers, 0 forbids. For a Tuple or MultiDiscrete space the masks of its discrete parts either one
    after another in one flat array ``[sum of n]``, as policies get them, or as a sequence in the form of the space.
    """
    if action_mask is None:
        return action_space.sample()
    return action_space.sample(gymnasium_mask(action_space, action_mask))


def gymnasium_mask(action_space: ActionSpace, action_mask: Any) -> Any:
    """The mask in the nested int8 form that ``sample`` of Gymnasium spaces asks for."""
    if action_mask is None or isinstance(action_space, spaces.Discrete):
        return None if action_mask is None else np.asarray(action_mask).astype(np.int8)
    if isinstance(action_space, spaces.Tuple):
        parts = list(action_space.spaces)
        masks = _split(action_mask, [_num_mask_entries(part) for part in parts])
        return tuple(gymnasium_mask(part, mask) for part, mask in zip(parts, masks, strict=True))
    if isinstance(action_space, spaces.MultiDiscrete):
        return tuple(mask.astype(np.int8) for mask in _split(action_mask, np.ravel(action_space.nvec).tolist()))
    return None  # Box: nothing can be forbidden


def _num_mask_entries(space: Any) -> int:
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    return int(np.sum(space.nvec)) if isinstance(space, spaces.MultiDiscrete) else 0


def _split(action_mask: Any, sizes: list[int]) -> list[Any]:
    """One mask per part; ``None`` for parts without entries."""
    if isinstance(action_mask, (tuple, list)):
        return [None if mask is None else np.asarray(mask) for mask in action_mask]
    flat = np.ravel(np.asarray(action_mask))
    if len(flat) != sum(sizes):
        raise ValueError(f"action_mask has {len(flat)} entries, the discrete parts of the space have {sum(sizes)}")
    pieces = np.split(flat, np.cumsum(sizes)[:-1])
    return [piece if size else None for piece, size in zip(pieces, sizes, strict=True)]
