"""Replacing rollout and inference workers that died or hang, while everybody else goes on.

Steps of one replacement, all on the runner's loop, nothing blocks:

1. The supervisor reports a death (the watchdog killed the process if it hung). Beyond the budget of the worker,
   ``--max_worker_restarts`` within an hour, the run fails.
2. The words of the worker in shared memory are put in order. For a rollout worker every batcher is told; it gives back
   the blocks that were lost with the worker and says so. Until all have said so nobody may fill these blocks.
3. After a pause that doubles with every restart, the new process is started. It takes over component and queue.

A worker whose environment can never work thus fails the run after half a minute, one that dies once a day never does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from sample_factory.algo.sampling.inference_worker import InferenceWorker
from sample_factory.algo.sampling.rollout_worker import RolloutWorker
from sample_factory.algo.sampling.sampler import ParallelSampler
from sample_factory.algo.utils.child_process import ChildProcess
from sample_factory.algo.utils.policy_channel import PolicyChannel
from sample_factory.utils.typing import PolicyID
from sample_factory.utils.utils import log

_BUDGET_WINDOW_SEC = 3600.0
_FIRST_PAUSE_SEC = 0.5
_MAX_PAUSE_SEC = 30.0


@dataclass
class _Replacement:
    """``awaited``: policies whose batchers still may have blocks of the old process."""

    not_before: float  # monotonic time
    awaited: set[PolicyID] = field(default_factory=set)


class WorkerRestarts:
    """``on_worker_died(worker_idx)`` tells all batchers; they answer through :meth:`batcher_is_ready`."""

    def __init__(
        self,
        sampler: ParallelSampler,
        max_restarts: int,
        policies: Iterable[PolicyID],
        on_worker_died: Callable[[int], None],
        watch: Callable[[ChildProcess], None],
    ) -> None:
        self._sampler, self._max_restarts = sampler, max_restarts
        self._policies = set(policies)
        self._on_worker_died, self._watch = on_worker_died, watch
        self._channel: PolicyChannel = sampler.buffer_mgr.channel
        self._history: dict[str, list[float]] = {}
        self._pending: dict[ChildProcess, _Replacement] = {}
        self.num_restarts = 0

    def begin(self, process: ChildProcess) -> str | None:
        """The process of some workers died. Returns why it cannot be replaced, or None if it will be."""
        if process not in self._sampler.processes:
            return "only rollout and inference workers can be replaced"
        now = time.monotonic()
        history = [t for t in self._history.get(process.name, []) if now - t < _BUDGET_WINDOW_SEC]
        if len(history) >= self._max_restarts:
            return f"it was replaced {len(history)} times within an hour already (--max_worker_restarts)"
        self._history[process.name] = [*history, now]
        pause_sec = min(_FIRST_PAUSE_SEC * 2 ** len(history), _MAX_PAUSE_SEC)
        log.warning(f"Process {process.name} is replaced in {pause_sec:g} seconds")
        self._pending[process] = replacement = _Replacement(now + pause_sec)
        for worker in self._sampler.workers_in(process):
            if isinstance(worker, RolloutWorker):
                self._channel.forget_requests(worker.worker_idx)
                replacement.awaited = set(self._policies)
                self._on_worker_died(worker.worker_idx)
        return None

    def batcher_is_ready(self, policy_id: PolicyID, worker_idx: int) -> None:
        """The batcher of this policy has settled everything about the rollout worker that died."""
        for process, replacement in self._pending.items():
            workers = self._sampler.workers_in(process)
            if any(isinstance(w, RolloutWorker) and w.worker_idx == worker_idx for w in workers):
                replacement.awaited.discard(policy_id)

    def start_those_due(self) -> None:
        now = time.monotonic()
        due = [
            p for p, replacement in self._pending.items() if not replacement.awaited and replacement.not_before <= now
        ]
        for process in due:
            del self._pending[process]
            self._reset_life_signs(process)
            self._sampler.restart(process)
            self.num_restarts += 1
            self._watch(process)
            log.info(f"Process {process.name} was replaced by a new one (pid {process.pid})")

    def _reset_life_signs(self, process: ChildProcess) -> None:
        signs = self._sampler.buffer_mgr.life_signs
        for worker in self._sampler.workers_in(process):
            if isinstance(worker, RolloutWorker):
                signs.reset(signs.rollout_row(worker.worker_idx))
            elif isinstance(worker, InferenceWorker):
                signs.reset(signs.inference_row(worker.policy_id, worker.worker_idx))

    def cancel(self) -> list[ChildProcess]:
        """The run ends: nobody is replaced any more. Returns the processes that are missing just now."""
        missing, self._pending = list(self._pending), {}
        return missing
