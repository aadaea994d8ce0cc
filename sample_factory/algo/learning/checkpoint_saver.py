"""Writes checkpoints on a thread of its own, so that no disk keeps the learner waiting.

The learner hands over a snapshot (a copy, some milliseconds); verifying, writing, flushing and reading back happen
behind its back. One writer, one file at a time, in the order of the requests. The interpreter does not end before the
thread has finished what it was given.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from sample_factory.algo.learning.checkpoints import CheckpointDict, CheckpointStore


@dataclass(frozen=True)
class SaveRequest:
    """``kind``: ``latest``, ``best`` or ``milestone``. ``previous_best``: to go back to if a ``best`` fails."""

    kind: str
    progress: tuple[int, int, float, float]
    metric: str = ""
    metric_value: float = 0.0
    previous_best: float = 0.0

    def write(self, store: CheckpointStore, checkpoint: CheckpointDict) -> str:
        if self.kind == "best":
            return store.save_best(checkpoint, self.metric, self.metric_value)
        if self.kind == "milestone":
            return store.save_milestone(checkpoint)
        return store.save_latest(checkpoint)


@dataclass(frozen=True)
class SaveResult:
    """``path`` of the complete file, or the ``error`` that prevented it (older files are untouched then)."""

    request: SaveRequest
    path: str | None
    error: Exception | None


class CheckpointSaver:
    """Belongs to one learner, which alone calls it."""

    def __init__(self) -> None:
        self._executor: ThreadPoolExecutor | None = None
        self._results: deque[SaveResult] = deque()
        self._newest: Future[None] | None = None

    @property
    def is_busy(self) -> bool:
        return self._newest is not None and not self._newest.done()

    def submit(
        self,
        request: SaveRequest,
        make_store: Callable[[], CheckpointStore],
        checkpoint: CheckpointDict,
        on_done: Callable[[], None] | None = None,
    ) -> None:
        """Begin to write. ``on_done`` is called on the thread once the result can be taken."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint_saver")

        def work() -> None:
            self._results.append(write_checkpoint(request, make_store, checkpoint))
            if on_done is not None:
                on_done()

        self._newest = self._executor.submit(work)

    def wait(self) -> None:
        """Until everything submitted is written or has failed."""
        if self._newest is not None:
            self._newest.result()

    def take_results(self) -> list[SaveResult]:
        """What has been finished since the last call, oldest first."""
        results = []
        while self._results:
            results.append(self._results.popleft())
        return results


def write_checkpoint(
    request: SaveRequest, make_store: Callable[[], CheckpointStore], checkpoint: CheckpointDict
) -> SaveResult:
    """Write now. An error is a result, too: the caller may be another thread than the one that has to know."""
    try:
        return SaveResult(request, request.write(make_store(), checkpoint), None)
    except Exception as exc:
        return SaveResult(request, None, exc)
