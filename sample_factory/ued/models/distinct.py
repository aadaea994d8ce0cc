"""Observations without repetition. An agent that turns, waits or meets the same corridor again sees the same thing, and
whatever depends on a single observation needs to be computed once for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sample_factory.ued.models.windows import WindowTable, hash_factors

Observations = dict[str, Tensor]

_WORTHWHILE = 0.75  # share of different observations above which looking them up costs more than it saves


@dataclass(frozen=True)
class DistinctObservations:
    """``obs``: tables ``[R, ...]`` of different observations; ``rows``: which one is where, int64 ``[...]``.

    ``windows``: of the images, if they are large and ``rows`` are ``[T, B]`` and in order. ``are_in_order``: nothing
    was left out, ``rows`` are 0, 1, 2, ... On a GPU that is always so: computing a row takes less time than looking it
    up, and shapes that do not depend on data can be recorded.
    """

    obs: Observations
    rows: Tensor
    windows: WindowTable | None = None
    are_in_order: bool = False

    @classmethod
    def of(cls, obs: Observations, batch_ndim: int) -> DistinctObservations:
        """Of observations with ``batch_ndim`` batch axes, compared byte by byte."""
        flat = {name: x.flatten(0, batch_ndim - 1) if batch_ndim > 1 else x for name, x in obs.items()}
        first = next(iter(obs.values()))
        shape = first.shape[:batch_ndim]
        found = _distinct_rows(flat) if first.device.type == "cpu" else None
        if found is None:
            return cls._in_order(flat, shape)
        where, rows = found
        return cls({name: x.index_select(0, where) for name, x in flat.items()}, rows.view(shape))

    @classmethod
    def _in_order(cls, flat: Observations, shape: torch.Size) -> DistinctObservations:
        device = next(iter(flat.values())).device
        return cls(flat, torch.arange(shape.numel(), device=device).view(shape), are_in_order=True)

    def __getitem__(self, idx: Any) -> DistinctObservations:
        """Some of the places, as in indexing an array of the shape of ``rows``."""
        if self.rows.is_cuda:
            chosen = self.rows[idx]
            return self._in_order({name: x[chosen.flatten()] for name, x in self.obs.items()}, chosen.shape)
        used, rows = torch.unique(self.rows[idx], return_inverse=True)
        return DistinctObservations({name: x.index_select(0, used) for name, x in self.obs.items()}, rows)

    def flatten(self) -> DistinctObservations:
        """With a single batch axis."""
        return replace(self, rows=self.rows.flatten(), windows=None)


def _distinct_rows(obs: Observations) -> tuple[Tensor, Tensor] | None:
    """Where each different observation of ``obs`` (``[N, ...]``) occurs first, and which one is where; ``None`` if
    almost all differ.
    """
    parts = [_words(x) for x in obs.values()]
    words = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
    hashes = words.astype(np.int64) @ hash_factors(words.shape[1])
    _, where, rows = np.unique(hashes, return_index=True, return_inverse=True)
    if len(where) > _WORTHWHILE * len(words) or not np.array_equal(words[where[rows]], words):
        return None
    return torch.from_numpy(where), torch.from_numpy(rows)


def _words(x: Tensor) -> np.ndarray:
    """The bytes of every row of a tensor ``[N, ...]``, as int32 ``[N, k]``."""
    array = x.reshape(len(x), -1).contiguous().numpy()
    raw = array.view(np.uint8)
    return raw.astype(np.int32) if raw.shape[1] % 4 else raw.view(np.int32)
