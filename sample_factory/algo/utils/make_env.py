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
from sample_factory.algo.utils.env_interfaces import find_wrapper_interface
from sample_factory.algo.utils.env_layer import (
    OBS_KEY,
    RESET_INFO_KEY,
    EnvLayer,
    get_multiagent_info,
    is_multiagent_env,
)
from sample_factory.algo.utils.sequential_vec_env import SequentialVectorizeWrapper
from sample_factory.algo.utils.vector_env_adapter import VectorEnvAdapter, adapt_vector_env
from sample_factory.utils.dicts import list_of_dicts_to_dict_of_lists
from sample_factory.utils.typing import Config, Env

__all__ = [
    "OBS_KEY",
    "RESET_INFO_KEY",
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


def refuse_vector_env(env: Env) -> None:
    """:raises ValueError: ``env`` is a Gymnasium vector environment, which needs batched sampling."""
    adapter = find_wrapper_interface(env, VectorEnvAdapter)
    if adapter is not None:
        raise ValueError(f"{adapter.env} is a vector environment: it can only be used with --batched_sampling=True")


class NonBatchedVecEnv(EnvLayer):
    """Any environment in the non-batched form described above.

    A multi-agent environment must already speak lists and reset itself.
    """

    def __init__(self, env: Env):
        env = adapt_vector_env(env)
        refuse_vector_env(env)
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
        # What the layers below do to an environment, for callers that do it for many environments at once.
        self.single_agent_env: Env | None = None if is_multiagent_env(env) else env
        self.wraps_obs = not isinstance(env.observation_space, spaces.Dict)
        if self.wraps_obs:
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


def make_env_func_batched(cfg: Config, env_config: Any, render_mode: str | None = None) -> BatchedVecEnv:
    """Create ``cfg.env`` in batched form. :param env_config: see ``create_env``."""
    # lazy: `envs` is the layer above; this module's public path is older than the layers
    from sample_factory.envs.create_env import create_env

    return BatchedVecEnv(create_env(cfg.env, cfg=cfg, env_config=env_config, render_mode=render_mode))


def make_env_func_non_batched(
    cfg: Config,
    env_config: Any,
    render_mode: str | None = None,
    wrap: Callable[[Env], Env] | None = None,
) -> NonBatchedVecEnv:
    """Create ``cfg.env`` in non-batched form.

    :param env_config: see ``create_env``.
    :param wrap: a layer to put around the environment before it gets this form.
    """
    # lazy: see above
    from sample_factory.envs.create_env import create_env

    env = create_env(cfg.env, cfg=cfg, env_config=env_config, render_mode=render_mode)
    return NonBatchedVecEnv(env if wrap is None else wrap(env))
