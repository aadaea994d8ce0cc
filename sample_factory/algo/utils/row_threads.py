"""Rows of a batch that have nothing to do with each other, computed side by side by threads of this process.

The threads of one torch operation wait for each other after every operation, some ten thousand times per update of a
recurrent network; one that shares its core with another process makes all of them many times slower. Here every thread
computes some rows from the first operation to the last, and they meet twice per update: forwards and backwards.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

MAX_ROW_THREADS = 4
_MIN_ROWS = 8  # per thread: with fewer, products of matrices wait for the weights to arrive from memory
MIN_FLOPS_PER_STEP = 4e6
"""Of a recurrent network, per thread: with less arithmetic between its steps, threads wait for Python's lock."""
MIN_FLOPS_PER_CALL = 3e7
"""Of linear layers, per thread: starting a thread and waiting for it costs some ten microseconds."""
MIN_FLOPS_PER_ROW = 1e5
"""Of linear layers: narrow ones wait for memory, which threads have in common."""

Result = TypeVar("Result")
Axis = int | None
PartFunction = Callable[..., Tensor]
"""``function(part, *tensors) -> [T, n, ...]`` for the rows in the slice ``part``."""


class _Threads:
    """How many threads share the rows of this process, and the threads besides the calling one."""

    def __init__(self) -> None:
        self.number = 1
        self._pool: ThreadPoolExecutor | None = None
        self._owner = 0

    def pool(self) -> ThreadPoolExecutor:
        if self._pool is None or self._owner != os.getpid():  # threads do not survive a fork
            self._pool = ThreadPoolExecutor(MAX_ROW_THREADS - 1, "rows", initializer=_compute_alone)
            self._owner = os.getpid()
        return self._pool


def _compute_alone() -> None:
    """Operations of this thread get no threads of their own, which they would by default: OpenMP counts by thread.

    The same is then true of threads that start later. Rows are shared only where operations have one thread anyway.
    """
    torch.set_num_threads(1)


_threads = _Threads()


def get_row_threads() -> int:
    """How many threads may share the rows of a batch."""
    return _threads.number


def set_row_threads(number: int) -> None:
    """Let up to ``number`` threads share the rows of a batch, from 1 to ``MAX_ROW_THREADS``."""
    if not 1 <= number <= MAX_ROW_THREADS:
        raise ValueError(f"{number} threads: between 1 and {MAX_ROW_THREADS} can share the rows of a batch")
    _threads.number = number


def row_parts(num_rows: int, flops_per_row: float, min_flops: float) -> list[slice]:
    """Parts of almost equal size, one per thread that has at least ``min_flops`` floating point operations to do."""
    useful = min(num_rows // _MIN_ROWS, int(num_rows * flops_per_row / min_flops))
    number = max(1, min(_threads.number, useful))
    bounds = [num_rows * i // number for i in range(number + 1)]
    return [slice(start, stop) for start, stop in itertools.pairwise(bounds)]


def run_together(tasks: Sequence[Callable[[], Result]]) -> list[Result]:
    """Results of all tasks, the first of which runs in the calling thread. Waits for all, then raises the first error.

    At most ``MAX_ROW_THREADS`` tasks run at the same time.
    """
    waiting: list[Callable[[], Result] | None] = list(tasks)
    results: list[Any] = [None] * len(tasks)

    def run(index: int) -> None:
        task, waiting[index] = waiting[index], None
        assert task is not None
        results[index] = task()

    futures = [_threads.pool().submit(run, index) for index in range(1, len(tasks))]
    try:
        run(0)
    finally:
        errors = [future.exception() for future in futures]
    for error in errors:
        if error is not None:
            raise error
    found = list(results)
    results.clear()  # a thread may still hold on to what it ran: there is nothing in it any more
    return found


def add_gradients(total: list[Tensor], grads: list[Tensor]) -> list[Tensor]:
    """Sums of what has been found so far, an empty list at first, and of gradients of other rows."""
    return [a.add_(b) for a, b in zip(total, grads, strict=True)] if total else grads


class _ByRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: PartFunction, parts: list[slice], axes: Sequence[Axis], *tensors: Tensor) -> Tensor:
        inputs = [
            [
                _rows(x, axis, part).detach().requires_grad_(x.requires_grad)
                for x, axis in zip(tensors, axes, strict=True)
            ]
            for part in parts
        ]
        outputs = run_together([_forwards(function, part, x) for part, x in zip(parts, inputs, strict=True)])
        ctx.parts, ctx.axes, ctx.graphs = parts, axes, (inputs, outputs)
        return torch.cat([x.detach() for x in outputs], dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        if ctx.graphs is None:
            raise RuntimeError("the gradient can be computed only once: buffers of the forward pass are reused for it")
        (inputs, outputs), ctx.graphs = ctx.graphs, None
        tasks = [
            _backwards(output, x, grad_output[:, part])
            for part, x, output in zip(ctx.parts, inputs, outputs, strict=True)
        ]
        gradients = zip(*run_together(tasks), strict=True)
        return None, None, None, *(_joined(of_parts, axis) for of_parts, axis in zip(gradients, ctx.axes, strict=True))


def _rows(x: Tensor, axis: Axis, part: slice) -> Tensor:
    return x if axis is None else x.narrow(axis, part.start, part.stop - part.start)


def _forwards(function: PartFunction, part: slice, inputs: list[Tensor]) -> Callable[[], Tensor]:
    def run() -> Tensor:
        with torch.enable_grad():  # which is a setting of the thread
            return function(part, *inputs)

    return run


@contextmanager
def without_gradient(is_inference: bool) -> Iterator[None]:
    """Settings of one thread; ``is_inference`` is that of the thread the work comes from."""
    with torch.inference_mode(is_inference), torch.no_grad():  # in this order: leaving inference mode allows gradients
        yield


def _without_gradient(
    function: PartFunction, part: slice, tensors: Sequence[Tensor], axes: Sequence[Axis]
) -> Callable[[], Tensor]:
    is_inference = torch.is_inference_mode_enabled()

    def run() -> Tensor:
        with without_gradient(is_inference):
            return function(part, *(_rows(x, axis, part) for x, axis in zip(tensors, axes, strict=True)))

    return run


def _backwards(output: Tensor, inputs: list[Tensor], grad: Tensor) -> Callable[[], list[Tensor | None]]:
    def run() -> list[Tensor | None]:
        wanted = [x for x in inputs if x.requires_grad]
        found = iter(torch.autograd.grad(output, wanted, grad))
        return [next(found) if x.requires_grad else None for x in inputs]

    return run


def _joined(gradients: Sequence[Tensor | None], axis: Axis) -> Tensor | None:
    """The gradient of a whole input from those of its parts, or the sum if every part had all of it."""
    known = [x for x in gradients if x is not None]
    if not known:
        return None
    if axis is not None:
        return torch.cat(known, dim=axis)
    total = known[0]
    for x in known[1:]:
        total = total.add_(x)
    return total


def compute_by_rows(
    function: PartFunction, num_rows: int, flops_per_row: float, axes: Sequence[Axis], *tensors: Tensor
) -> Tensor:
    """``function(slice(0, num_rows), *tensors)``, on the CPU computed part by part in as many threads as are allowed.

    :param function: gives ``[T, n, ...]`` for the rows of its first argument, a slice; the rows are independent
    :param flops_per_row: floating point operations of one row in one of the T steps
    :param axes: which axis of each tensor has the rows, and is cut accordingly; ``None``: all rows need all of it
    :param tensors: what the result is differentiable with respect to, once
    """
    parts = row_parts(num_rows, flops_per_row, MIN_FLOPS_PER_STEP)
    if len(parts) == 1 or tensors[0].device.type != "cpu":
        return function(slice(0, num_rows), *tensors)
    if not torch.is_grad_enabled():
        return torch.cat(run_together([_without_gradient(function, part, tensors, axes) for part in parts]), dim=1)
    return _ByRows.apply(function, parts, axes, *tensors)  # type: ignore[no-any-return]
