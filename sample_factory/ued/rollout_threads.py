"""How many threads the large product of a recurrent network has in every step of a rollout: what is faster just now.

Several threads halve its time, but wait for each other by spinning: next to another busy process on their cores a step
takes up to a hundred times as long with them, alone a quarter less. Nobody knows the neighbours beforehand, so a
rollout measures its steps, and now and then tries the other number for a few of them. Results do not depend on it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from sample_factory.algo.utils.blas_threads import OneBlasThread
from sample_factory.algo.utils.products import set_product_threads

_STRETCH = 16  # steps that are measured together
_FIRST_WAIT, _LONGEST_WAIT = 4, 256  # stretches between two trials
_TOO_LONG = 3.0  # a stretch ends early if it takes so many times as long as usual
_SMOOTHING = 0.5


class MeasuredThreads:
    """Chooses between one thread and ``several``, by the duration of steps."""

    def __init__(
        self,
        several: int,
        set_threads: Callable[[int], object] = set_product_threads,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._set_threads, self._clock = set_threads, clock
        self._other = {1: several, several: 1}
        self._sec_per_step: dict[int, float] = {}
        self._usual = self._now = 1
        self._wait = self._stretches_left = _FIRST_WAIT
        self._num_steps, self._began, self._elapsed, self._limit = 0, 0.0, 0.0, float("inf")

    def begin(self) -> None:
        """Steps follow. What happens between :meth:`end` and here is not measured."""
        self._set_threads(self._now)
        self._began = self._clock() - self._elapsed

    def end(self) -> None:
        """No more steps for now. A stretch that has begun goes on with the next ones."""
        self._elapsed = self._clock() - self._began
        self._set_threads(1)

    def tick(self) -> None:
        """A step is done."""
        elapsed = self._clock() - self._began
        self._num_steps += 1
        if self._num_steps == _STRETCH or elapsed > self._limit:
            self._judge(elapsed / self._num_steps)
            self._begin_stretch()

    def _begin_stretch(self) -> None:
        usual = self._sec_per_step.get(self._usual)
        self._limit = float("inf") if usual is None else _TOO_LONG * _STRETCH * usual
        self._num_steps, self._began = 0, self._clock()

    def _judge(self, sec_per_step: float) -> None:
        """Draw conclusions from a stretch with the present number of threads."""
        costs, now = self._sec_per_step, self._now
        if now != self._usual:
            costs[now] = sec_per_step
            if sec_per_step < costs[self._usual]:
                self._usual, self._wait = now, _FIRST_WAIT
            else:
                self._wait = min(2 * self._wait, _LONGEST_WAIT)
            self._stretches_left = self._wait
            self._use(self._usual)
            return
        before = costs.get(now, sec_per_step)
        costs[now] = _SMOOTHING * before + (1.0 - _SMOOTHING) * sec_per_step
        self._stretches_left -= 1
        if self._stretches_left <= 0 or sec_per_step > _TOO_LONG * before:
            self._use(self._other[now])

    def _use(self, threads: int) -> None:
        if threads != self._now:
            self._now = threads
            self._set_threads(threads)


class _Setting:
    """Of this process."""

    def __init__(self) -> None:
        self.several = 1
        self.measured: dict[str, MeasuredThreads] = {}
        self.one_blas_thread = OneBlasThread()


_setting = _Setting()


def set_rollout_threads(several: int) -> None:
    """Let products in rollouts on the CPU have up to ``several`` threads; only where other operations have one."""
    _setting.several = several
    _setting.measured.clear()


@contextmanager
def rollout_threads(kind: str, device: torch.device) -> Iterator[Callable[[], object]]:
    """Threads for a rollout; call the yielded function after every step. Kinds of rollouts are measured by themselves,
    because their steps differ.
    """
    if device.type != "cpu":
        yield lambda: None
        return
    with _setting.one_blas_thread:
        if _setting.several == 1:
            yield lambda: None
            return
        measured = _setting.measured.setdefault(kind, MeasuredThreads(_setting.several))
        measured.begin()
        try:
            yield measured.tick
        finally:
            measured.end()
