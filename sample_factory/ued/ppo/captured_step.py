"""Optimiser steps on a GPU as one launch each: forward pass, losses, gradients, clipping and Adam in a CUDA graph.

Going through a rollout of a recurrent network forwards and backwards is thousands of kernels of two microseconds each.
The first steps run as usual, then one is recorded for minibatches of its shape, which are copied to where it reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from sample_factory.algo.utils.cuda_graphs import Recording, run_on
from sample_factory.ued.ppo.minibatches import Minibatch
from sample_factory.utils.logging import log

_NUM_REHEARSALS = 3

UsualStep = Callable[[Minibatch, float], Tensor]
"""An optimiser step with a learning rate; returns statistics, on the device."""
RecordedStep = Callable[[Minibatch, Tensor], Tensor]
"""The same with a rate that is a scalar on the device, and without waiting for anything."""


class CapturedStep:
    """Usage: :meth:`start` before an update, :meth:`run` for every minibatch of it.

    :param usual: the step as it is launched kernel by kernel
    :param recorded: the same to be recorded, once ``usual`` has run
    :param tensors: weights and state of the optimiser: a recording is good for as long as nobody replaces them
    """

    def __init__(self, usual: UsualStep, recorded: RecordedStep, tensors: Callable[[], Sequence[Tensor]]) -> None:
        self._usual, self._recorded, self._tensors = usual, recorded, tensors
        self._has_failed = False
        self._stream: torch.cuda.Stream | None = None
        self._lr: Tensor | None = None
        self._addresses: list[int] = []
        self._forget()

    def _forget(self) -> None:
        self._num_rehearsed = 0
        self._copy: Minibatch | None = None
        self._recording: Recording[Tensor] | None = None

    def start(self) -> None:
        """An update begins: look whether the recording is still good."""
        addresses = [x.data_ptr() for x in self._tensors()]
        if self._recording is not None and addresses != self._addresses:
            self._forget()

    @property
    def is_recorded(self) -> bool:
        return self._recording is not None

    def run(self, minibatch: Minibatch, lr: float) -> Tensor:
        """One step; its statistics are overwritten by the next one."""
        if self._copy is not None and not _have_equal_shapes(self._copy, minibatch):
            self._forget()
        if self._has_failed or self._num_rehearsed < _NUM_REHEARSALS:
            self._num_rehearsed += 1
            return self._rehearse(minibatch, lr)
        if self._recording is None and not self._record(minibatch):
            return self._usual(minibatch, lr)
        assert self._copy is not None and self._lr is not None and self._recording is not None
        self._lr.fill_(lr)
        torch._foreach_copy_(list(_tensors_of(self._copy)), list(_tensors_of(minibatch)))
        return self._recording.replay()

    def _rehearse(self, minibatch: Minibatch, lr: float) -> Tensor:
        """A usual step on the stream of the recording: gradients are accumulated where parameters were first used."""
        self._stream = self._stream or torch.cuda.Stream()
        return run_on(self._stream, lambda: self._usual(minibatch, lr))

    def _record(self, minibatch: Minibatch) -> bool:
        """Record a step for minibatches of this shape, without making it; whether that was possible."""
        copy, lr = minibatch.clone(), torch.zeros((), device=minibatch.actions.device)
        try:
            self._recording = Recording(lambda: self._recorded(copy, lr), stream=self._stream)
        except Exception as exc:
            self._has_failed = True
            log.warning("Optimiser steps are launched kernel by kernel, a CUDA graph is impossible: %s", exc)
            return False
        self._copy, self._lr = copy, lr
        self._addresses = [x.data_ptr() for x in self._tensors()]
        return True


def _tensors_of(minibatch: Minibatch) -> Iterator[Tensor]:
    yield from minibatch.obs.obs.values()
    yield minibatch.obs.rows
    for name in ("actions", "log_probs", "values", "advantages", "targets", "resets"):
        yield getattr(minibatch, name)
    yield from minibatch.initial_carry


def _have_equal_shapes(a: Minibatch, b: Minibatch) -> bool:
    return [x.shape for x in _tensors_of(a)] == [x.shape for x in _tensors_of(b)]
