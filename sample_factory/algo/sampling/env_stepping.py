"""Stepping the ordinary environments of one split, the innermost loop of non-batched sampling.

What an environment costs beyond its own ``step`` is decided here, so the layers that give every environment the same
form (lists over agents, dict observations) are not called one after the other: their work is done once for all
environments.

An environment that raises is replaced in place, see :mod:`env_faults`: its agents' episodes are cut off here, with no
reward for the step that failed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from sample_factory.algo.sampling.env_faults import BadObservationError, EnvFaults, check_rewards, single_number
from sample_factory.algo.sampling.obs_writer import ObsWriter
from sample_factory.algo.utils.life_signs import ENV, PHASE, RUNNING, STARTING, STEPS
from sample_factory.algo.utils.make_env import OBS_KEY, RESET_INFO_KEY, NonBatchedVecEnv
from sample_factory.utils.typing import Env

# Key in the info of episodes that were cut off because their environment had to be replaced or reset.
FAULT_KEY = "env_fault"


class FinishedEpisode(NamedTuple):
    row: int
    terminated: bool
    truncated: bool
    info: dict[str, Any]


class StepResult(NamedTuple):
    """``infos`` has one entry per agent, in the order of rows."""

    infos: list[dict[str, Any]]
    finished: list[FinishedEpisode]


class EnvRepair(NamedTuple):
    """How to go on with environment ``env_i``: both return one dict observation per agent."""

    rebuild: Callable[[int], list[dict[str, Any]]]
    reset: Callable[[int], list[dict[str, Any]]]


class SplitEnvs:
    """What environments with one and with many agents have in common."""

    def __init__(
        self, envs: Sequence[NonBatchedVecEnv], faults: EnvFaults, repair: EnvRepair, life_signs: memoryview
    ) -> None:
        self._envs = envs  # the list of the owner: replaced environments appear in it
        self._num_agents = envs[0].num_agents
        self._faults, self._repair, self._life_signs = faults, repair, life_signs
        self._wraps_obs = all(env.wraps_obs for env in envs)
        self._num_steps = 0

    def attach(self, env_i: int) -> None:
        """Environment ``env_i`` is another object now."""
        raise NotImplementedError

    def step(self, actions: list[Any], writer: ObsWriter, obs_step: int, rewards_out: np.ndarray) -> StepResult:
        """One step of all environments; observations go to ``obs_step`` of the block, raw rewards to ``rewards_out``
        (``[n]`` float64).
        """
        self._num_steps += 1
        self._life_signs[STEPS] = self._num_steps
        observations: list[Any] = []
        rewards: list[Any] = []
        infos: list[dict[str, Any]] = []
        finished: list[FinishedEpisode] = []
        self._step_all(actions, observations, rewards, infos, finished)
        try:
            rewards_out[...] = rewards
        except (ValueError, TypeError):
            rewards_out[...] = [single_number(reward, row) for row, reward in enumerate(rewards)]
        while True:
            try:
                if not math.isfinite(rewards_out.dot(rewards_out)):  # saves a call in the usual case
                    check_rewards(rewards_out)
                self._write(writer, obs_step, observations)
                return StepResult(infos, finished)
            except BadObservationError as error:
                self._treat(error, observations, rewards_out, infos, finished, writer)

    def _step_all(
        self,
        actions: list[Any],
        observations: list[Any],
        rewards: list[Any],
        infos: list[dict[str, Any]],
        finished: list[FinishedEpisode],
    ) -> None:
        raise NotImplementedError

    def _write(self, writer: ObsWriter, obs_step: int, observations: list[Any]) -> None:
        if self._wraps_obs:
            writer.write_key(OBS_KEY, obs_step, observations)
        else:
            writer.write(obs_step, observations)

    def _unwrapped(self, observations: list[dict[str, Any]]) -> list[Any]:
        return [obs[OBS_KEY] for obs in observations] if self._wraps_obs else observations

    def _replaced(self, env_i: int) -> list[Any]:
        """Inside an ``except`` block: build the environment anew until it works, or its budget is used up."""
        self._faults.on_exception(env_i, self._num_steps)
        self._life_signs[PHASE] = STARTING  # creating one may take longer than a step
        while True:
            try:
                observations = self._repair.rebuild(env_i)
                self.attach(env_i)
                self._life_signs[PHASE] = RUNNING
                return self._unwrapped(observations)
            except Exception:
                self._faults.on_exception(env_i, self._num_steps)

    def _reset(self, env_i: int) -> list[Any]:
        try:
            return self._unwrapped(self._repair.reset(env_i))
        except Exception:
            return self._replaced(env_i)

    def _treat(
        self,
        error: BadObservationError,
        observations: list[Any],
        rewards_out: np.ndarray,
        infos: list[dict[str, Any]],
        finished: list[FinishedEpisode],
        writer: ObsWriter,
    ) -> None:
        """Put something good in the place of a bad value, as ``--bad_obs`` says."""
        env_i = error.row // self._num_agents
        self._faults.on_bad_observation(env_i, self._num_steps, error)
        if error.key is None:
            rewards_out[error.row] = 0.0
        if self._faults.policy == "zero":
            observations[error.row] = writer.zeros_instead(observations[error.row], error.key, self._wraps_obs)
            return
        rows = range(env_i * self._num_agents, (env_i + 1) * self._num_agents)
        observations[rows.start : rows.stop] = self._reset(env_i)
        ended = {episode.row for episode in finished}
        for row in rows:
            infos[row] = {FAULT_KEY: True}
            if row not in ended:
                finished.append(FinishedEpisode(row, False, True, infos[row]))


class SingleAgentEnvs(SplitEnvs):
    """Environments with one agent each, reset at once when an episode ends."""

    def __init__(self, envs: Sequence[NonBatchedVecEnv], *args: Any):
        super().__init__(envs, *args)
        self._inner: list[Env] = [env.single_agent_env for env in envs]
        self._steps = [env.step for env in self._inner]
        self._rows = range(len(self._inner))

    def attach(self, env_i: int) -> None:
        self._inner[env_i] = self._envs[env_i].single_agent_env
        self._steps[env_i] = self._inner[env_i].step

    def _step_all(
        self,
        actions: list[Any],
        observations: list[Any],
        rewards: list[Any],
        infos: list[dict[str, Any]],
        finished: list[FinishedEpisode],
    ) -> None:
        life_signs = self._life_signs
        rest: Iterable[tuple[int, Callable[..., Any], Any]] = zip(self._rows, self._steps, actions, strict=True)
        while True:
            try:
                # The loop itself writes the number of the environment: that costs half as much as a statement.
                for life_signs[ENV], env_step, action in rest:
                    obs, reward, terminated, truncated, info = env_step(action)
                    if terminated or truncated:
                        row = len(rewards)
                        obs, info[RESET_INFO_KEY] = self._inner[row].reset()
                        finished.append(FinishedEpisode(row, bool(terminated), bool(truncated), info))
                    observations.append(obs)
                    infos.append(info)
                    rewards.append(reward)
                return
            except Exception:
                # The iterator goes on behind the environment that raised.
                row = len(rewards)
                observations += self._replaced(row)
                infos.append({FAULT_KEY: True})
                rewards.append(0.0)
                finished.append(FinishedEpisode(row, False, True, infos[row]))


class MultiAgentEnvs(SplitEnvs):
    """Environments that speak lists or arrays over agents, infos possibly as a dictionary, and reset themselves."""

    def __init__(self, envs: Sequence[NonBatchedVecEnv], *args: Any):
        super().__init__(envs, *args)
        self._steps = [env.unwrapped_step for env in envs]

    def attach(self, env_i: int) -> None:
        self._steps[env_i] = self._envs[env_i].unwrapped_step

    def _write(self, writer: ObsWriter, obs_step: int, observations: list[Any]) -> None:
        if self._wraps_obs and any(obs is None for obs in observations):  # agents that are not in the game
            observations = [None if obs is None else {OBS_KEY: obs} for obs in observations]
            writer.write(obs_step, observations)
        else:
            super()._write(writer, obs_step, observations)

    def _step_all(
        self,
        actions: list[Any],
        observations: list[Any],
        rewards: list[Any],
        infos: list[dict[str, Any]],
        finished: list[FinishedEpisode],
    ) -> None:
        n = self._num_agents
        for env_i, env_step in enumerate(self._steps):
            self._life_signs[ENV] = env_i
            first = env_i * n
            try:
                parts = env_step(actions[first : first + n])
                if any(len(part) != n for part in parts):
                    raise ValueError(
                        f"step of an environment with {n} agents returned lists of {[len(part) for part in parts]}"
                    )
                obs, env_rewards, terminated, truncated, env_infos = parts
                if isinstance(env_infos, Mapping):
                    env_infos = [env_infos[agent] for agent in range(n)]
            except Exception:
                env_infos = [{FAULT_KEY: True} for _ in range(n)]
                obs, env_rewards, terminated, truncated = self._replaced(env_i), [0.0] * n, [False] * n, [True] * n
            # Not +=, which adds numbers if one side is an array.
            observations.extend(obs)
            rewards.extend(env_rewards)
            infos.extend(env_infos)
            if any(terminated) or any(truncated):
                for i, (te, tr) in enumerate(zip(terminated, truncated, strict=True)):
                    if te or tr:
                        finished.append(FinishedEpisode(first + i, bool(te), bool(tr), env_infos[i]))


def make_split_envs(
    envs: Sequence[NonBatchedVecEnv], faults: EnvFaults, repair: EnvRepair, life_signs: memoryview
) -> SingleAgentEnvs | MultiAgentEnvs:
    if all(env.single_agent_env is not None for env in envs):
        return SingleAgentEnvs(envs, faults, repair, life_signs)
    return MultiAgentEnvs(envs, faults, repair, life_signs)
