"""Several environments in batched form, stepped one after another as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sample_factory.algo.utils.env_actions import is_mixed_tuple
from sample_factory.algo.utils.env_interfaces import (
    RewardShapingInterface,
    TrainingInfoInterface,
    find_training_info_interface,
    find_wrapper_interface,
)
from sample_factory.algo.utils.env_layer import RESET_INFO_KEY, EnvLayer

if TYPE_CHECKING:
    from sample_factory.algo.utils.make_env import BatchedVecEnv

# Larger observations are written one by one: joining them first would copy them twice.
_MAX_JOINED_BYTES = 1024


class SequentialVectorizeWrapper(TrainingInfoInterface, RewardShapingInterface, EnvLayer):
    """Several batched environments stepped one after another as one with ``n * A`` agents.

    All tensors returned are views of the same memory in every step: copy what you want to keep.
    """

    def __init__(self, envs: Sequence[BatchedVecEnv]):
        EnvLayer.__init__(self, envs[0])
        TrainingInfoInterface.__init__(self)
        self.envs = list(envs)
        self.agents_per_env: int = self.envs[0].num_agents
        assert all(env.num_agents == self.agents_per_env for env in self.envs), "number of agents must be equal"
        self.is_multiagent, self.num_agents = True, self.agents_per_env * len(self.envs)
        self._rows = [slice(i * self.agents_per_env, (i + 1) * self.agents_per_env) for i in range(len(self.envs))]
        self._action_is_list = is_mixed_tuple(self.action_space)
        single_agent_envs = [env.single_agent_env for env in self.envs if env.single_agent_env is not None]
        self._single_agent_envs = single_agent_envs if len(single_agent_envs) == len(self.envs) else []
        self._steps = [env.step for env in self._single_agent_envs]
        self._obs: dict[str, _Slab] | None = None
        self._step_slabs: tuple[_Slab, _Slab, _Slab] | None = None
        self._training_info_interfaces = [find_training_info_interface(env) for env in self.envs]
        self._reward_shaping_interfaces = [find_wrapper_interface(env, RewardShapingInterface) for env in self.envs]

    def reset(self, **kwargs: Any) -> tuple[dict[str, Tensor], Any]:
        infos: list = []
        for env, rows in zip(self.envs, self._rows, strict=True):
            obs, env_infos = env.raw_reset(**kwargs)
            if self._obs is None:
                self._obs = self._allocate_obs(env._convert_obs(obs))
            for key, slab in self._obs.items():
                slab.write_batch(rows, obs[key])
            infos.append(env_infos)
            if "seed" in kwargs:
                kwargs["seed"] += 1
        assert self._obs is not None
        return {key: slab.tensor for key, slab in self._obs.items()}, _join_infos(infos, self.agents_per_env)

    def step(self, action: Any) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor, Any]:
        assert self._obs is not None, "reset() must be called before step()"
        infos = self._step_single_agents(action) if self._single_agent_envs else self._step_batched(action)
        assert self._step_slabs is not None
        rewards, terminated, truncated = self._step_slabs
        obs = {key: slab.tensor for key, slab in self._obs.items()}
        return obs, rewards.tensor, terminated.tensor, truncated.tensor, infos

    def _step_batched(self, action: Any) -> Any:
        assert self._obs is not None
        infos: list = []
        for env, rows in zip(self.envs, self._rows, strict=True):
            env_action = [part[rows] for part in action] if self._action_is_list else action[rows]
            obs, rewards, terminated, truncated, env_infos = env.env.step(env_action)
            if self._step_slabs is None:
                self._step_slabs = self._allocate_step_slabs(rewards)
            for key, slab in self._obs.items():
                slab.write_batch(rows, obs[key])
            for slab, value in zip(self._step_slabs, (rewards, terminated, truncated), strict=True):
                slab.write_batch(rows, value)
            infos.append(env_infos)
        return _join_infos(infos, self.agents_per_env)

    def _step_single_agents(self, action: Any) -> list[dict[str, Any]]:
        """Ordinary environments: each costs its own ``step``, everything else is done once for all of them."""
        assert self._obs is not None
        observations: list[Any] = []
        rewards: list[Any] = []
        terminated: list[Any] = []
        truncated: list[Any] = []
        infos: list[dict[str, Any]] = []
        # One entry per environment; of several arrays in a list, the entries of one environment are a list, too.
        actions = [list(parts) for parts in zip(*action, strict=True)] if self._action_is_list else action
        for env_step, env_action in zip(self._steps, actions, strict=True):
            obs, reward, is_terminated, is_truncated, info = env_step(env_action)
            if is_terminated or is_truncated:
                obs, info[RESET_INFO_KEY] = self._single_agent_envs[len(infos)].reset()
            observations.append(obs)
            rewards.append(reward)
            terminated.append(is_terminated)
            truncated.append(is_truncated)
            infos.append(info)
        if self._step_slabs is None:
            self._step_slabs = self._allocate_step_slabs(rewards)
        for slab, values in zip(self._step_slabs, (rewards, terminated, truncated), strict=True):
            slab.write_all(values)
        wraps_obs = self.envs[0].wraps_obs
        for key, slab in self._obs.items():
            slab.write_all(observations if wraps_obs else [obs[key] for obs in observations])
        return infos

    def close(self) -> None:
        for env in self.envs:
            env.close()

    def set_training_info(self, training_info: dict[str, Any]) -> None:
        self.training_info = training_info
        for interface in self._training_info_interfaces:
            if interface is not None:
                interface.set_training_info(training_info)

    def get_default_reward_shaping(self) -> dict[str, Any] | None:
        interface = self._reward_shaping_interfaces[0]
        return None if interface is None else interface.get_default_reward_shaping()

    def set_reward_shaping(self, reward_shaping: dict[str, Any], agent_idx: int | slice) -> None:
        """:param agent_idx: slice over all ``n * A`` agents."""
        assert isinstance(agent_idx, slice), (
            f"reward shaping of a vectorised environment needs a slice, got {agent_idx}"
        )
        agents_of_env: dict[int, list[int]] = {}
        for idx in range(*agent_idx.indices(self.num_agents)):
            agents_of_env.setdefault(idx // self.agents_per_env, []).append(idx % self.agents_per_env)
        for env_idx, agents in agents_of_env.items():
            interface = self._reward_shaping_interfaces[env_idx]
            if interface is not None:
                step = agents[1] - agents[0] if len(agents) > 1 else 1
                interface.set_reward_shaping(reward_shaping, slice(agents[0], agents[-1] + 1, step))

    def _allocate_obs(self, sample: dict[str, Tensor]) -> dict[str, _Slab]:
        return {
            key: _Slab(self.num_agents, value.shape[1:], value.dtype, value.device) for key, value in sample.items()
        }

    def _allocate_step_slabs(self, rewards: Any) -> tuple[_Slab, _Slab, _Slab]:
        device = rewards.device if isinstance(rewards, Tensor) else torch.device("cpu")
        n = self.num_agents
        return (
            _Slab(n, (), torch.float32, device),
            _Slab(n, (), torch.bool, device),
            _Slab(n, (), torch.bool, device),
        )


def _join_infos(infos: list[Any], agents_per_env: int) -> Any:
    """Infos of several environments as those of one: lists are concatenated, dicts of batches merged key by key.

    In dicts, values per agent are concatenated; other tensors and numbers (means over agents) are averaged.
    """
    if not isinstance(infos[0], dict):
        return [agent_info for env_infos in infos for agent_info in env_infos]
    joined: dict[str, Any] = {}
    for key in infos[0]:
        values = [env_infos[key] for env_infos in infos if key in env_infos]
        if isinstance(values[0], dict):
            joined[key] = _join_infos(values, agents_per_env)
        elif isinstance(values[0], (Tensor, np.ndarray)) and np.ndim(values[0]) > 0:
            tensors = [torch.as_tensor(value) for value in values]
            is_per_agent = len(tensors[0]) == agents_per_env
            joined[key] = torch.cat(tensors) if is_per_agent else torch.stack(tensors).float().mean(0)
        elif isinstance(values[0], (Tensor, np.number, int, float)):
            joined[key] = torch.as_tensor([float(value) for value in values]).mean()
    return joined


class _Slab:
    """Tensor ``[N, *shape]`` written in rows; on the CPU through a NumPy view, which is several times cheaper."""

    def __init__(self, num_rows: int, shape: Sequence[int], dtype: torch.dtype, device: torch.device):
        self.tensor = torch.empty([num_rows, *shape], dtype=dtype, device=device)
        self._array = self.tensor.numpy() if device.type == "cpu" else None
        is_joined = self._array is not None and len(shape) == 1 and self.tensor[0].nbytes <= _MAX_JOINED_BYTES
        self._flat = self._array.reshape(-1) if is_joined and self._array is not None else None

    def write_all(self, values: list) -> None:
        """One value per row; small arrays are joined in a single call."""
        if self._array is None or isinstance(values[0], Tensor):
            for row, value in enumerate(values):
                self.tensor[row] = value
            return
        if self._flat is not None:
            try:
                np.concatenate(values, out=self._flat, casting="unsafe")
                return
            except ValueError:
                # No arrays, or shapes that only fit after broadcasting; wrong ones raise again below.
                self._flat = None
        if self._array.ndim == 1:
            self._array[...] = values
            return
        for row, value in enumerate(values):
            self._array[row] = value

    def write_batch(self, rows: slice, value: Any) -> None:
        if isinstance(value, list) and isinstance(value[0], Tensor):
            value = torch.stack(value)
        if self._array is None or isinstance(value, Tensor):
            self.tensor[rows] = value
        else:
            self._array[rows] = value
