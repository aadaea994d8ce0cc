"""The hot path between rollout workers, inference workers and batchers: words in shared memory plus semaphores.

Nothing here is queued, pickled or locked, so a process killed at any point leaves the channel usable. Every word has
one writer at a time:

======================  =========================  ==========================  =====================================
word                    written by                 read by                     meaning
======================  =========================  ==========================  =====================================
``requested[p, w, s]``  rollout worker w           inference workers of p      number of requests posted so far
``answered[p, w, s]``   inference worker of p      rollout worker w            number of requests answered so far
``block/step[w, s]``    rollout worker w           inference workers           rows and rollout step of the request
``agent_policy[w, s]``  rollout worker w           inference workers           policy of every agent, -1 if inactive
``held[p, b]``          worker (1), batcher p (0)  the worker that owns b      block b still has rows batcher p needs
``paused[p]``           batcher p                  inference workers of p      back-pressure: learner p is behind
``iterations[p]``       batcher p                  rollout workers             trained so far (synchronous mode)
======================  =========================  ==========================  =====================================

A request is pending while ``requested != answered``. Who waits for whom: a rollout worker sleeps on its own semaphore,
released by inference workers (answers) and batchers (blocks given back); an inference worker sleeps on its own
semaphore, released by rollout workers (requests) and by its batcher (end of a pause). Sleeps are bounded by the
caller, so a lost wake-up costs milliseconds, never a hang. Inference workers inside rollout workers share their
process's semaphore: requests and answers wake nobody, blocks and the end of a pause do.

When a rollout worker has died, nobody writes its words; :meth:`PolicyChannel.forget_requests` and the batchers
(:meth:`PolicyChannel.release_blocks_except`) put them in order before another process takes its place.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from multiprocessing.context import BaseContext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor


class PolicyRequest(NamedTuple):
    """One split of one rollout worker waits for actions. ``partial``: only agents whose ``agent_policy`` matches.
    ``number``: how many requests this split has made of the policy.
    """

    worker_idx: int
    split_idx: int
    block_idx: int
    rollout_step: int
    partial: bool
    number: int


class WakeUp:
    """Counting semaphore used as a doorbell; in serial mode nobody sleeps and there is nothing to ring."""

    def __init__(self, mp_ctx: BaseContext | None) -> None:
        self._semaphore: Any = None if mp_ctx is None else mp_ctx.Semaphore(0)

    def ring(self) -> None:
        if self._semaphore is not None:
            self._semaphore.release()

    def wait(self, timeout_sec: float) -> None:
        """Sleep until rung or until the time is over. Rings accumulated meanwhile are swallowed: the caller polls
        all.
        """
        if self._semaphore is None:
            return
        if self._semaphore.acquire(True, timeout_sec):
            while self._semaphore.acquire(False):
                pass


# With more splits to look at, one vectorised comparison is cheaper than reading word by word.
_MAX_SPLITS_READ_ONE_BY_ONE = 4


class PolicyChannel:
    """All words of one run. Create in the main process; every process gets the same memory by pickling at start.

    ``local_inference``: inference worker ``w`` of every policy lives in the process of rollout worker ``w``, serves it
    alone and shares its doorbell; ``inference_workers_per_policy`` is the number of rollout workers then.
    """

    def __init__(
        self,
        *,
        num_policies: int,
        num_workers: int,
        num_splits: int,
        agents_per_split: int,
        num_blocks: int,
        inference_workers_per_policy: int,
        batched_sampling: bool,
        mp_ctx: BaseContext | None,
        local_inference: bool = False,
    ) -> None:
        self.num_policies = num_policies
        self.inference_workers_per_policy = inference_workers_per_policy
        self._batched_sampling = batched_sampling
        self._local_inference = local_inference

        def words(*shape: int, dtype: torch.dtype = torch.int64, fill: int = 0) -> Tensor:
            tensor = torch.full(shape, fill, dtype=dtype)
            return tensor.share_memory_() if mp_ctx is not None else tensor

        self._tensors = {
            "requested": words(num_policies, num_workers, num_splits),
            "answered": words(num_policies, num_workers, num_splits),
            "block": words(num_workers, num_splits),
            "step": words(num_workers, num_splits),
            "partial": words(num_workers, num_splits, dtype=torch.uint8),
            "agent_policy": words(num_workers, num_splits, agents_per_split, dtype=torch.int32),
            "held": words(num_policies, num_blocks, dtype=torch.uint8),
            "paused": words(num_policies, dtype=torch.uint8),
            "iterations": words(num_policies, fill=-1),
        }
        self._worker_wake_ups = [WakeUp(mp_ctx) for _ in range(num_workers)]
        self._inference_wake_ups = [
            self._worker_wake_ups if local_inference else [WakeUp(mp_ctx) for _ in range(inference_workers_per_policy)]
            for _ in range(num_policies)
        ]
        self._attach()

    def _attach(self) -> None:
        """NumPy views of the shared tensors: reading one word costs a tenth of what torch takes."""
        views = {name: tensor.numpy() for name, tensor in self._tensors.items()}
        self._requested, self._answered = views["requested"], views["answered"]
        self._block, self._step, self._partial = views["block"], views["step"], views["partial"]
        self.agent_policy: np.ndarray = views["agent_policy"]  # [W, S, agents_per_split] int32
        self._held, self._paused = views["held"], views["paused"]
        self.iterations: np.ndarray = views["iterations"]  # [P] int64, -1 before the first one
        num_workers, num_splits = self._block.shape
        self._served = [
            [(w, s) for w in range(num_workers) for s in range(num_splits) if self.inference_worker_for(w) == i]
            for i in range(self.inference_workers_per_policy)
        ]

    def __getstate__(self) -> dict[str, Any]:
        kept = ("num_policies", "inference_workers_per_policy", "_batched_sampling", "_local_inference", "_tensors")
        return {name: self.__dict__[name] for name in (*kept, "_worker_wake_ups", "_inference_wake_ups")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._attach()

    # --- rollout worker -> inference worker ---

    def inference_worker_for(self, worker_idx: int) -> int:
        """Which of a policy's inference workers serves this rollout worker (fixed, so requests need no arbitration)."""
        if self._local_inference:
            return worker_idx
        position = worker_idx // self.num_policies if self._batched_sampling else worker_idx
        return position % self.inference_workers_per_policy

    def post_request(
        self, worker_idx: int, split_idx: int, policies: Sequence[int], block_idx: int, rollout_step: int, partial: bool
    ) -> None:
        """Ask each of ``policies`` to act for its agents of this split at ``rollout_step`` of the block."""
        self._block[worker_idx, split_idx] = block_idx
        self._step[worker_idx, split_idx] = rollout_step
        self._partial[worker_idx, split_idx] = partial
        for policy_id in policies:
            self._requested[policy_id, worker_idx, split_idx] += 1
        if not self._local_inference:
            inference_idx = self.inference_worker_for(worker_idx)
            for policy_id in policies:
                self._inference_wake_ups[policy_id][inference_idx].ring()

    def is_answered(self, worker_idx: int, split_idx: int, policies: Sequence[int]) -> bool:
        for policy_id in policies:
            at = (policy_id, worker_idx, split_idx)
            if self._requested[at] != self._answered[at]:
                return False
        return True

    def forget_requests(self, worker_idx: int) -> None:
        """The worker has died: nobody waits for its answers any more."""
        self._answered[:, worker_idx] = self._requested[:, worker_idx]

    def wait_for_answers(self, worker_idx: int, timeout_sec: float) -> None:
        self._worker_wake_ups[worker_idx].wait(timeout_sec)

    # --- inference worker ---

    def pending_requests(self, policy_id: int, inference_idx: int) -> list[PolicyRequest]:
        """Every request this inference worker should serve now; empty while the policy is paused."""
        if self._paused[policy_id]:
            return []
        requested, answered, served = self._requested[policy_id], self._answered[policy_id], self._served[inference_idx]
        if len(served) <= _MAX_SPLITS_READ_ONE_BY_ONE:
            return [self._request(at, requested[at]) for at in served if requested[at] != answered[at]]
        workers, splits = np.nonzero(requested != answered)
        pending = zip(workers.tolist(), splits.tolist(), strict=True)
        return [self._request(at, requested[at]) for at in pending if self.inference_worker_for(at[0]) == inference_idx]

    def _request(self, at: tuple[int, int], number: np.int64) -> PolicyRequest:
        return PolicyRequest(*at, int(self._block[at]), int(self._step[at]), bool(self._partial[at]), int(number))

    def answer(self, policy_id: int, requests: Sequence[PolicyRequest]) -> None:
        """The outputs of these requests are in the trajectory rows; wake the workers that wait for them."""
        for request in requests:
            # Not what is requested now: the worker may have died meanwhile, and its successor have asked already.
            self._answered[policy_id, request.worker_idx, request.split_idx] = request.number
        if not self._local_inference:
            for worker_idx in {request.worker_idx for request in requests}:
                self._worker_wake_ups[worker_idx].ring()

    def wait_for_requests(self, policy_id: int, inference_idx: int, timeout_sec: float) -> None:
        self._inference_wake_ups[policy_id][inference_idx].wait(timeout_sec)

    # --- trajectory blocks and back-pressure ---

    def hold_block(self, policy_id: int, block_idx: int) -> None:
        """The owner hands rows of the block to the batcher of this policy."""
        self._held[policy_id, block_idx] = 1

    def release_block(self, policy_id: int, block_idx: int, worker_idx: int) -> None:
        """The batcher needs no row of this block any more; its owner may fill it again."""
        self._held[policy_id, block_idx] = 0
        self._worker_wake_ups[worker_idx].ring()

    def release_blocks_except(self, policy_id: int, blocks: range, needed: Collection[int]) -> int:
        """The owner of these blocks has died: the batcher has rows of the ``needed`` ones and gives back the others,
        which were handed over without its ever learning of it. Returns how many these were.
        """
        lost = [block for block in blocks if block not in needed and self._held[policy_id, block]]
        self._held[policy_id, lost] = 0
        return len(lost)

    def is_free(self, block_idx: int) -> bool:
        return not self._held[:, block_idx].any()

    def num_free_blocks(self) -> int:
        return int((~self._held.any(axis=0)).sum())

    def set_paused(self, policy_id: int, paused: bool) -> None:
        """Back-pressure of one policy: while paused its inference workers answer nobody."""
        self._paused[policy_id] = paused
        if not paused:
            for wake_up in self._inference_wake_ups[policy_id]:
                wake_up.ring()

    def wake_all(self) -> None:
        """Ring every bell, so that control messages are noticed at once (stop, new iteration)."""
        for wake_up in self._worker_wake_ups:
            wake_up.ring()
        for row in self._inference_wake_ups:
            for wake_up in row:
                wake_up.ring()
