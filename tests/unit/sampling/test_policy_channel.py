"""The shared-memory words between workers: who sees what, and when."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from sample_factory.algo.utils.multiprocessing_utils import get_mp_ctx
from sample_factory.algo.utils.policy_channel import PolicyChannel, PolicyRequest, WakeUp


def make_channel(**overrides) -> PolicyChannel:
    kwargs = dict(
        num_policies=2,
        num_workers=4,
        num_splits=2,
        agents_per_split=3,
        num_blocks=16,
        inference_workers_per_policy=2,
        batched_sampling=False,
        mp_ctx=None,
    )
    return PolicyChannel(**{**kwargs, **overrides})


def test_request_is_pending_until_answered():
    channel = make_channel()
    channel.post_request(1, 0, [0], block_idx=5, rollout_step=7, partial=False)
    assert not channel.is_answered(1, 0, [0])
    inference_idx = channel.inference_worker_for(1)
    assert channel.pending_requests(0, inference_idx) == [PolicyRequest(1, 0, 5, 7, False, 1)]
    assert channel.pending_requests(1, inference_idx) == []

    channel.answer(0, channel.pending_requests(0, inference_idx))
    assert channel.is_answered(1, 0, [0])
    assert channel.pending_requests(0, inference_idx) == []


@pytest.mark.parametrize("num_workers", [4, 12])
def test_every_worker_is_served_by_exactly_one_inference_worker(num_workers):
    channel = make_channel(num_workers=num_workers)
    for worker_idx in range(num_workers):
        channel.post_request(worker_idx, 1, [1], worker_idx, 0, partial=False)
    served = [[(r.worker_idx, r.split_idx) for r in channel.pending_requests(1, i)] for i in range(2)]
    assert served == [[(w, 1) for w in range(i, num_workers, 2)] for i in range(2)]


def test_batched_workers_of_one_policy_are_spread_over_its_inference_workers():
    channel = make_channel(batched_sampling=True)
    workers_of_policy_0 = [0, 2]  # worker_idx % num_policies == 0
    assert {channel.inference_worker_for(w) for w in workers_of_policy_0} == {0, 1}


def test_split_waits_for_all_policies_it_asked():
    channel = make_channel()
    channel.post_request(0, 0, [0, 1], 0, 0, partial=True)
    channel.answer(1, channel.pending_requests(1, 0))
    assert not channel.is_answered(0, 0, [0, 1])
    channel.answer(0, channel.pending_requests(0, 0))
    assert channel.is_answered(0, 0, [0, 1])


def test_q34_pausing_one_policy_leaves_the_other_running():
    channel = make_channel()
    channel.post_request(0, 0, [0, 1], 0, 0, partial=True)
    channel.set_paused(0, True)
    assert channel.pending_requests(0, 0) == []
    assert len(channel.pending_requests(1, 0)) == 1
    channel.set_paused(1, False)  # another batcher resuming must not lift the pause of policy 0
    assert channel.pending_requests(0, 0) == []
    channel.set_paused(0, False)
    assert len(channel.pending_requests(0, 0)) == 1


def test_block_is_free_only_after_every_policy_released_it():
    channel = make_channel()
    channel.hold_block(0, 3)
    channel.hold_block(1, 3)
    channel.release_block(0, 3, worker_idx=0)
    assert not channel.is_free(3)
    assert channel.num_free_blocks() == 15
    channel.release_block(1, 3, worker_idx=0)
    assert channel.is_free(3)


def test_pickling_keeps_the_words_and_their_meaning():
    channel = make_channel()
    channel.agent_policy[2, 1] = [0, -1, 1]
    channel.post_request(2, 1, [1], 9, 4, partial=True)
    copy = pickle.loads(pickle.dumps(channel))
    assert copy.pending_requests(1, copy.inference_worker_for(2)) == [PolicyRequest(2, 1, 9, 4, True, 1)]
    assert np.array_equal(copy.agent_policy[2, 1], [0, -1, 1])


def test_wake_up_returns_when_rung_and_swallows_extra_rings():
    wake_up = WakeUp(get_mp_ctx(serial=False))
    for _ in range(3):
        wake_up.ring()
    wake_up.wait(timeout_sec=30.0)  # returns at once, or the test times out
    assert wake_up._semaphore.get_value() == 0


@pytest.mark.parametrize("serial", [True, False])
def test_waiting_for_nobody_ends_with_the_timeout(serial):
    WakeUp(get_mp_ctx(serial)).wait(timeout_sec=0.0)


def test_late_answer_to_a_dead_worker_is_none_to_its_successor():
    channel = make_channel()
    channel.post_request(1, 0, [0], 5, 7, partial=False)
    late = channel.pending_requests(0, channel.inference_worker_for(1))
    channel.forget_requests(1)
    assert channel.is_answered(1, 0, [0])
    channel.post_request(1, 0, [0], 6, 0, partial=False)
    channel.answer(0, late)
    assert not channel.is_answered(1, 0, [0])
    assert channel.pending_requests(0, channel.inference_worker_for(1)) == [PolicyRequest(1, 0, 6, 0, False, 2)]


def test_requests_of_one_worker_are_forgotten_not_those_of_others():
    channel = make_channel()
    for worker_idx in range(4):
        channel.post_request(worker_idx, 1, [0, 1], worker_idx, 0, partial=True)
    channel.forget_requests(2)
    pending = {request.worker_idx for p in range(2) for i in range(2) for request in channel.pending_requests(p, i)}
    assert pending == {0, 1, 3}


def test_blocks_lost_with_a_worker_are_free_again():
    channel = make_channel()
    for block_idx in (3, 4, 5, 6):
        channel.hold_block(0, block_idx)
    channel.hold_block(1, 5)
    assert channel.release_blocks_except(0, range(4, 8), needed={6}) == 2  # 4 and 5; 3 belongs to somebody else
    assert [block_idx for block_idx in range(8) if not channel.is_free(block_idx)] == [3, 5, 6]
    assert channel.release_blocks_except(1, range(4, 8), needed=set()) == 1
    assert channel.num_free_blocks() == 14
