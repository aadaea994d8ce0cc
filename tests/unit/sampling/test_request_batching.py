"""Which rows a forward pass is for, and where its outputs go."""

from __future__ import annotations

from typing import Any

import torch

from sample_factory.algo.sampling.request_batching import make_request_batches
from sample_factory.algo.utils.policy_channel import PolicyRequest
from sample_factory.algo.utils.shared_buffers import BufferMgr
from tests.unit.flags.sampling_setup import env_info_of, sampling_cfg

FLAGS = ("--num_workers=2", "--num_envs_per_worker=3", "--num_policies=2", "--use_rnn=True", "--rnn_size=3")


def make_scene() -> tuple[BufferMgr, list[PolicyRequest], list[tuple[int, int]]]:
    """A request for some agents of one split and one for all agents of another; row and step of those of policy 0."""
    cfg = sampling_cfg(*FLAGS, "--rollout=4", "--batch_size=16")
    buffers = BufferMgr(cfg, env_info_of(cfg))
    partly, whole = buffers.blocks_of(0, 0)[1], buffers.blocks_of(1, 0)[0]
    buffers.channel.agent_policy[0, 0] = [0, 1, 0]
    requests = [PolicyRequest(0, 0, partly.idx, 2, True, 1), PolicyRequest(1, 0, whole.idx, 0, False, 1)]
    cells = [(partly.start, 2), (partly.start + 2, 2), *((row, 0) for row in range(whole.start, whole.stop))]
    return buffers, requests, cells


def numbered(shape: torch.Size) -> torch.Tensor:
    """``[row, step, ...]``: every cell has a number of its own."""
    cells = torch.arange(shape[0] * shape[1], dtype=torch.float32)
    return cells.reshape(shape[0], shape[1], *[1] * (len(shape) - 2)).expand(shape)


def test_inputs_are_those_of_the_rows_that_the_policy_acts_for() -> None:
    buffers, requests, cells = make_scene()
    traj: Any = buffers.traj_tensors_torch["cpu"]
    for tensor in (traj["obs"]["obs"], traj["rnn_states"]):
        tensor.copy_(numbered(tensor.shape))
    (batch,) = make_request_batches(buffers, 0, requests)
    obs, rnn_states = batch.inputs()
    assert batch.num_samples == len(cells) == len(rnn_states)
    for tensor, found in ((traj["obs"]["obs"], obs["obs"]), (traj["rnn_states"], rnn_states)):
        assert torch.equal(found, torch.stack([tensor[cell] for cell in cells]))

    (other,) = make_request_batches(buffers, 1, requests[:1])
    assert torch.equal(other.inputs()[0]["obs"], traj["obs"]["obs"][cells[0][0] + 1, 2][None])
    buffers.channel.agent_policy[0, 0] = [0, 0, 0]
    assert make_request_batches(buffers, 1, requests[:1]) == []


def test_outputs_go_to_the_step_and_recurrent_states_to_the_one_after() -> None:
    buffers, requests, cells = make_scene()
    traj: Any = buffers.traj_tensors_torch["cpu"]
    names = ("actions", "action_logits", "log_prob_actions", "values")
    before = {name: traj[name].clone() for name in (*names, "rnn_states", "policy_version")}
    (batch,) = make_request_batches(buffers, 0, requests)
    sizes = [traj[name][0, 0].numel() for name in (*names, "rnn_states")]
    columns = [torch.rand(len(cells), size) for size in sizes]
    batch.store(columns, policy_version=7)

    for name, column in zip((*names, "rnn_states"), columns, strict=True):
        for (row, step), values in zip(cells, column, strict=True):
            before[name][row, step + (name == "rnn_states")] = values.reshape(before[name].shape[2:])
    for row, step in cells:
        before["policy_version"][row, step] = 7
    for name, expected in before.items():
        torch.testing.assert_close(traj[name], expected, rtol=0, atol=0, equal_nan=True, msg=name)
