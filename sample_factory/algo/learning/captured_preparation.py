"""Preparation of training batches on a GPU as a CUDA graph, see :mod:`captured_update`.

Some 150 small kernels turn trajectories into a dataset. Batches come in the few slots that a learner has, so there is
one recording per slot, which reads the batch where it is. Only for batches in which all samples are valid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor
from torch.autograd.graph import increment_version

from sample_factory.algo.utils.cuda_graphs import Recording
from sample_factory.algo.utils.tensor_dict import TensorDict
from sample_factory.utils.utils import log

_NUM_REHEARSALS = 2
_MAX_SLOTS = 16


class CapturedPreparation:
    """``written`` of :meth:`run`: tensors that the work changes; whoever keeps copies of them has to notice."""

    def __init__(self) -> None:
        self._num_seen: dict[Any, int] = {}
        self._recordings: dict[Any, Recording[TensorDict]] = {}
        self._has_failed = False

    def forget(self) -> None:
        self._num_seen, self._recordings = {}, {}

    def run(self, batch: TensorDict, work: Callable[[], TensorDict], written: Iterable[Tensor]) -> TensorDict:
        """What ``work`` makes of the batch; overwritten by the next call with a batch in the same slot."""
        if self._has_failed:
            return work()
        slot = tuple(_layout(batch))
        recording = self._recordings.get(slot)
        if recording is None:
            num_seen = self._num_seen.get(slot, 0)
            if len(self._num_seen) > _MAX_SLOTS:  # they are not slots, but new tensors every time
                self.forget()
            self._num_seen[slot] = num_seen + 1
            if num_seen < _NUM_REHEARSALS:
                return work()
            try:
                recording = self._recordings[slot] = Recording(work)
            except Exception as exc:
                self._has_failed = True
                log.warning(f"Batches are prepared kernel by kernel, a CUDA graph is impossible: {exc}")
                return work()
        dataset = TensorDict(recording.replay())
        for tensor in written:
            increment_version(tensor)
        return dataset


def _layout(batch: dict[Any, Any]) -> Iterator[Any]:
    for key, value in batch.items():
        if isinstance(value, dict):
            yield from _layout(value)
        else:
            yield key, value.data_ptr(), tuple(value.shape), value.stride(), value.dtype
