"""Counters in shared memory by which the main process tells a component that works from one that hangs.

One row of words per worker process, written by that process alone and read by the watchdog. Nothing is sent and nobody
waits, so the signs of a process that is stuck in the environment, in C code or in a stopped state are simply those of
the moment it got stuck.

==========  ====================  ==========================================================================
word        written by            meaning
==========  ====================  ==========================================================================
``PHASE``   the component         :data:`STARTING` (creating environments, loading weights) or :data:`RUNNING`
``BEATS``   its event loops       control messages were looked at this often
``STEPS``   environment runners   steps of a split that were begun
``ENV``     environment runners   the environment (of the split) that is being stepped, reset or created
==========  ====================  ==========================================================================
"""

from __future__ import annotations

from array import array

import torch

PHASE, BEATS, STEPS, ENV = range(4)
_NUM_WORDS = 4
# Rows are two cache lines apart: a worker writes at every step of an environment, and if another one wrote to the same
# line, each write would have to wait for the other's core (three percent of the time of a cheap environment).
_ROW_WORDS = 16
STARTING, RUNNING = 0, 1


class LifeSigns:
    """Words of all worker processes of a run: rollout workers, inference workers, learners."""

    def __init__(self, num_workers: int, num_policies: int, inference_workers_per_policy: int, share: bool) -> None:
        self._num_workers, self._inference_workers_per_policy = num_workers, inference_workers_per_policy
        self._num_inference_workers = num_policies * inference_workers_per_policy
        num_rows = num_workers + self._num_inference_workers + num_policies
        self.words = torch.zeros([num_rows, _ROW_WORDS], dtype=torch.int64)
        if share:
            self.words.share_memory_()

    def rollout_row(self, worker_idx: int) -> int:
        return worker_idx

    def inference_row(self, policy_id: int, worker_idx: int) -> int:
        return self._num_workers + policy_id * self._inference_workers_per_policy + worker_idx

    def learner_row(self, policy_id: int) -> int:
        return self._num_workers + self._num_inference_workers + policy_id

    def writer(self, row: int) -> memoryview:
        """The words of one process; assigning one costs as little as Python can do (30 ns)."""
        return memoryview(self.words[row, :_NUM_WORDS].numpy()).cast("B").cast("q")  # type: ignore[arg-type]

    def read(self, row: int) -> tuple[int, ...]:
        return tuple(self.words[row, :_NUM_WORDS].tolist())

    def reset(self, row: int) -> None:
        """A new process takes over."""
        self.words[row] = 0


def unobserved() -> memoryview:
    """Words nobody looks at, for components that run in the main process."""
    return memoryview(array("q", [0] * _NUM_WORDS))
