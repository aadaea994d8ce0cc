"""Preparation of training batches on a GPU as CUDA graphs, see :mod:`captured_update`.

Some 150 small kernels turn trajectories into a dataset. Batches come in the few slots that a learner has, so there is
one recording per part of the work and slot, which reads the batch where it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from sample_factory.algo.utils.cuda_graphs import Recording, layout_of
from sample_factory.algo.utils.tensor_dict import TensorDict
from sample_factory.utils.utils import log

_NUM_REHEARSALS = 2
_MAX_RECORDINGS = 32


class CapturedPreparation:
    def __init__(self) -> None:
        self._num_seen: dict[Any, int] = {}
        self._recordings: dict[Any, Recording[TensorDict]] = {}
        self._has_failed = False
        self._train_step: Tensor | None = None

    def forget(self) -> None:
        self._num_seen, self._recordings = {}, {}

    def on_device(self, train_step: int, device: torch.device) -> Tensor:
        """The number where recordings read it, a scalar."""
        if self._train_step is None:
            self._train_step = torch.zeros((), device=device)
        return self._train_step.fill_(train_step)

    def run(
        self, part: str, batch: TensorDict, work: Callable[[], TensorDict], written: Iterable[Tensor]
    ) -> TensorDict:
        """What ``work`` makes of the batch; overwritten by the next call with a batch in the same slot.

        ``written``: tensors that the work changes; whoever keeps copies of them has to notice.
        """
        if self._has_failed:
            return work()
        key = part, layout_of(batch)
        recording = self._recordings.get(key)
        if recording is None:
            num_seen = self._num_seen.get(key, 0)
            if len(self._num_seen) > _MAX_RECORDINGS:  # these are no slots, but new tensors every time
                self.forget()
            self._num_seen[key] = num_seen + 1
            if num_seen < _NUM_REHEARSALS:
                return work()
            try:
                recording = self._recordings[key] = Recording(work)
            except Exception as exc:
                self._has_failed = True
                log.warning(f"Batches are prepared kernel by kernel, a CUDA graph is impossible: {exc}")
                return work()
        result = TensorDict(recording.replay())
        for tensor in written:
            increment_version(tensor)
        return result
