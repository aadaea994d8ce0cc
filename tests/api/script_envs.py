"""Environments as scripts for Sample Factory 2 write them. Each checks itself what it is given."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

OBS_SPACE = spaces.Box(-1.0, 1.0, (3,), np.float32)


class SingleAgentEnv(gym.Env):
    """Episodes of five steps; reports everything an environment may put into its info."""

    observation_space = OBS_SPACE
    action_space: gym.Space = spaces.Discrete(3)
    episode_len = 5

    def __init__(self, full_env_name=None, cfg=None, env_config=None, render_mode=None):
        self.full_env_name, self.cfg, self.env_config, self.render_mode = full_env_name, cfg, env_config, render_mode
        self.steps = 0
        self.reset_on_init = True

    def _observe(self) -> np.ndarray:
        return np.full(3, self.steps / self.episode_len, np.float32)

    def check_action(self, action: Any) -> None:
        assert isinstance(action, (int, np.int32, np.int64)), type(action)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._observe(), {}

    def step(self, action):
        self.check_action(action)
        self.steps += 1
        done = self.steps >= self.episode_len
        info: dict[str, Any] = {}
        if done:
            info = {"true_objective": 7.0, "episode_extra_stats": {"apples": 2.0, "nested": {"pears": 3.0}}}
        return self._observe(), 1.0, done, False, info


class TupleActionEnv(SingleAgentEnv):
    """A Tuple of Discretes: one flat int32 array."""

    action_space = spaces.Tuple([spaces.Discrete(2), spaces.Discrete(3), spaces.Discrete(4)])

    def check_action(self, action):
        assert isinstance(action, np.ndarray) and action.dtype == np.int32 and action.shape == (3,), action
        assert self.action_space.contains(tuple(np.int64(a) for a in action))


class MixedTupleEnv(SingleAgentEnv):
    """A Tuple with a Box: a list with one entry per part."""

    action_space = spaces.Tuple([spaces.Discrete(2), spaces.Box(-1, 1, (2,), np.float32)])

    def check_action(self, action):
        assert isinstance(action, list) and isinstance(action[0], int) and action[1].shape == (2,), action


class ListMultiAgentEnv(gym.Env):
    """Multi-agent environment that speaks lists and resets itself; the second agent pauses now and then."""

    observation_space = OBS_SPACE
    action_space = spaces.Discrete(2)
    num_agents = 2
    is_multiagent = True
    episode_len = 6

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        self.steps = 0

    def _observe(self):
        return [np.full(3, agent, np.float32) for agent in range(self.num_agents)]

    def reset(self, **kwargs):
        self.steps = 0
        return self._observe(), [{} for _ in range(self.num_agents)]

    def step(self, actions):
        assert isinstance(actions, list) and all(isinstance(a, int) for a in actions), actions
        self.steps += 1
        done = self.steps >= self.episode_len
        infos: list[dict[str, Any]] = [{"is_active": True}, {"is_active": self.steps % 2 == 0}]
        if done:
            self.reset()
            infos = [{"true_objective": 10.0 + agent} for agent in range(self.num_agents)]
        return self._observe(), [1.0, 2.0], [done] * 2, [False] * 2, infos


class DictOfArraysEnv(gym.Env):
    """Vectorised environment: one dict of arrays for all agents, resets them itself."""

    num_agents = 4
    is_multiagent = True
    observation_space = spaces.Dict(obs=OBS_SPACE, extra=spaces.Box(-1.0, 1.0, (2,), np.float32))
    action_space = spaces.Discrete(2)
    episode_len = 5

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        self.steps = 0

    def _observe(self):
        n = self.num_agents
        # Keys beyond the declared space are carried along and ignored.
        return {"obs": np.zeros((n, 3), np.float32), "extra": np.ones((n, 2), np.float32), "debug": np.zeros(n)}

    def reset(self, **kwargs):
        self.steps = 0
        return self._observe(), {}

    def step(self, actions):
        assert isinstance(actions, np.ndarray) and actions.dtype == np.int32 and actions.shape == (4,), actions
        self.steps += 1
        done = self.steps % self.episode_len == 0
        shape = self.num_agents
        return self._observe(), np.ones(shape, np.float32), np.full(shape, done), np.zeros(shape, bool), {}


def make_env(full_env_name, cfg=None, env_config=None, render_mode=None):
    """The usual factory; ``env_config`` is None while spaces are looked up, otherwise read in three ways."""
    if env_config is not None:
        assert env_config.worker_index == env_config["worker_index"] == env_config.get("worker_index", -1) >= 0
        assert env_config.env_id == cfg.num_envs_per_worker * env_config.worker_index + env_config.vector_index
        assert env_config.get("no_such_key") is None
    return SingleAgentEnv(full_env_name, cfg, env_config, render_mode)


def make_env_with_options(full_env_name, cfg=None, env_config=None, render_mode=None, episode_len=5):
    env = SingleAgentEnv(full_env_name, cfg, env_config, render_mode)
    env.episode_len = episode_len
    return env


class EnvBuilder:
    """Its bound method is the factory."""

    def __init__(self, env_class=SingleAgentEnv):
        self.env_class = env_class

    def build(self, full_env_name, cfg=None, env_config=None, render_mode=None):
        return self.env_class() if self.env_class is not SingleAgentEnv else SingleAgentEnv(full_env_name)
