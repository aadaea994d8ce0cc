"""How trajectory memory is dealt out."""

from __future__ import annotations

import itertools

import pytest
import torch
from gymnasium import spaces

from sample_factory.algo.utils.env_info import EnvInfo
from sample_factory.algo.utils.misc import MAGIC_FLOAT, MAGIC_INT
from sample_factory.algo.utils.shared_buffers import BufferMgr, alloc_trajectory_tensors, rollouts_per_iteration
from sample_factory.cfg.arguments import default_cfg


def env_info(num_agents=1) -> EnvInfo:
    obs_space = spaces.Dict(obs=spaces.Box(-1, 1, (4,)), image=spaces.Box(0, 255, (3, 2, 2), "uint8"))
    return EnvInfo(
        obs_space, spaces.Tuple([spaces.Discrete(3), spaces.Box(-1, 1, (2,))]), num_agents, False, False, None, None, 1
    )


def config(**changes):
    cfg = default_cfg()
    for name, value in dict(num_workers=2, num_envs_per_worker=4, rollout=8, batch_size=64, device="cpu").items():
        setattr(cfg, name, changes.pop(name, value))
    for name, value in changes.items():
        setattr(cfg, name, value)
    return cfg


def test_layout_shapes_dtypes_and_poison():
    tensors = alloc_trajectory_tensors(env_info(), 5, 8, rnn_size=16, device="cpu", share=False)
    shapes = {key: (tuple(t.shape), t.dtype) for key, t in tensors.items() if key != "obs"}
    assert shapes == {
        "rnn_states": ((5, 9, 16), torch.float32),
        "actions": ((5, 8, 3), torch.float32),
        "action_logits": ((5, 8, 7), torch.float32),
        "log_prob_actions": ((5, 8), torch.float32),
        "values": ((5, 9), torch.float32),
        "policy_version": ((5, 8), torch.float32),
        "rewards": ((5, 8), torch.float32),
        "dones": ((5, 8), torch.bool),
        "time_outs": ((5, 8), torch.bool),
        "policy_id": ((5, 8), torch.int32),
        "valids": ((5, 9), torch.bool),
    }
    assert tensors["obs"]["obs"].shape == (5, 9, 4) and tensors["obs"]["image"].dtype == torch.uint8
    assert (tensors["values"] == MAGIC_FLOAT).all() and (tensors["obs"]["image"] == MAGIC_INT).all()
    assert (tensors["policy_id"] == -1).all() and tensors["dones"].all() and not tensors["valids"].any()
    assert tensors["rewards"].unique().tolist() == pytest.approx([-42.42])


@pytest.mark.parametrize(
    ("num_agents", "splits", "batched", "batch_size"),
    [(1, 1, False, 64), (1, 2, True, 72), (3, 2, True, 64), (2, 4, False, 1024)],
)
def test_q38_blocks_are_equally_long_and_tile_the_rows(num_agents, splits, batched, batch_size):
    cfg = config(
        worker_num_splits=splits, batched_sampling=batched, batch_size=batch_size, inference_placement="separate"
    )
    manager = BufferMgr(cfg, env_info(num_agents))
    assert {block.stop - block.start for block in manager.blocks} == {4 * num_agents // splits}
    rows = list(itertools.chain.from_iterable(range(b.start, b.stop) for b in manager.blocks))
    assert rows == list(range(len(manager.traj_tensors_torch["cpu"]["rewards"])))
    for worker_idx, split_idx in itertools.product(range(2), range(splits)):
        blocks = manager.blocks_of(worker_idx, split_idx)
        assert len(blocks) == 2
        assert all((b.worker_idx, b.split_idx) == (worker_idx, split_idx) for b in blocks)


def test_rows_of_a_block_at_one_step_are_contiguous_memory():
    manager = BufferMgr(config(), env_info())
    view = manager.block_view(manager.blocks[1])
    for array in (view["obs"]["obs"], view["obs"]["image"], view["actions"], view["rewards"], view["values"]):
        assert array[:, 3].flags.c_contiguous
        array[:, 3] = 1
    stored = manager.traj_tensors_torch["cpu"]["rewards"]
    rows = manager.blocks[1].rows
    assert (stored[rows, 3] == 1).all() and (stored[rows, 4] != 1).all() and (stored[: rows.start, 3] != 1).all()


def test_synchronous_mode_keeps_the_rollouts_of_one_iteration():
    cfg = config(async_rl=False, num_batches_per_epoch=4)  # 32 trajectories from 8 environments
    assert rollouts_per_iteration(cfg, env_info()) == 4
    assert BufferMgr(cfg, env_info()).blocks_per_split == 4


def test_synchronous_mode_names_the_flags_that_do_not_fit():
    with pytest.raises(ValueError, match="--batch_size"):
        rollouts_per_iteration(config(async_rl=False, batch_size=96), env_info())
