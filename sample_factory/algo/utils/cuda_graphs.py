"""CUDA graphs: work of a GPU that is recorded once and then launched as a whole.

A recording repeats the kernels it saw, on the same memory. So it is only good for work that is the same every time:
shapes must not depend on data, and Python code in it runs once. Which models that holds for is a question of
``--cuda_graphs``, see :func:`may_capture`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from sample_factory.model.dense_stack import has_hooks
from sample_factory.utils.typing import Config

AUTO, ALWAYS, NEVER = CUDA_GRAPHS = ("auto", "always", "never")
_OWN_PACKAGES = ("torch.nn.", "sample_factory.")

Result = TypeVar("Result")


def cuda_graphs_mode(cfg: Config) -> str:
    """``--cuda_graphs``; configurations of Sample Factory 2 do not have the flag."""
    return str(getattr(cfg, "cuda_graphs", AUTO))


def is_capturing() -> bool:
    """Whether a recording is under way, so that shapes must not depend on data and nothing can be read back."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def may_capture(cfg: Config, model: nn.Module, device: torch.device) -> bool:
    """Whether the model computes the same operations every time, as far as anybody knows.

    ``auto``: it is made of parts of this package and of PyTorch, and nobody is told about their calls. ``always``: the
    user says so.
    """
    mode = cuda_graphs_mode(cfg)
    if device.type != "cuda" or mode == NEVER:
        return False
    return mode == ALWAYS or all(_is_own(module) for module in model.modules())


def _is_own(module: nn.Module) -> bool:
    return type(module).__module__.startswith(_OWN_PACKAGES) and not has_hooks(module)


class Recording(Generic[Result]):
    """Work recorded on a stream of its own; what it returned is overwritten by every replay.

    :param work: called ``num_rehearsals`` times to let libraries choose their algorithms, and once to be recorded
    :param pool: memory to share with other recordings, see ``torch.cuda.graph_pool_handle``
    :param stream: where to record, a new one if ``None``
    :raises RuntimeError: the work reads something back, or does something else that cannot be recorded
    """

    def __init__(
        self,
        work: Callable[[], Result],
        num_rehearsals: int = 0,
        pool: Any = None,
        stream: torch.cuda.Stream | None = None,
    ) -> None:
        self._graph = torch.cuda.CUDAGraph()
        stream = stream or torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(num_rehearsals):
                work()
        torch.cuda.current_stream().wait_stream(stream)
        # Other threads go on allocating and copying meanwhile: only this one is held to the rules of recording.
        with torch.cuda.graph(self._graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            self.result = work()

    def replay(self) -> Result:
        self._graph.replay()
        return self.result
