"""Every flag about collecting experience changes what is collected, by whom or where, as its help text says."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from sample_factory.algo.learning import batcher as batcher_module
from sample_factory.algo.learning.batcher import Batcher
from sample_factory.algo.sampling import rollout_worker as rollout_worker_module
from sample_factory.algo.sampling.batched_sampling import BatchedVectorEnvRunner, preprocess_actions
from sample_factory.algo.sampling.non_batched_sampling import NonBatchedVectorEnvRunner
from sample_factory.algo.sampling.rollout_worker import RolloutWorker
from sample_factory.algo.sampling.sampler import ParallelSampler, SerialSampler
from sample_factory.algo.sampling.sampling_utils import FinishedRollouts, rollout_worker_device
from sample_factory.algo.utils import shared_buffers
from sample_factory.algo.utils.agent_policy_mapping import AgentPolicyMapping
from sample_factory.algo.utils.model_sharing import ParameterServer
from sample_factory.algo.utils.poll_loop import PollingEventLoop
from sample_factory.algo.utils.shared_buffers import BufferMgr
from sample_factory.algo.utils.topology import sampling_topology
from tests.unit.flags.sampling_setup import (
    EPISODE_LEN,
    env_info_of,
    make_batcher,
    make_env_runner,
    sampling_cfg,
    step,
)

BOTH = pytest.mark.parametrize("batched", [False, True])


@BOTH
def test_reward_scale_and_clip(batched: bool) -> None:
    """--reward_scale, --reward_clip: scaled first, clipped afterwards; reports keep the raw reward."""
    rollout = f"--rollout={EPISODE_LEN}"
    cfg = sampling_cfg("--reward_scale=0.5", "--reward_clip=1.75", f"--batched_sampling={batched}", rollout)
    cfg.decorrelate_envs_on_one_worker = False
    rewards, reports = step(make_env_runner(cfg), EPISODE_LEN)
    np.testing.assert_allclose(rewards[:, :EPISODE_LEN], [[0.5, 1.0, 1.5, 1.75, 1.75]] * 2)
    assert np.sum([report["reward"] for report in reports]) == 2 * 15


@BOTH
def test_episode_length_in_frames(batched: bool) -> None:
    """--env_frameskip, --summaries_use_frameskip"""
    for use, length in ((True, 4 * EPISODE_LEN), (False, EPISODE_LEN)):
        cfg = sampling_cfg("--env_frameskip=4", f"--summaries_use_frameskip={use}", f"--batched_sampling={batched}")
        cfg.decorrelate_envs_on_one_worker = False
        _, reports = step(make_env_runner(cfg), EPISODE_LEN)
        assert {int(n) for report in reports for n in np.atleast_1d(report["len"])} == {length}


def test_decorrelate_envs_on_one_worker() -> None:
    for enabled, expected in ((True, [0, 8]), (False, [0, 0])):
        runner = make_env_runner(sampling_cfg(f"--decorrelate_envs_on_one_worker={enabled}", "--rollout=8"))
        assert [env.unwrapped.num_steps_ever for env in runner.envs] == expected


def test_environment_factories_see_their_flags() -> None:
    """--env_framestack, --pixel_format, --env_frameskip: read by environments, not by the trainer."""
    cfg = sampling_cfg("--env_framestack=3", "--pixel_format=HWC", "--env_frameskip=2")
    seen = make_env_runner(cfg).envs[0].unwrapped.cfg
    assert (seen.env_framestack, seen.pixel_format, seen.env_frameskip) == (3, "HWC", 2)


def test_sampler_layout() -> None:
    """--num_workers, --num_envs_per_worker, --num_policies, --policy_workers_per_policy"""
    flags = ("--num_workers=3", "--num_envs_per_worker=4", "--worker_num_splits=2", "--num_policies=2")
    cfg = sampling_cfg(*flags, "--policy_workers_per_policy=2")
    env_info = env_info_of(cfg)
    buffer_mgr = BufferMgr(cfg, env_info)
    servers = {policy: ParameterServer(policy, buffer_mgr.policy_versions, serial_mode=True) for policy in range(2)}
    sampler = SerialSampler(PollingEventLoop("loop", serial_mode=True), buffer_mgr, servers, cfg, env_info)
    assert {policy: len(workers) for policy, workers in sampler.inference_workers.items()} == {0: 2, 1: 2}
    assert len(sampler.rollout_workers) == 3
    worker = sampler.rollout_workers[-1]
    worker.init()
    assert [len(runner.envs) for runner in worker.env_runners] == [4]  # serial mode: one group
    env_ids = [env.unwrapped.env_config.env_id for runner in worker.env_runners for env in runner.envs]
    assert env_ids == [8, 9, 10, 11]


def parallel_sampler(*flags: str) -> ParallelSampler:
    counts = ("--num_workers=3", "--num_envs_per_worker=4", "--worker_num_splits=2")
    cfg = sampling_cfg("--serial_mode=False", *counts, *flags)
    env_info = env_info_of(cfg)
    buffer_mgr = BufferMgr(cfg, env_info)
    servers = {p: ParameterServer(p, buffer_mgr.policy_versions, serial_mode=False) for p in range(cfg.num_policies)}
    return ParallelSampler(PollingEventLoop("loop"), buffer_mgr, servers, cfg, env_info)


def test_inference_placement() -> None:
    """--inference_placement: where inference workers live; whether there are --worker_num_splits groups."""
    several = "--policy_workers_per_policy=2"
    cases = [
        (("--inference_placement=rollout", "--num_policies=2"), 3, 1, 3),
        (("--inference_placement=separate", "--num_policies=2"), 5, 2, 1),
        ((), 3, 1, 3),  # on the CPU
        ((several,), 5, 2, 2),
    ]
    for flags, num_processes, num_splits, num_inference_workers in cases:
        sampler = parallel_sampler(*flags)
        assert len(sampler.processes) == num_processes
        assert sampler.rollout_workers[0].num_splits == num_splits
        for workers in sampler.inference_workers.values():
            assert len(workers) == num_inference_workers
            homes = [worker.event_loop is sampler.rollout_workers[worker.worker_idx].event_loop for worker in workers]
            assert all(homes) if num_splits == 1 else not any(homes)


def test_inference_placement_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    vectorised = ("--batched_sampling=True", "--actor_worker_gpus", "0")
    cases = [
        ((), False),
        (("--batched_sampling=True",), False),
        (("--actor_worker_gpus", "0"), False),
        (vectorised, True),
        ((*vectorised, "--inference_placement=separate"), False),
        ((*vectorised, "--policy_workers_per_policy=2"), False),
        (("--inference_placement=rollout",), True),
    ]
    for flags, expected in cases:
        cfg = sampling_cfg("--serial_mode=False", "--device=gpu", *flags)
        assert sampling_topology(cfg).inference_in_rollout_workers == expected, flags


def test_batched_sampling() -> None:
    assert isinstance(make_env_runner(sampling_cfg("--batched_sampling=True")), BatchedVectorEnvRunner)
    assert isinstance(make_env_runner(sampling_cfg("--batched_sampling=False")), NonBatchedVectorEnvRunner)


def test_rollout_and_async_rl() -> None:
    """--rollout: length of trajectories. --async_rl: a second block to go on with while the first is copied."""
    for async_rl, blocks in ((True, 2), (False, 1)):
        cfg = sampling_cfg("--rollout=4", f"--async_rl={async_rl}")
        buffer_mgr = BufferMgr(cfg, env_info_of(cfg))
        assert buffer_mgr.blocks_per_split == blocks
        assert buffer_mgr.traj_tensors_torch["cpu"]["rewards"].shape == (2 * 2 * blocks, 4)


def test_synchronous_splits_collect_as_many_rollouts_as_they_have_free_blocks() -> None:
    runner = make_env_runner(
        sampling_cfg("--async_rl=False", "--rollout=4", "--batch_size=16", "--num_batches_per_epoch=3")
    )
    blocks = runner.buffer_mgr.blocks_of(0, 0)
    assert runner.num_free_blocks() == len(blocks) == 3
    runner.channel.hold_block(0, blocks[1].idx)
    assert runner.num_free_blocks() == 2


# --- the first rollouts of a worker ---


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


def advance_until_idle(worker: RolloutWorker) -> int:
    """Answer every request with action 0 until the worker has nothing to do; returns the number of answers."""
    num_answers = 0
    while worker.poll() and num_answers < 100:
        requests = worker.channel.pending_requests(0, worker.channel.inference_worker_for(worker.worker_idx))
        for request in requests:
            block = worker.buffer_mgr.blocks[request.block_idx]
            worker.buffer_mgr.traj_tensors_torch["cpu"]["actions"][block.rows] = 0
        worker.channel.answer(0, requests)
        num_answers += len(requests)
    return num_answers


@pytest.mark.parametrize(
    "flags, delay_sec",
    [
        (("--decorrelate_experience_max_seconds=40",), 20.0),
        (("--decorrelate_experience_max_seconds=0",), 0.0),
        (("--decorrelate_experience_max_seconds=40", "--benchmark=True"), 0.0),
    ],
)
def test_decorrelate_experience_and_benchmark(
    flags: tuple[str, ...], delay_sec: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--decorrelate_experience_max_seconds, --benchmark: worker 1 of 2 waits half of the time, once."""
    clock = Clock()
    monkeypatch.setattr(rollout_worker_module, "time", clock)
    cfg = sampling_cfg("--rollout=8", *flags)
    env_info = env_info_of(cfg)
    worker = RolloutWorker(PollingEventLoop("loop", serial_mode=True), 1, BufferMgr(cfg, env_info), cfg, env_info)
    worker.init()
    both_blocks = 2 * cfg.rollout
    if delay_sec == 0.0:
        assert advance_until_idle(worker) == both_blocks, "stops only because nobody takes the rollouts"
        return
    assert advance_until_idle(worker) == cfg.rollout
    clock.now += delay_sec - 0.1
    assert not worker.poll()
    clock.now += 0.2
    assert advance_until_idle(worker) == cfg.rollout, "goes on, and does not wait a second time"


# --- back-pressure ---


@pytest.mark.parametrize("num_batches", [1, 3])
def test_num_batches_to_accumulate(num_batches: int) -> None:
    """So many batches may wait for the learner; then the policy is paused, until one has been trained on."""
    batcher, buffer_mgr = make_batcher("--num_workers=16", f"--num_batches_to_accumulate={num_batches}")
    formed: list[int] = []
    batcher._finish_batch = finish_and_count(batcher, formed)  # type: ignore[method-assign]
    paused_after = []
    for worker_idx in range(2 * (num_batches + 1)):
        block = buffer_mgr.blocks_of(worker_idx, 0)[0]
        buffer_mgr.channel.hold_block(0, block.idx)
        batcher.on_new_trajectories([FinishedRollouts(0, block.idx, block.rows)], "cpu")
        paused_after.append(is_paused(buffer_mgr))
    assert len(formed) == num_batches
    assert paused_after == [False] * (2 * num_batches - 1) + [True] * 3
    batcher.on_training_batch_released(formed[0], 1)
    assert len(formed) == num_batches + 1


def test_large_blocks_are_collected_before_the_learner_runs_dry() -> None:
    """A block with more batches than there are slots: collection goes on while less than one more batch waits."""
    batcher, buffer_mgr = make_batcher("--num_workers=1", "--num_envs_per_worker=7", "--num_batches_to_accumulate=2")
    formed: list[int] = []
    batcher._finish_batch = finish_and_count(batcher, formed)  # type: ignore[method-assign]
    block = buffer_mgr.blocks_of(0, 0)[0]
    buffer_mgr.channel.hold_block(0, block.idx)
    batcher.on_new_trajectories([FinishedRollouts(0, block.idx, block.rows)], "cpu")
    assert len(formed) == 2 and is_paused(buffer_mgr), "three of seven rows wait, a batch takes two"
    batcher.on_training_batch_released(formed[0], 1)
    assert len(formed) == 3 and not is_paused(buffer_mgr), "all slots are full, but a single row waits"


@pytest.mark.parametrize(("collection_sec", "num_left"), [(0.5, 2), (3.5, 4), (100.0, 6)])
def test_large_blocks_are_collected_just_in_time(
    collection_sec: float, num_left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block of seven batches, one per second: collection goes on when the learner will need the next block."""
    clock = Clock()
    monkeypatch.setattr(batcher_module, "time", clock)
    flags = ("--num_workers=1", "--num_envs_per_worker=14", "--num_batches_to_accumulate=2", "--serial_mode=False")
    batcher, buffer_mgr = make_batcher(*flags)
    formed: list[int] = []
    batcher._finish_batch = finish_and_count(batcher, formed)  # type: ignore[method-assign]
    block = buffer_mgr.blocks_of(0, 0)[0]
    buffer_mgr.channel.hold_block(0, block.idx)
    clock.now += collection_sec
    batcher.on_new_trajectories([FinishedRollouts(0, block.idx, block.rows)], "cpu")
    assert is_paused(buffer_mgr), "nothing is known about the time that training takes"
    batches_left = 7
    while is_paused(buffer_mgr):
        clock.now += 1.0
        batcher.on_training_batch_released(formed[7 - batches_left], 8 - batches_left)
        batches_left -= 1
    assert batches_left == num_left


def test_num_batches_to_accumulate_is_one_in_synchronous_mode() -> None:
    batcher, _ = make_batcher("--async_rl=False", "--num_batches_to_accumulate=3")
    assert len(batcher.training_batches) == 1


def finish_and_count(batcher: Batcher, formed: list[int]) -> Any:
    finish = batcher._finish_batch

    def wrapped() -> None:
        assert batcher._forming_slot is not None
        formed.append(batcher._forming_slot)
        finish()

    return wrapped


def is_paused(buffer_mgr: BufferMgr) -> bool:
    """A paused policy sees no requests."""
    channel = buffer_mgr.channel
    channel.post_request(0, 0, [0], block_idx=0, rollout_step=0, partial=False)
    requests = channel.pending_requests(0, 0)
    if requests:
        channel.answer(0, requests)
    return not requests


# --- devices and policies ---


def test_actor_worker_gpus_and_gpu_observations(monkeypatch: pytest.MonkeyPatch) -> None:
    """--actor_worker_gpus, --env_gpu_observations"""
    monkeypatch.setattr(shared_buffers.torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")

    def devices(*flags: str) -> list[str]:
        cfg = sampling_cfg(*flags)
        env_info = SimpleNamespace(gpu_observations=env_info_of(cfg).gpu_observations)
        return [str(rollout_worker_device(i, cfg, env_info)) for i in range(3)]  # type: ignore[arg-type]

    assert devices() == ["cpu"] * 3
    assert devices("--actor_worker_gpus", "2", "0") == ["cuda:2", "cuda:0", "cuda:2"]
    assert devices("--env_gpu_observations=False", "--actor_worker_gpus", "2", "0") == ["cpu"] * 3


def test_env_gpu_actions() -> None:
    actions = torch.tensor([[1.0], [2.0]])
    on_device = preprocess_actions(env_info_of(sampling_cfg("--env_gpu_actions=True")), actions)
    assert isinstance(on_device, torch.Tensor)
    assert isinstance(preprocess_actions(env_info_of(sampling_cfg("--env_gpu_actions=False")), actions), np.ndarray)


def test_pbt_mix_policies_in_one_env() -> None:
    def policies(mix: bool) -> list[set[int]]:
        cfg = sampling_cfg("--num_policies=4", f"--pbt_mix_policies_in_one_env={mix}")
        mapping = AgentPolicyMapping(cfg, SimpleNamespace(num_agents=6))  # type: ignore[arg-type]
        return [{mapping.get_policy_for_agent(agent, env, env) for agent in range(6)} for env in range(10)]

    assert all(len(used) == 1 for used in policies(False))
    assert any(len(used) > 1 for used in policies(True))
    assert {policy for used in policies(False) for policy in used} == {0, 1, 2, 3}
