"""Turns finished rollouts into training batches.

Rows are copied into the batch that is being formed as soon as they arrive. In asynchronous mode their block goes back
to its rollout worker at once; in synchronous mode after the batch was trained on, so that the next rollouts use the
new policy.

What it waits for: rollouts (signals of rollout workers) and free batch slots (signals of the learner). When every
slot is full or being trained on, rows stay where they are and the policy's inference workers are paused: that is the
back-pressure that bounds policy lag. The bound of one policy: ``num_batches_to_accumulate`` batches plus the blocks
under way.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any, NamedTuple

import numpy as np
import torch
from signal_slot.signal_slot import EventLoop, signal

from sample_factory.algo.learning.pace import Pace
from sample_factory.algo.utils.env_info import EnvInfo
from sample_factory.algo.utils.heartbeat import HeartbeatStoppableEventLoopObject
from sample_factory.algo.utils.shared_buffers import BufferMgr, alloc_trajectory_tensors, policy_device
from sample_factory.algo.utils.tensor_dict import TensorDict
from sample_factory.cfg.configurable import Configurable
from sample_factory.model.model_utils import get_rnn_size
from sample_factory.utils.timing import Timing
from sample_factory.utils.typing import Config, Device, PolicyID
from sample_factory.utils.utils import log


class PendingRows(NamedTuple):
    """Rows of one block that still have to be copied."""

    block_idx: int
    device: Device
    rows: slice | np.ndarray

    def num_rows(self) -> int:
        return self.rows.stop - self.rows.start if isinstance(self.rows, slice) else len(self.rows)

    def split_at(self, n: int) -> tuple[PendingRows, PendingRows]:
        """The first ``n`` rows and the others."""
        rows = self.rows
        if isinstance(rows, slice):
            middle = rows.start + n
            return self._replace(rows=slice(rows.start, middle)), self._replace(rows=slice(middle, rows.stop))
        return self._replace(rows=rows[:n]), self._replace(rows=rows[n:])


def copy_rows(src: dict[str, Any], src_rows: slice | np.ndarray, dst: dict[str, Any], dst_rows: slice) -> None:
    """Copy trajectories, all fields. Both sides are tensors, on any device, or both are what :func:`copyable` gave."""
    for key, target in dst.items():
        if isinstance(target, dict):
            copy_rows(src[key], src_rows, target, dst_rows)
        elif isinstance(target, np.ndarray):
            target[dst_rows] = src[key][src_rows]
        else:
            target[dst_rows].copy_(src[key][src_rows], non_blocking=True)


# Items of these sizes are copied as one number.
_WIDE_TYPES = {2: np.int16, 4: np.int32, 8: np.int64, 16: np.complex128}


def copyable(tensors: dict[str, Any]) -> dict[str, Any]:
    """The same CPU memory in the form that is cheapest to copy.

    Trajectories are stored step after step, batches row after row: copying transposes, item by item. NumPy does that
    with less overhead than torch, and it pays to make whole vectors the items where a type of their size exists.
    """
    return {key: copyable(t) if isinstance(t, dict) else _wide_items(t.numpy()) for key, t in tensors.items()}


def _wide_items(array: np.ndarray) -> np.ndarray:
    """``[N, T, k]`` as ``[N, T]`` of wider items if ``k`` values have the size of a number, else the array itself."""
    wide = _WIDE_TYPES.get(array[0, 0].nbytes)
    is_dense = array.ndim == 3 and array.strides[-1] == array.itemsize
    return array.view(wide)[..., 0] if is_dense and wide is not None else array


class Batcher(HeartbeatStoppableEventLoopObject, Configurable):
    def __init__(self, evt_loop: EventLoop, policy_id: PolicyID, buffer_mgr: BufferMgr, cfg: Config, env_info: EnvInfo):
        Configurable.__init__(self, cfg)
        HeartbeatStoppableEventLoopObject.__init__(
            self, evt_loop, f"{Batcher.__name__}_{policy_id}", cfg.heartbeat_interval
        )
        self.timing = Timing(name=f"Batcher {policy_id} profile")
        self.policy_id, self.env_info, self.buffer_mgr = policy_id, env_info, buffer_mgr
        self.trajectories_per_batch = buffer_mgr.trajectories_per_training_iteration
        self.training_batches: list[TensorDict] = []
        # The same memory as copying wants it, see `copyable`; only for devices on which that is possible.
        self._copy_sources: dict[Device, dict[str, Any]] = {}
        self._copy_targets: list[dict[str, Any]] = []
        self._stream: Any = None  # of a GPU, if anybody else uses it at the same time

        self._pending: deque[PendingRows] = deque()
        self._free_slots: deque[int] = deque()
        self._forming_slot: int | None = None
        self._num_formed_rows = 0
        self._pace = Pace(time.monotonic())
        # Blocks to give back once the batch in this slot was trained on (synchronous mode).
        self._blocks_of_slot: dict[int, list[int]] = {}

    @signal
    def initialized(self) -> None: ...

    @signal
    def trajectory_buffers_available(self) -> None: ...

    @signal
    def training_batches_available(self) -> None: ...

    @signal
    def worker_forgotten(self) -> None: ...

    def init(self) -> None:
        """Allocate the training batches; called when the learner is ready."""
        device = policy_device(self.cfg, self.policy_id)
        for slot in range(self.buffer_mgr.max_batches_to_accumulate):
            self.training_batches.append(
                alloc_trajectory_tensors(
                    self.env_info,
                    self.trajectories_per_batch,
                    self.cfg.rollout,
                    get_rnn_size(self.cfg),
                    device,
                    share=False,
                )
            )
            self._free_slots.append(slot)
            self._blocks_of_slot[slot] = []
        if device.type == "cuda" and not self.cfg.serial_mode:
            torch.cuda.synchronize(device)  # the training batches were filled on another stream
            self._stream = torch.cuda.Stream(device)
        if device.type == "cpu":
            self._copy_targets = [copyable(batch) for batch in self.training_batches]
            sources = self.buffer_mgr.traj_tensors_torch
            self._copy_sources = {"cpu": copyable(sources["cpu"])} if "cpu" in sources else {}
        self.start_heartbeat()
        self.initialized.emit()
        self._form_batches()  # rollouts may have arrived before

    def on_new_trajectories(self, finished: list[Any], device: Device) -> None:
        """Slot for rollout workers: lists of ``FinishedRollouts`` of this policy."""
        for rollouts in finished:
            if rollouts.policy_id != self.policy_id:
                raise ValueError(f"{self.object_id} received a trajectory of policy {rollouts.policy_id}")
            self._pending.append(PendingRows(rollouts.block_idx, device, rollouts.rows))
        self._pace.on_block(time.monotonic())
        self._form_batches()

    def on_training_batch_released(self, slot: int, training_iteration: int) -> None:
        """Slot for the learner: the batch in this slot was trained on."""
        for block_idx in self._blocks_of_slot[slot]:
            self.buffer_mgr.release(self.policy_id, block_idx)
        self._blocks_of_slot[slot] = []
        self._free_slots.append(slot)
        self._pace.on_batch_trained(time.monotonic(), self._num_full_slots())
        if not self.cfg.async_rl:
            # Asynchronous workers see their blocks become free in shared memory; here a new iteration begins, too.
            self.buffer_mgr.channel.iterations[self.policy_id] = training_iteration
            self.trajectory_buffers_available.emit(self.policy_id, training_iteration)
            self.buffer_mgr.channel.wake_all()
        self._form_batches()

    def on_worker_died(self, worker_idx: int) -> None:
        """Slot for the runner. All that the worker sent is in this queue before this message, so the blocks that are
        known now are all there are; the worker was killed while it handed over the others.
        """
        needed = {pending.block_idx for pending in self._pending}
        for blocks in self._blocks_of_slot.values():
            needed.update(blocks)
        manager = self.buffer_mgr
        lost = manager.channel.release_blocks_except(self.policy_id, manager.blocks_of_worker(worker_idx), needed)
        if lost:
            log.info(f"{self.object_id}: {lost} trajectory blocks of rollout worker {worker_idx} were lost with it")
        self.worker_forgotten.emit(self.policy_id, worker_idx)

    def _form_batches(self) -> None:
        with self.timing.add_time("batching"):
            while self._pending and self._take_slot():
                self._copy_pending_rows()
                if self._num_formed_rows == self.trajectories_per_batch:
                    self._finish_batch()
        self._update_back_pressure()

    def _take_slot(self) -> bool:
        """Whether there is a slot to copy into."""
        if self._forming_slot is None and self._free_slots:
            self._forming_slot = self._free_slots.popleft()
            self._num_formed_rows = 0
        return self._forming_slot is not None

    def _copy_pending_rows(self) -> None:
        assert self._forming_slot is not None
        pending = self._pending.popleft()
        room = self.trajectories_per_batch - self._num_formed_rows
        is_last_part = pending.num_rows() <= room
        if not is_last_part:
            pending, rest = pending.split_at(room)
            self._pending.appendleft(rest)

        start = self._num_formed_rows
        self._num_formed_rows += pending.num_rows()
        rows = slice(start, self._num_formed_rows)
        source = self._copy_sources.get(pending.device)
        if source is not None:
            copy_rows(source, pending.rows, self._copy_targets[self._forming_slot], rows)
        else:
            self._copy_between_devices(pending, self._forming_slot, rows)
        if is_last_part:
            if self.cfg.async_rl:
                self.buffer_mgr.release(self.policy_id, pending.block_idx)
            else:
                self._blocks_of_slot[self._forming_slot].append(pending.block_idx)

    def _copy_between_devices(self, pending: PendingRows, slot: int, rows: slice) -> None:
        tensors = self.buffer_mgr.traj_tensors_torch[pending.device]
        if self._stream is None:
            copy_rows(tensors, pending.rows, self.training_batches[slot], rows)
            return
        # Beside the learner's work, and finished before a rollout worker overwrites the rows.
        with torch.cuda.stream(self._stream):
            copy_rows(tensors, pending.rows, self.training_batches[slot], rows)
        self._stream.synchronize()

    def _finish_batch(self) -> None:
        slot, self._forming_slot = self._forming_slot, None
        self._pace.on_batch_formed(time.monotonic())
        self.training_batches_available.emit(slot)

    def _update_back_pressure(self) -> None:
        """More experience would only get old while no slot is free, except for large blocks."""
        if self.cfg.async_rl:
            is_full = bool(self.training_batches) and self._forming_slot is None and not self._free_slots
            if is_full and self._are_blocks_large():
                is_full = self._is_next_block_early()
            self.buffer_mgr.channel.set_paused(self.policy_id, is_full)
            (self._pace.on_pause if is_full else self._pace.on_resume)(time.monotonic())

    def _num_full_slots(self) -> int:
        """Batches that are trained on or wait for it."""
        return len(self.training_batches) - len(self._free_slots) - (self._forming_slot is not None)

    def _are_blocks_large(self) -> bool:
        """Whether one block fills all slots, and more."""
        return self.buffer_mgr.agents_per_split > self.trajectories_per_batch * len(self.training_batches)

    def _is_next_block_early(self) -> bool:
        """A large block takes longer to collect than all slots to train on: the learner would run dry without it."""
        num_pending = sum(pending.num_rows() for pending in self._pending) / self.trajectories_per_batch
        if num_pending < 1.0:
            return False
        # In serial mode nothing happens at the same time, and runs are to be reproducible.
        return self.cfg.serial_mode or self._pace.is_early(self._num_full_slots() + num_pending)

    def profile(self) -> dict[Any, Any]:
        return {self.object_id: self.timing}

    def on_stop(self, *args: Any) -> None:
        if not self.is_stopped:
            log.debug(f"{self.object_id} stops with {len(self._pending)} finished rollouts left over")
        super().on_stop(*args)
