"""Environments in which a mistake of the framework shows at once."""

from __future__ import annotations

import gymnasium as gym
import numpy as np

from sample_factory.envs.env_utils import RewardShapingInterface, TrainingInfoInterface, register_env


class MaskedEnv(gym.Env):
    """Three actions of which one is forbidden each step; taking it raises."""

    observation_space = gym.spaces.Dict(
        obs=gym.spaces.Box(-1.0, 1.0, (3,), np.float32), action_mask=gym.spaces.Box(0, 1, (3,), np.int8)
    )
    action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._observation(), {}

    def step(self, action):
        if not self.mask[action]:
            raise AssertionError(f"forbidden action {action}, mask {self.mask}")
        self.steps += 1
        return self._observation(), float(action == 0), self.steps >= 20, False, {}

    def _observation(self):
        self.mask = np.ones(3, np.int8)
        self.mask[self.np_random.integers(3)] = 0
        return {"obs": self.mask.astype(np.float32), "action_mask": self.mask}


class TwoAgents(gym.Env, TrainingInfoInterface, RewardShapingInterface):
    """Agent 1 pauses every other step; what the framework told the environment comes back as statistics."""

    num_agents = 2
    is_multiagent = True
    observation_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self) -> None:
        TrainingInfoInterface.__init__(self)
        self.shaping = [{"bonus": 1.0}, {"bonus": 1.0}]
        self.steps = 0

    def get_default_reward_shaping(self):
        return {"bonus": 1.0}

    def set_reward_shaping(self, reward_shaping, agent_idx):
        for i in [agent_idx] if isinstance(agent_idx, int) else range(2)[agent_idx]:
            self.shaping[i] = reward_shaping

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._observations(), [{}, {}]

    def step(self, actions):
        assert len(actions) == 2
        self.steps += 1
        done = self.steps >= 10
        infos = [{}, {"is_active": self.steps % 2 == 0}]
        rewards = [s["bonus"] for s in self.shaping]
        if done:
            trained = self.training_info.get("approx_total_training_steps", -1)
            for info in infos:
                info["episode_extra_stats"] = {"seen_training_steps": trained}
                info["true_objective"] = 42.0
            self.steps = 0
        return self._observations(), rewards, [done, done], [False, False], infos

    def _observations(self):
        return [np.array([agent, self.steps / 10], np.float32) for agent in range(2)]


class ConstantEnv(gym.Env):
    """The same observation for ever, three actions."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gym.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        return np.ones(2, np.float32), {}

    def step(self, action):
        return np.ones(2, np.float32), 0.0, False, False, {}


def make_constant_env(full_env_name, cfg=None, env_config=None, render_mode=None):
    return ConstantEnv()


def make_masked_env(full_env_name, cfg=None, env_config=None, render_mode=None):
    return MaskedEnv()


def make_two_agents(full_env_name, cfg=None, env_config=None, render_mode=None):
    return TwoAgents()


def register_custom_components():
    register_env("masked_env", make_masked_env)
    register_env("constant_env", make_constant_env)
    register_env("two_agents", make_two_agents)
