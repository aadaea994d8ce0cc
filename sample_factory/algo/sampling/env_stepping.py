"""Stepping the ordinary environments of one split, the innermost loop of non-batched sampling.

What an environment costs beyond its own ``step`` is decided here, so the layers that give every environment the same
form (lists over agents, dict observations) are not called one after the other: their work is done once for all
environments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from sample_factory.algo.utils.make_env import OBS_KEY, RESET_INFO_KEY, NonBatchedVecEnv
from sample_factory.utils.typing import Env

# Larger observations are written one by one: joining them first would copy them twice.
_MAX_JOINED_BYTES = 1024


class FinishedEpisode(NamedTuple):
    row: int
    terminated: bool
    truncated: bool
    info: dict[str, Any]


class StepResult(NamedTuple):
    """``rewards`` and ``infos`` have one entry per agent, in the order of rows."""

    rewards: list[Any]
    infos: list[dict[str, Any]]
    finished: list[FinishedEpisode]


class ObsWriter:
    """Writes the observations of all agents into step ``t`` of a block, ``{key: [n, T+1, ...]}``."""

    def __init__(self, columns: dict[str, np.ndarray]):
        self._columns = columns
        self._flat: dict[str, list[np.ndarray] | None] = {key: _flat_steps(array) for key, array in columns.items()}

    def write(self, step: int, obs: Sequence[Any]) -> None:
        """``obs``: one dict per agent. Agents that are not in the game may have none (``None``): zeros then."""
        if any(agent_obs is None for agent_obs in obs):
            for key, column in self._columns.items():
                for row, agent_obs in enumerate(obs):
                    column[row, step] = 0 if agent_obs is None else agent_obs[key]
            return
        for key in self._columns:
            self.write_key(key, step, [agent_obs[key] for agent_obs in obs])

    def write_key(self, key: str, step: int, values: list[Any]) -> None:
        """``values``: one observation per agent."""
        flat = self._flat[key]
        if flat is not None:
            try:
                np.concatenate(values, out=flat[step], casting="unsafe")
                return
            except ValueError:
                # Shapes that only fit after broadcasting, like [1, k] for [k]; wrong ones raise again below.
                self._flat[key] = None
        column = self._columns[key]
        for row, value in enumerate(values):
            column[row, step] = value


def _flat_steps(array: np.ndarray) -> list[np.ndarray] | None:
    """One-dimensional views of every step, if joining the agents' observations into them is worth it."""
    if array.ndim < 3 or array[0, 0].nbytes > _MAX_JOINED_BYTES or array.ndim > 3:
        return None
    steps = [array[:, step] for step in range(array.shape[1])]
    return [step.reshape(-1) for step in steps] if all(step.flags.c_contiguous for step in steps) else None


class SingleAgentEnvs:
    """Environments with one agent each, reset at once when an episode ends."""

    def __init__(self, envs: Sequence[NonBatchedVecEnv]):
        self._envs: list[Env] = [env.single_agent_env for env in envs]
        self._steps = [env.step for env in self._envs]
        self._wraps_obs = [env.wraps_obs for env in envs]

    def step(self, actions: list[Any], writer: ObsWriter, obs_step: int) -> StepResult:
        observations: list[Any] = []
        rewards: list[Any] = []
        infos: list[dict[str, Any]] = []
        finished: list[FinishedEpisode] = []
        for env_step, action in zip(self._steps, actions, strict=True):
            obs, reward, terminated, truncated, info = env_step(action)
            if terminated or truncated:
                row = len(rewards)
                obs, info[RESET_INFO_KEY] = self._envs[row].reset()
                finished.append(FinishedEpisode(row, bool(terminated), bool(truncated), info))
            observations.append(obs)
            rewards.append(reward)
            infos.append(info)
        if all(self._wraps_obs):
            writer.write_key(OBS_KEY, obs_step, observations)
        else:
            writer.write(obs_step, observations)
        return StepResult(rewards, infos, finished)


class MultiAgentEnvs:
    """Environments that speak lists over agents and reset themselves."""

    def __init__(self, envs: Sequence[NonBatchedVecEnv]):
        self._num_agents = envs[0].num_agents
        self._wraps_obs = all(env.wraps_obs for env in envs)
        self._steps = [env.unwrapped_step for env in envs]

    def step(self, actions: list[Any], writer: ObsWriter, obs_step: int) -> StepResult:
        observations: list[Any] = []
        rewards: list[Any] = []
        infos: list[dict[str, Any]] = []
        terminated: list[Any] = []
        truncated: list[Any] = []
        first = 0
        for env_step in self._steps:
            obs, env_rewards, env_terminated, env_truncated, env_infos = env_step(
                actions[first : first + self._num_agents]
            )
            first += self._num_agents
            observations += obs
            rewards += env_rewards
            terminated += env_terminated
            truncated += env_truncated
            infos += env_infos
        if self._wraps_obs and not any(agent_obs is None for agent_obs in observations):
            writer.write_key(OBS_KEY, obs_step, observations)
        elif self._wraps_obs:
            writer.write(obs_step, [None if o is None else {OBS_KEY: o} for o in observations])
        else:
            writer.write(obs_step, observations)
        return StepResult(rewards, infos, _finished(terminated, truncated, infos))


def _finished(terminated: list[Any], truncated: list[Any], infos: list[dict[str, Any]]) -> list[FinishedEpisode]:
    if not (any(terminated) or any(truncated)):
        return []
    flags = enumerate(zip(terminated, truncated, strict=True))
    return [FinishedEpisode(row, bool(te), bool(tr), infos[row]) for row, (te, tr) in flags if te or tr]


def make_split_envs(envs: Sequence[NonBatchedVecEnv]) -> SingleAgentEnvs | MultiAgentEnvs:
    if all(env.single_agent_env is not None for env in envs):
        return SingleAgentEnvs(envs)
    return MultiAgentEnvs(envs)
