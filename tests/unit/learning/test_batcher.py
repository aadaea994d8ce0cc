"""What becomes of finished rollouts, and when their memory goes back to the workers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from signal_slot.signal_slot import EventLoopObject

from sample_factory.algo.learning.batcher import Batcher
from sample_factory.algo.sampling.sampling_utils import FinishedRollouts
from sample_factory.algo.utils.shared_buffers import Block, BufferMgr
from tests.unit.flags.sampling_setup import make_batcher

THREE_ROWS_PER_BLOCK = ("--num_workers=2", "--num_envs_per_worker=3")  # training batches have two


class Listener(EventLoopObject):
    """Learner and runner of the batcher."""

    def __init__(self, batcher: Batcher) -> None:
        super().__init__(batcher.event_loop, "listener")
        self.batches: list[int] = []
        self.iterations: list[tuple[int, int]] = []
        self.forgotten: list[tuple[int, int]] = []
        batcher.training_batches_available.connect(self.on_batch)
        batcher.trajectory_buffers_available.connect(self.on_iteration)
        batcher.worker_forgotten.connect(self.on_forgotten)

    def on_batch(self, slot: int) -> None:
        self.batches.append(slot)

    def on_iteration(self, policy_id: int, iteration: int) -> None:
        self.iterations.append((policy_id, iteration))

    def on_forgotten(self, policy_id: int, worker_idx: int) -> None:
        self.forgotten.append((policy_id, worker_idx))


def finish(batcher: Batcher, buffers: BufferMgr, block: Block, rows: Any = None) -> None:
    """The worker has filled the block: its rows have the rewards 0, 1, 2, ..."""
    rewards = buffers.traj_tensors_torch["cpu"]["rewards"]
    rewards[block.rows] = torch.arange(block.start, block.stop, dtype=rewards.dtype)[:, None]
    buffers.channel.hold_block(0, block.idx)
    batcher.on_new_trajectories([FinishedRollouts(0, block.idx, block.rows if rows is None else rows)], "cpu")


def rows_of(batcher: Batcher, slot: int) -> list[int]:
    rewards = batcher.training_batches[slot]["rewards"]
    assert (rewards == rewards[:, :1]).all()
    return rewards[:, 0].int().tolist()


def test_rows_follow_each_other_across_batches_and_blocks_are_free_once_copied() -> None:
    batcher, buffers = make_batcher(*THREE_ROWS_PER_BLOCK, "--num_batches_to_accumulate=2")
    listener, is_free = Listener(batcher), buffers.channel.is_free
    first, second = buffers.blocks_of(0, 0)[0], buffers.blocks_of(1, 0)[0]
    finish(batcher, buffers, first)
    assert is_free(first.idx), "one row is in a batch that is not full, but all of them are copied"
    finish(batcher, buffers, second)
    assert not is_free(second.idx), "both batches are full, its last two rows wait"
    batcher.event_loop.process_events()
    assert listener.batches == [0, 1]
    assert rows_of(batcher, 0) + rows_of(batcher, 1) == [0, 1, 2, second.start]

    batcher.on_training_batch_released(0, training_iteration=1)
    assert is_free(second.idx)
    batcher.event_loop.process_events()
    assert listener.batches == [0, 1, 0] and rows_of(batcher, 0) == [second.start + 1, second.start + 2]
    assert listener.iterations == [], "asynchronous workers wait for blocks, not for iterations"


def test_rows_of_another_policy_are_left_out() -> None:
    batcher, buffers = make_batcher(*THREE_ROWS_PER_BLOCK)
    block = buffers.blocks_of(1, 0)[1]
    finish(batcher, buffers, block, rows=torch.tensor([block.start + 2, block.start]).numpy())
    assert rows_of(batcher, 0) == [block.start + 2, block.start]
    with pytest.raises(ValueError, match="Batcher_0 received a trajectory of policy 1"):
        batcher.on_new_trajectories([FinishedRollouts(1, block.idx, block.rows)], "cpu")


def test_synchronous_blocks_are_kept_until_their_batch_was_trained_on() -> None:
    batcher, buffers = make_batcher("--async_rl=False", "--num_workers=2", "--num_batches_per_epoch=2")
    listener, channel = Listener(batcher), buffers.channel
    for worker_idx in range(2):
        for block in buffers.blocks_of(worker_idx, 0):
            finish(batcher, buffers, block)
    batcher.event_loop.process_events()
    assert listener.batches == [0] and channel.num_free_blocks() == 0
    assert channel.iterations.tolist() == [-1]

    batcher.on_training_batch_released(0, training_iteration=7)
    batcher.event_loop.process_events()
    assert channel.num_free_blocks() == len(buffers.blocks)
    assert channel.iterations.tolist() == [7] and listener.iterations == [(0, 7)]


def test_blocks_that_died_with_their_worker_come_back_but_not_those_it_had_sent() -> None:
    batcher, buffers = make_batcher(*THREE_ROWS_PER_BLOCK, "--num_batches_to_accumulate=1")
    listener, is_free = Listener(batcher), buffers.channel.is_free
    (sent, lost), (other, _) = buffers.blocks_of(0, 0), buffers.blocks_of(1, 0)
    finish(batcher, buffers, sent)
    assert not is_free(sent.idx), "its last row waits for the only slot"
    for block in (lost, other):
        buffers.channel.hold_block(0, block.idx)
    batcher.on_worker_died(0)
    assert [is_free(block.idx) for block in (sent, lost, other)] == [False, True, False]
    batcher.event_loop.process_events()
    assert listener.forgotten == [(0, 0)]
