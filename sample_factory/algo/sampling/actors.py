"""Answering policy requests: from trajectory rows to model inputs, and from outputs back to the rows.

An actor serves all requests that are ready with as few forward passes as possible. :class:`TorchActor` works for every
model and device; :class:`NumpyActor` for the models that :mod:`numpy_policy` knows, on CPU trajectories.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from sample_factory.algo.sampling.captured_policy import RNN_STATES, CapturedPolicy
from sample_factory.algo.sampling.numpy_policy import NumpyPolicy, PolicyOutputs, compile_policy, needs_action_mask
from sample_factory.algo.sampling.request_batching import act, make_request_batches, rows_of_request
from sample_factory.algo.utils.action_distributions import calc_num_action_parameters, calc_num_actions
from sample_factory.algo.utils.model_sharing import ParameterClient
from sample_factory.algo.utils.policy_channel import PolicyRequest
from sample_factory.algo.utils.seeding import component_rng
from sample_factory.algo.utils.shared_buffers import BufferMgr
from sample_factory.algo.utils.tensor_dict import TensorDict
from sample_factory.algo.utils.torch_utils import inference_context
from sample_factory.model.capturable import may_capture
from sample_factory.utils.typing import Config, PolicyID


class Actor(Protocol):
    def refresh(self) -> None:
        """The weights of the parameter client have changed."""
        ...

    def serve(self, requests: Sequence[PolicyRequest]) -> int:
        """Write actions and everything learned from later into the rows; returns the number of samples."""
        ...


class TorchActor:
    def __init__(
        self,
        buffer_mgr: BufferMgr,
        policy_id: PolicyID,
        param_client: ParameterClient,
        device: torch.device,
        deterministic: bool,
    ):
        self._buffer_mgr, self._policy_id, self._param_client = buffer_mgr, policy_id, param_client
        self._device, self._deterministic = device, deterministic
        # Other processes read trajectories on a GPU when they are told; everything has to be written by then.
        tells_others = not (buffer_mgr.cfg.serial_mode or buffer_mgr.topology.inference_in_rollout_workers)
        self._has_to_wait = tells_others and any(block.device != "cpu" for block in buffer_mgr.blocks)
        self._captured: CapturedPolicy | None = None
        self._widths: list[int] = []
        self._addresses: list[int] = []
        if may_capture(buffer_mgr.cfg, param_client.actor_critic, device):
            self._captured = CapturedPolicy(self._packed_outputs, device)

    def refresh(self) -> None:
        if self._captured is not None:
            addresses = [tensor.data_ptr() for tensor in self._param_client.actor_critic.parameters()]
            if addresses != self._addresses:
                self._captured.forget()
                self._addresses = addresses

    def serve(self, requests: Sequence[PolicyRequest]) -> int:
        num_samples = 0
        with inference_context(self._buffer_mgr.cfg.serial_mode):
            for batch in make_request_batches(self._buffer_mgr, self._policy_id, requests):
                batch.store(self._act(*batch.inputs()), self._param_client.policy_version)
                num_samples += batch.num_samples
        if self._has_to_wait:
            torch.cuda.current_stream(self._device).synchronize()
        return num_samples

    def _act(self, obs: TensorDict, rnn_states: Tensor) -> list[Tensor]:
        if self._captured is not None:
            packed = self._captured.run(TensorDict({**obs, RNN_STATES: rnn_states}))
            if packed is not None:
                return list(packed.split(self._widths, dim=1))
        return act(self._param_client.actor_critic, obs, rnn_states, self._device, self._deterministic)

    def _packed_outputs(self, inputs: TensorDict) -> Tensor:
        rnn_states = inputs.pop(RNN_STATES)
        columns = act(self._param_client.actor_critic, inputs, rnn_states, self._device, self._deterministic)
        self._widths = [column.shape[1] for column in columns]
        return torch.cat(columns, dim=1)


class _StepViews:
    """The arrays of one block at one step: contiguous, and the same objects every time the block is filled."""

    def __init__(self, block: dict[str, Any], step: int):
        self.obs: dict[str, np.ndarray] = {key: array[:, step] for key, array in block["obs"].items()}
        self.outputs = PolicyOutputs(*(block[name][:, step] for name in PolicyOutputs._fields))
        self.policy_version: np.ndarray = block["policy_version"][:, step]
        self.rnn_states: np.ndarray = block["rnn_states"][:, step]
        self.next_rnn_states: np.ndarray = block["rnn_states"][:, step + 1]


class NumpyActor:
    def __init__(self, buffer_mgr: BufferMgr, policy_id: PolicyID, param_client: ParameterClient, policy: NumpyPolicy):
        self._buffer_mgr, self._policy_id, self._param_client = buffer_mgr, policy_id, param_client
        self._policy = policy
        self._views: dict[tuple[int, int], _StepViews] = {}
        action_space = buffer_mgr.env_info.action_space
        self._sizes = calc_num_actions(action_space), calc_num_action_parameters(action_space)

    def refresh(self) -> None:
        self._policy.refresh()

    def serve(self, requests: Sequence[PolicyRequest]) -> int:
        if len(requests) == 1 and not requests[0].partial:
            views = self._step_views(requests[0])
            self._policy.act(views.obs, views.rnn_states, views.outputs, views.next_rnn_states)
            views.policy_version[...] = self._param_client.policy_version
            return len(views.policy_version)
        return self._serve_together(requests)

    def _step_views(self, request: PolicyRequest) -> _StepViews:
        key = (request.block_idx, request.rollout_step)
        views = self._views.get(key)
        if views is None:
            block = self._buffer_mgr.block_view(self._buffer_mgr.blocks[request.block_idx])
            views = self._views[key] = _StepViews(block, request.rollout_step)
        return views

    def _serve_together(self, requests: Sequence[PolicyRequest]) -> int:
        """One forward pass for rows of several blocks, or for some rows of a block."""
        parts = [(self._step_views(r), rows_of_request(self._buffer_mgr, self._policy_id, r)) for r in requests]
        parts = [(views, rows) for views, rows in parts if not isinstance(rows, np.ndarray) or len(rows)]
        if not parts:
            return 0
        obs = {key: np.concatenate([views.obs[key][rows] for views, rows in parts]) for key in parts[0][0].obs}
        n = len(next(iter(obs.values())))
        num_actions, num_parameters = self._sizes
        outputs = PolicyOutputs(
            np.empty((n, num_actions), np.float32),
            np.empty((n, num_parameters), np.float32),
            np.empty(n, np.float32),
            np.empty(n, np.float32),
        )
        rnn_states = np.concatenate([views.rnn_states[rows] for views, rows in parts])
        next_rnn_states = np.empty_like(rnn_states)
        self._policy.act(obs, rnn_states, outputs, next_rnn_states)
        start = 0
        for views, rows in parts:
            stop = start + len(views.policy_version[rows])
            for target, values in zip(views.outputs, outputs, strict=True):
                target[rows] = values[start:stop]
            views.policy_version[rows] = self._param_client.policy_version
            if self._policy.is_recurrent:
                views.next_rnn_states[rows] = next_rnn_states[start:stop]
            start = stop
        return n


def make_actor(
    cfg: Config,
    buffer_mgr: BufferMgr,
    policy_id: PolicyID,
    worker_idx: int,
    param_client: ParameterClient,
    device: torch.device,
    num_restarts: int = 0,
) -> Actor:
    """The fastest actor that can serve this model. ``cfg.eval_deterministic``: the most likely actions (evaluation)."""
    deterministic = bool(getattr(cfg, "eval_deterministic", False))
    on_cpu = device.type == "cpu" and all(block.device == "cpu" for block in buffer_mgr.blocks)
    if on_cpu and not needs_action_mask(buffer_mgr.env_info.obs_space):
        rng = component_rng(cfg, "actions", policy_id, worker_idx, *filter(None, [num_restarts]))
        policy = compile_policy(param_client.actor_critic, rng, deterministic)
        if policy is not None:
            return NumpyActor(buffer_mgr, policy_id, param_client, policy)
    return TorchActor(buffer_mgr, policy_id, param_client, device, deterministic)
