"""CUDA graphs: work of a GPU that is recorded once and then launched as a whole.

A recording repeats the kernels it saw, on the same memory. So it is only good for work that is the same every time:
shapes must not depend on data, and Python code in it runs once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import torch

Result = TypeVar("Result")


def is_capturing() -> bool:
    """Whether a recording is under way, so that shapes must not depend on data and nothing can be read back."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def is_on_gpu(tensor: torch.Tensor) -> bool:
    return tensor.is_cuda


def layout_of(tensors: dict[Any, Any]) -> tuple[Any, ...]:
    """Where the tensors of nested dicts are, and how: a recording that reads them there is good for equal layouts."""
    return tuple(_layout(tensors))


def _layout(tensors: dict[Any, Any]) -> Iterator[Any]:
    for key, value in tensors.items():
        if isinstance(value, dict):
            yield from _layout(value)
        elif is_on_gpu(value):
            yield key, value.data_ptr(), value.shape, value.stride(), value.dtype


def run_on(stream: torch.cuda.Stream, work: Callable[[], Result]) -> Result:
    """What ``work`` returns, launched on this stream between what was launched before and what comes after."""
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        result = work()
    torch.cuda.current_stream().wait_stream(stream)
    return result


class Recording(Generic[Result]):
    """Work recorded on a stream of its own; what it returned is overwritten by every replay.

    :param work: called ``num_rehearsals`` times to let libraries choose their algorithms, and once to be recorded
    :param share_with: another recording, whose memory this one uses, too: only the results of the latest replay are
        good then
    :param stream: where to record, a new one if ``None``
    :raises RuntimeError: the work reads something back, or does something else that cannot be recorded
    """

    def __init__(
        self,
        work: Callable[[], Result],
        num_rehearsals: int = 0,
        share_with: Recording[Any] | None = None,
        stream: torch.cuda.Stream | None = None,
    ) -> None:
        self._graph = torch.cuda.CUDAGraph()
        stream = stream or torch.cuda.Stream()
        run_on(stream, lambda: [work() for _ in range(num_rehearsals)])
        # The pool of a recording that is gone would be refused.
        pool = None if share_with is None else share_with._graph.pool()
        generator = torch.cuda.default_generators[torch.cuda.current_device()]
        random_state, current = generator.clone_state(), torch.cuda.current_stream()
        try:
            # Other threads go on allocating and copying meanwhile: only this one is held to the rules of recording.
            with torch.cuda.graph(self._graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                self.result = work()
        except BaseException:
            # torch leaves the generator in the belief that a recording is under way, so that it refuses to work, and
            # the stream of the recording as that of this thread.
            generator.graphsafe_set_state(random_state)
            torch.cuda.set_stream(current)
            raise

    def replay(self) -> Result:
        self._graph.replay()
        return self.result
