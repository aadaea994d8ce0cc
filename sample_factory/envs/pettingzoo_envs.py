"""PettingZoo parallel environments as multi-agent environments."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import gymnasium as gym
from gymnasium import spaces


def all_equal(iterable: Iterable[Any]) -> bool:
    """Whether all elements are equal; True for an empty iterable."""
    elements = list(iterable)
    return all(element == elements[0] for element in elements)


def normalize_observation_space(space: gym.Space) -> gym.Space:
    """PettingZoo calls the observation of a Dict space ``observation``, encoders look for ``obs``."""
    if isinstance(space, spaces.Dict):
        return spaces.Dict(normalize_observation(dict(space.spaces)))
    return space


def normalize_observation(obs: Any) -> Any:
    if not isinstance(obs, dict):
        return obs
    return {"obs" if key == "observation" else key: value for key, value in obs.items()}


def normalize_info(info: dict[str, Any] | None, agent: Any) -> dict[str, Any]:
    """Agents without info are inactive; in turn-based games only the ``active_agent`` is active."""
    if info is None:
        return {"is_active": False}
    info = dict(info)
    if "active_agent" in info:
        info["is_active"] = info["active_agent"] == agent
    return info


class PettingZooParallelEnv(gym.Env):
    """Adapter: lists over ``possible_agents``, reset at once when the last agent is gone.

    Observations of agents that left the game are their last ones.

    :raises ValueError: agents have different observation or action spaces.
    """

    is_multiagent = True

    def __init__(self, env: Any):
        agents = env.possible_agents
        if not all_equal(env.observation_space(agent) for agent in agents):
            raise ValueError("All observation spaces must be equal")
        if not all_equal(env.action_space(agent) for agent in agents):
            raise ValueError("All action spaces must be equal")
        self.env = env
        self.metadata = env.metadata
        self.render_mode = getattr(env, "render_mode", None)
        self.num_agents: int = env.max_num_agents
        self.observation_space = normalize_observation_space(env.observation_space(agents[0]))
        self.action_space = env.action_space(agents[0])
        self._last_obs: dict[Any, Any] = {}

    def reset(  # type: ignore[override]
        self, *, seed: int | None = None, options: dict | None = None
    ) -> tuple[list, list[dict]]:
        obs, infos = self.env.reset(seed=seed, options=options)
        self._last_obs = dict(obs)
        return self._obs_list(obs), self._reset_infos(infos)

    def step(self, actions: Any) -> tuple[list, list, list, list, list[dict]]:  # type: ignore[override]
        agents = self.env.possible_agents
        live_actions = {agent: actions[i] for i, agent in enumerate(agents) if agent in self.env.agents}
        obs, rewards, terminated, truncated, infos = self.env.step(live_actions)
        reward_list = [rewards.get(agent, 0.0) for agent in agents]
        terminated_list = [bool(terminated.get(agent, True)) for agent in agents]
        truncated_list = [bool(truncated.get(agent, False)) for agent in agents]
        if self.env.agents:
            return (
                self._obs_list(obs),
                reward_list,
                terminated_list,
                truncated_list,
                [normalize_info(infos.get(agent), agent) for agent in agents],
            )
        obs_list, info_list = self.reset()
        return obs_list, reward_list, terminated_list, truncated_list, info_list

    def render(self) -> Any:
        return self.env.render()

    def close(self) -> None:
        self.env.close()

    def _reset_infos(self, infos: dict[Any, dict]) -> list[dict]:
        return [infos.get(agent, {"is_active": False}) for agent in self.env.possible_agents]

    def _obs_list(self, obs: dict[Any, Any]) -> list:
        self._last_obs.update(obs)
        return [normalize_observation(self._last_obs[agent]) for agent in self.env.possible_agents]
