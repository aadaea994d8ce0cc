"""The environment as samplers see it: lists per agent (non-batched) or tensors over agents (batched).

Non-batched: ``reset -> (list of obs dicts, list of infos)`` and ``step(list of actions) -> five lists`` with one entry
per agent. Batched: ``reset -> (dict of tensors [A, ...], infos)`` and ``step(actions) -> (dict of tensors, rewards [A],
terminated [A], truncated [A], infos)``.

In both, finished episodes are reset at once, observations are dicts (a plain observation becomes ``{"obs": o}``) and
the observation space is a Dict.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from sample_factory.algo.utils.env_actions import is_mixed_tuple
from sample_factory.algo.utils.env_interfaces import (
    RewardShapingInterface,
    TrainingInfoInterface,
    find_training_info_interface,
    find_wrapper_interface,
)
from sample_factory.algo.utils.env_layer import EnvLayer, get_multiagent_info, is_multiagent_env
from sample_factory.algo.utils.vector_env_adapter import VectorEnvAdapter, adapt_vector_env
from sample_factory.utils.dicts import list_of_dicts_to_dict_of_lists
from sample_factory.utils.typing import Config, Env

__all__ = [
    "BatchedDictObservationsWrapper",
    "BatchedListToDictWrapper",
    "BatchedMultiAgentWrapper",
    "BatchedVecEnv",
    "NonBatchedDictObservationsWrapper",
    "NonBatchedMultiAgentWrapper",
    "NonBatchedVecEnv",
    "SequentialVectorizeWrapper",
    "get_multiagent_info",
    "is_multiagent_env",
    "make_env_func_batched",
    "make_env_func_non_batched",
]

OBS_KEY = "obs"
RESET_INFO_KEY = "reset_info"


def _dict_obs_space(space: gym.Space) -> spaces.Dict:
    return space if isinstance(space, spaces.Dict) else spaces.Dict({OBS_KEY: space})


class NonBatchedMultiAgentWrapper(EnvLayer):
    """Single-agent environment as a multi-agent one: lists of length 1, reset at once when an episode ends."""

    def __init__(self, env: Env):
        super().__init__(env)
        self.is_multiagent, self.num_agents = True, 1

    def reset(self, **kwargs: Any) -> tuple[list, list]:
        obs, info = self.env.reset(**kwargs)
        return [obs], [info]

    def step(self, action: Sequence[Any]) -> tuple[list, list, list, list, list]:
        obs, reward, terminated, truncated, info = self.env.step(action[0])
        if terminated or truncated:
            obs, info[RESET_INFO_KEY] = self.env.reset()
        return [obs], [reward], [terminated], [truncated], [info]


class NonBatchedDictObservationsWrapper(EnvLayer):
    """Lists of plain observations become lists of ``{"obs": o}``."""

    def __init__(self, env: Env):
        super().__init__(env)
        self.observation_space = _dict_obs_space(env.observation_space)

    def reset(self, **kwargs: Any) -> tuple[list[dict], Any]:
        obs, infos = self.env.reset(**kwargs)
        return [{OBS_KEY: o} for o in obs], infos

    def step(self, action: Any) -> tuple[list[dict], Any, Any, Any, Any]:
        obs, rewards, terminated, truncated, infos = self.env.step(action)
        return [{OBS_KEY: o} for o in obs], rewards, terminated, truncated, infos


class NonBatchedVecEnv(EnvLayer):
    """Any environment in the non-batched form described above.

    A multi-agent environment must already speak lists and reset itself.
    """

    def __init__(self, env: Env):
        env = adapt_vector_env(env)
        if find_wrapper_interface(env, VectorEnvAdapter) is not None:
            raise ValueError(f"{env} is a vector environment: it can only be used with --batched_sampling=True")
        # What the layers below do to an environment, for callers that do it for many environments at once.
        self.single_agent_env: Env | None = None if is_multiagent_env(env) else env
        self.wraps_obs = not isinstance(env.observation_space, spaces.Dict)
        if self.single_agent_env is not None:
            env = NonBatchedMultiAgentWrapper(env)
        self.unwrapped_step: Callable[[Any], Any] = env.step
        if self.wraps_obs:
            env = NonBatchedDictObservationsWrapper(env)
        super().__init__(env)
        self.step = env.step  # type: ignore[method-assign]  # called for every sample: one call less


class BatchedDictObservationsWrapper(EnvLayer):
    """Plain observations (of one agent, or a list or array over agents) become ``{"obs": o}``."""

    def __init__(self, env: Env):
        super().__init__(env)
        self.observation_space = _dict_obs_space(env.observation_space)

    def reset(self, **kwargs: Any) -> tuple[dict, Any]:
        obs, infos = self.env.reset(**kwargs)
        return {OBS_KEY: obs}, infos

    def step(self, action: Any) -> tuple[dict, Any, Any, Any, Any]:
        obs, rewards, terminated, truncated, infos = self.env.step(action)
        return {OBS_KEY: obs}, rewards, terminated, truncated, infos


class BatchedMultiAgentWrapper(EnvLayer):
    """Single-agent environment with dict observations in batched form: a batch of one, reset at once."""

    def __init__(self, env: Env):
        super().__init__(env)
        self.is_multiagent, self.num_agents = True, 1
        self._action_is_list = is_mixed_tuple(env.action_space)

    def reset(self, **kwargs: Any) -> tuple[dict[str, list], list]:
        obs, info = self.env.reset(**kwargs)
        return {key: [value] for key, value in obs.items()}, [info]

    def step(self, action: Any) -> tuple[dict[str, list], list, list, list, list]:
        agent_action = [part[0] for part in action] if self._action_is_list else action[0]
        obs, reward, terminated, truncated, info = self.env.step(agent_action)
        if terminated or truncated:
            obs, info[RESET_INFO_KEY] = self.env.reset()
        return {key: [value] for key, value in obs.items()}, [reward], [terminated], [truncated], [info]


class BatchedListToDictWrapper(EnvLayer):
    """Multi-agent observations given as a list of dicts become a dict of lists; anything else is left alone."""

    def reset(self, **kwargs: Any) -> tuple[Any, Any]:
        obs, infos = self.env.reset(**kwargs)
        return _dict_of_batches(obs), infos

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        obs, rewards, terminated, truncated, infos = self.env.step(action)
        return _dict_of_batches(obs), rewards, terminated, truncated, infos


def _dict_of_batches(obs: Any) -> Any:
    return list_of_dicts_to_dict_of_lists(obs) if isinstance(obs, (list, tuple)) else obs


Converter = Callable[[Any], Tensor]


def make_tensor_converter(sample: Any, dtype: np.dtype | None) -> Converter:
    """How values like ``sample`` (a batch over agents) become tensors.

    :param dtype: of the result if the value is a list of scalars, whose own type may differ from step to step.
    :raises RuntimeError: neither tensor, array, list nor tuple.
    """
    if isinstance(sample, Tensor):
        return lambda x: x
    if isinstance(sample, np.ndarray):
        return torch.from_numpy
    if isinstance(sample, (list, tuple)):
        if len(sample) > 0 and isinstance(sample[0], Tensor):
            return torch.stack  # type: ignore[return-value]
        if len(sample) > 0 and isinstance(sample[0], (np.ndarray, list, tuple)):
            return lambda x: torch.from_numpy(np.array(x))
        return lambda x: torch.from_numpy(np.array(x, dtype=dtype))
    raise RuntimeError(f"Cannot convert {type(sample)} to a tensor: return a list, tuple, NumPy array or torch tensor")


class BatchedVecEnv(EnvLayer):
    """Any environment in the batched form described above; values become torch tensors.

    How is decided per observation key on the first ``reset``, and for rewards and flags on the first ``step``. Arrays
    and tensors of the environment are not copied.
    """

    def __init__(self, env: Env):
        env = adapt_vector_env(env)
        if not isinstance(env.observation_space, spaces.Dict):
            env = BatchedDictObservationsWrapper(env)
        env = BatchedListToDictWrapper(env) if is_multiagent_env(env) else BatchedMultiAgentWrapper(env)
        super().__init__(env)
        self._seed: int | None = None
        self._obs_converters: dict[str, Converter] | None = None
        self._step_converters: tuple[Converter, Converter, Converter] | None = None

    def seed(self, seed: int | None = None) -> None:
        """Seed of the next ``reset``, and of that one only."""
        self._seed = seed

    def reset(self, **kwargs: Any) -> tuple[dict[str, Tensor], Any]:
        obs, infos = self.raw_reset(**kwargs)
        return self._convert_obs(obs), infos

    def step(self, action: Any) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor, Any]:
        obs, rewards, terminated, truncated, infos = self.env.step(action)
        if self._step_converters is None:
            self._step_converters = (
                make_tensor_converter(rewards, np.dtype(np.float32)),
                make_tensor_converter(terminated, np.dtype(bool)),
                make_tensor_converter(truncated, np.dtype(bool)),
            )
        to_rewards, to_terminated, to_truncated = self._step_converters
        return self._convert_obs(obs), to_rewards(rewards), to_terminated(terminated), to_truncated(truncated), infos

    def raw_reset(self, **kwargs: Any) -> tuple[dict[str, Any], Any]:
        """``reset`` before conversion to tensors, with the remembered seed."""
        if self._seed is not None:
            kwargs.setdefault("seed", self._seed)
            self._seed = None
        return self.env.reset(**kwargs)

    def _convert_obs(self, obs: dict[str, Any]) -> dict[str, Tensor]:
        if self._obs_converters is None:
            declared = self.observation_space.spaces
            self._obs_converters = {
                key: make_tensor_converter(value, declared[key].dtype if key in declared else None)
                for key, value in obs.items()
            }
        converters = self._obs_converters
        return {key: converters[key](value) for key, value in obs.items()}


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
        self._are_single_agent = all(isinstance(env.env, BatchedMultiAgentWrapper) for env in self.envs)
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
        infos: list = []
        write = _Slab.write_single if self._are_single_agent else _Slab.write_batch
        for env, rows in zip(self.envs, self._rows, strict=True):
            env_action = [part[rows] for part in action] if self._action_is_list else action[rows]
            obs, rewards, terminated, truncated, env_infos = env.env.step(env_action)
            if self._step_slabs is None:
                self._step_slabs = self._allocate_step_slabs(rewards)
            reward_slab, terminated_slab, truncated_slab = self._step_slabs
            for key, slab in self._obs.items():
                write(slab, rows, obs[key])
            write(reward_slab, rows, rewards)
            write(terminated_slab, rows, terminated)
            write(truncated_slab, rows, truncated)
            infos.append(env_infos)
        assert self._step_slabs is not None
        reward_slab, terminated_slab, truncated_slab = self._step_slabs
        obs_tensors = {key: slab.tensor for key, slab in self._obs.items()}
        joined_infos = _join_infos(infos, self.agents_per_env)
        return obs_tensors, reward_slab.tensor, terminated_slab.tensor, truncated_slab.tensor, joined_infos

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

    def write_single(self, rows: slice, values: list) -> None:
        """A list with one element: a row or scalar write costs a fraction of a slice write."""
        if self._array is None or isinstance(values[0], Tensor):
            self.tensor[rows.start] = values[0]
        else:
            self._array[rows.start] = values[0]

    def write_batch(self, rows: slice, value: Any) -> None:
        if isinstance(value, list) and isinstance(value[0], Tensor):
            value = torch.stack(value)
        if self._array is None or isinstance(value, Tensor):
            self.tensor[rows] = value
        else:
            self._array[rows] = value


def make_env_func_batched(cfg: Config, env_config: Any, render_mode: str | None = None) -> BatchedVecEnv:
    """Create ``cfg.env`` in batched form. :param env_config: see ``create_env``."""
    # lazy: `envs` is the layer above; this module's public path is older than the layers
    from sample_factory.envs.create_env import create_env

    return BatchedVecEnv(create_env(cfg.env, cfg=cfg, env_config=env_config, render_mode=render_mode))


def make_env_func_non_batched(cfg: Config, env_config: Any, render_mode: str | None = None) -> NonBatchedVecEnv:
    """Create ``cfg.env`` in non-batched form. :param env_config: see ``create_env``."""
    # lazy: see above
    from sample_factory.envs.create_env import create_env

    return NonBatchedVecEnv(create_env(cfg.env, cfg=cfg, env_config=env_config, render_mode=render_mode))
