"""Recording what a vectorised environment returned into one step of a trajectory block, and its finished episodes.

Two recorders with the same results: :class:`HostRecorder` for blocks in CPU memory works on NumPy arrays, where a call
costs a fraction of what torch takes; :class:`TorchRecorder` works on any device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from sample_factory.algo.sampling.batched_stats import episode_infos
from sample_factory.algo.sampling.env_faults import check_column, check_rewards, is_finite
from sample_factory.utils.typing import Device

# What `step` of a batched environment returns: observations, rewards [N], terminated [N], truncated [N], infos.
BatchedStep = tuple[dict[str, Tensor], Tensor, Tensor, Tensor, Any]
# In the place of infos: all episodes were cut off because the environment had to be replaced or reset.
CUT_OFF = object()


@dataclass(frozen=True)
class RecordingSettings:
    """``frames_per_step``: what a step adds to the length of an episode."""

    num_agents: int
    reward_scale: float
    reward_clip: float
    frames_per_step: int


class StepColumns:
    """Where the results of one step go: views ``[N, ...]`` of a block, the same objects every time it is filled."""

    def __init__(self, block: dict[str, Any], step: int):
        self.actions = block["actions"][:, step]
        self.rewards, self.dones = block["rewards"][:, step], block["dones"][:, step]
        self.time_outs = block["time_outs"][:, step]
        self.next_obs = {key: values[:, step + 1] for key, values in block["obs"].items()}
        self.next_rnn_states = block["rnn_states"][:, step + 1]


class Recorder(Protocol):
    def record(self, columns: StepColumns, result: BatchedStep) -> dict[str, Any] | None:
        """Store what ``step`` of the batched environment returned. Returns statistics of the episodes that ended
        (``reward``, ``len``, ... with one value each, and what the infos add), ``None`` if none did.

        :raises BadObservationError: a number is not finite; the step was not counted and can be recorded again.
        """
        ...


def make_recorder(device: Device, settings: RecordingSettings) -> Recorder:
    return HostRecorder(settings) if device == "cpu" else TorchRecorder(settings, device)


def host_array(value: Tensor) -> np.ndarray:
    """The array of a tensor, without a copy where it is in CPU memory already."""
    try:
        return value.numpy()
    except (TypeError, RuntimeError):  # on a device, part of a graph, or of a type that NumPy does not have
        value = value.detach().cpu()
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy()


def _are_finite(obs: dict[str, Tensor], rewards: Tensor) -> Tensor:
    """Whether all numbers are, ``[1]`` on the device."""
    floats = [rewards, *(value for value in obs.values() if value.is_floating_point())]
    return torch.stack([value.isfinite().all() for value in floats]).all().reshape(1)


def _check_on_host(obs: dict[str, Tensor], rewards: Tensor) -> None:
    """:raises BadObservationError: a number is not finite."""
    for key, value in obs.items():
        if value.is_floating_point():
            check_column(key, host_array(value))
    check_rewards(host_array(rewards))


def with_finite_numbers(result: BatchedStep) -> BatchedStep:
    """The same with zeros in the place of numbers that are not finite."""
    obs, rewards, *rest = result
    zeroed = {k: v.nan_to_num(0.0, 0.0, 0.0) if v.is_floating_point() else v for k, v in obs.items()}
    return zeroed, rewards.nan_to_num(0.0, 0.0, 0.0), *rest  # type: ignore[return-value]


class HostRecorder:
    def __init__(self, settings: RecordingSettings):
        n = settings.num_agents
        self._scale, self._frames_per_step = settings.reward_scale, settings.frames_per_step
        # Arrays: NumPy converts a Python number in every call.
        self._min_reward, self._max_reward = np.float32(-settings.reward_clip), np.float32(settings.reward_clip)
        self._buffer = np.empty(n, np.float32)
        self._num_steps = 0
        self._first_step = np.zeros(n, np.int64)
        self._episode_reward = np.zeros(n, np.float32)
        self._lowest = np.full(n, np.inf, np.float32)
        self._highest = np.full(n, -np.inf, np.float32)

    def record(self, columns: StepColumns, result: BatchedStep) -> dict[str, Any] | None:
        obs, rewards_tensor, terminated_tensor, truncated_tensor, infos = result
        for key, column in columns.next_obs.items():
            column[...] = host_array(obs[key])
            if column.dtype.kind == "f" and not (column.flags.c_contiguous and is_finite(column.reshape(-1))):
                check_column(key, column)
        rewards, truncated = host_array(rewards_tensor), host_array(truncated_tensor)
        check_rewards(rewards)
        dones = np.logical_or(host_array(terminated_tensor), truncated, out=columns.dones)
        columns.time_outs[...] = truncated
        self._record_rewards(columns.rewards, rewards)
        self._num_steps += 1
        if not np.count_nonzero(dones):
            return None
        finished = np.flatnonzero(dones)
        columns.next_rnn_states[finished] = 0.0
        stats = self._finish_episodes(finished, infos)
        return None if infos is CUT_OFF else stats

    def _record_rewards(self, column: np.ndarray, rewards: np.ndarray) -> None:
        np.add(self._episode_reward, rewards, out=self._episode_reward, casting="same_kind")
        np.minimum(self._lowest, rewards, out=self._lowest, casting="same_kind")
        np.maximum(self._highest, rewards, out=self._highest, casting="same_kind")
        if self._scale != 1.0:
            rewards = np.multiply(rewards, self._scale, out=self._buffer, casting="same_kind")
        np.minimum(rewards, self._max_reward, out=self._buffer, casting="same_kind")
        np.maximum(self._buffer, self._min_reward, out=column)

    def _finish_episodes(self, finished: np.ndarray, infos: Any) -> dict[str, Any]:
        stats: dict[str, Any] = {
            "reward": self._episode_reward[finished],
            "len": ((self._num_steps - self._first_step[finished]) * self._frames_per_step).astype(np.int32),
            "min_raw_reward": self._lowest[finished],
            "max_raw_reward": self._highest[finished],
        }
        self._first_step[finished] = self._num_steps
        self._episode_reward[finished] = 0.0
        self._lowest[finished], self._highest[finished] = np.inf, -np.inf
        return stats | episode_infos(infos, finished, stats["reward"], len(self._first_step))


class TorchRecorder:
    """The host waits for the device once per step: when it reads everything that it has to know at once."""

    def __init__(self, settings: RecordingSettings, device: Device):
        n = settings.num_agents
        self._scale, self._clip = settings.reward_scale, settings.reward_clip
        self._frames_per_step = settings.frames_per_step
        # Of episodes that begin: reward, length (exact up to 16 million frames), lowest and highest reward.
        self._start = torch.tensor([[0.0], [0.0], [torch.inf], [-torch.inf]], device=device)  # [4, 1]
        self._accounts = self._start.repeat(1, n)  # [4, N]

    def record(self, columns: StepColumns, result: BatchedStep) -> dict[str, Any] | None:
        obs, rewards, terminated, truncated, infos = result
        for key, column in columns.next_obs.items():
            column[...] = obs[key]
        dones = torch.logical_or(terminated, truncated)
        columns.rewards[...] = (rewards * self._scale).clamp_(-self._clip, self._clip)
        columns.dones[...] = dones
        columns.time_outs[...] = truncated
        columns.next_rnn_states *= (~dones).unsqueeze(-1)
        accounts = self._with(rewards.float())
        packed = torch.cat([accounts.view(-1), dones.float(), _are_finite(obs, rewards).float()]).cpu().numpy()
        if not packed[-1]:
            _check_on_host(obs, rewards)
        self._accounts = torch.where(dones, self._start, accounts)
        num_agents = len(dones)
        finished = np.flatnonzero(packed[4 * num_agents : 5 * num_agents])
        if not len(finished):
            return None
        stats = self._stats(packed[: 4 * num_agents].reshape(4, num_agents)[:, finished], finished, infos, num_agents)
        return None if infos is CUT_OFF else stats

    def _with(self, rewards: Tensor) -> Tensor:
        """The accounts after another step."""
        reward, length, lowest, highest = self._accounts
        return torch.stack(
            [
                reward + rewards,
                length + self._frames_per_step,
                torch.minimum(lowest, rewards),
                torch.maximum(highest, rewards),
            ]
        )

    def _stats(self, accounts: np.ndarray, finished: np.ndarray, infos: Any, num_agents: int) -> dict[str, Any]:
        reward, length, lowest, highest = accounts
        stats: dict[str, Any] = {
            "reward": reward,
            "len": length.astype(np.int32),
            "min_raw_reward": lowest,
            "max_raw_reward": highest,
        }
        return stats | episode_infos(infos, finished, stats["reward"], num_agents)
