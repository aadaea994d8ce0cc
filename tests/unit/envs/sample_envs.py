"""Small environments and configurations used by the tests of this folder; a probe can import them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sample_factory.envs.env_utils import RewardShapingInterface, TrainingInfoInterface
from sample_factory.utils.attr_dict import AttrDict

EPISODE_LEN = 3


def make_cfg(env: str = "counting", **overrides: Any) -> AttrDict:
    return AttrDict(
        {
            "env": env,
            "env_gpu_actions": False,
            "env_gpu_observations": True,
            "env_frameskip": 1,
            "batched_sampling": False,
            "use_env_info_cache": False,
            "startup_timeout": 60,
            **overrides,
        }
    )


class CountingEnv(gym.Env):
    """Observation: [number of resets, steps in this episode]; reward: the action; ends after ``EPISODE_LEN`` steps."""

    def __init__(
        self, obs_space: gym.Space | None = None, action_space: gym.Space | None = None, truncates: bool = False
    ):
        self.observation_space = obs_space or spaces.Box(0, 1000, (2,), np.float32)
        self.action_space = action_space or spaces.Discrete(5)
        self.truncates = truncates
        self.num_resets = 0
        self.num_steps = 0
        self.actions: list[Any] = []
        self.seeds: list[int | None] = []
        self.closed = False

    def obs(self) -> Any:
        return np.array([self.num_resets, self.num_steps], dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.seeds.append(seed)
        self.num_resets += 1
        self.num_steps = 0
        return self.obs(), {"reset": self.num_resets}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        self.actions.append(action)
        self.num_steps += 1
        done = self.num_steps >= EPISODE_LEN
        reward = float(np.sum(action)) if not isinstance(action, (list, tuple)) else 0.0
        return self.obs(), reward, done and not self.truncates, done and self.truncates, {"steps": self.num_steps}

    def close(self) -> None:
        self.closed = True


class DictCountingEnv(CountingEnv):
    def __init__(self) -> None:
        super().__init__(
            spaces.Dict({"img": spaces.Box(0, 255, (1, 2, 2), np.uint8), "vec": spaces.Box(0, 1000, (2,), np.float32)})
        )

    def obs(self) -> Any:
        return {"img": np.full((1, 2, 2), self.num_steps, np.uint8), "vec": super().obs()}


class TwoAgentEnv(gym.Env, TrainingInfoInterface, RewardShapingInterface):
    """List interface; resets itself. ``as_arrays``: stacked arrays instead of lists."""

    is_multiagent = True
    num_agents = 2

    def __init__(self, as_arrays: bool = False) -> None:
        TrainingInfoInterface.__init__(self)
        self.observation_space = spaces.Box(0, 1000, (2,), np.float32)
        self.action_space = spaces.Discrete(5)
        self.as_arrays = as_arrays
        self.num_steps = 0
        self.actions: list[Any] = []
        self.shaping_calls: list[tuple[dict, Any]] = []

    def obs(self) -> Any:
        obs = [np.array([agent, self.num_steps], dtype=np.float32) for agent in range(2)]
        return np.stack(obs) if self.as_arrays else obs

    def reset(self, **kwargs: Any) -> Any:
        self.num_steps = 0
        return self.obs(), [{}, {}]

    def step(self, actions: Any) -> Any:
        self.actions.append(actions)
        self.num_steps += 1
        done = self.num_steps >= EPISODE_LEN
        infos = [{"steps": self.num_steps} for _ in range(2)]
        if done:
            self.num_steps = 0
        rewards: Any = [float(a) for a in actions]
        terminated: Any = [done, done]
        truncated: Any = [False, False]
        if self.as_arrays:
            rewards, terminated, truncated = np.array(rewards), np.array(terminated), np.array(truncated)
        return self.obs(), rewards, terminated, truncated, infos

    def get_default_reward_shaping(self) -> dict[str, Any]:
        return {"rew": 1.0}

    def set_reward_shaping(self, reward_shaping: dict[str, Any], agent_idx: Any) -> None:
        self.shaping_calls.append((reward_shaping, agent_idx))


class ShapedOnlyEnv(CountingEnv, RewardShapingInterface):
    """Reward shaping, but no training info."""

    def __init__(self) -> None:
        super().__init__()
        self.shaping: list[tuple[dict, Any]] = []

    def get_default_reward_shaping(self) -> dict[str, Any]:
        return {"coeff": 0.5}

    def set_reward_shaping(self, reward_shaping: dict[str, Any], agent_idx: Any) -> None:
        self.shaping.append((reward_shaping, agent_idx))


def make_counting_env(name: str, cfg: Any = None, env_config: Any = None, render_mode: str | None = None) -> gym.Env:
    return CountingEnv()


def make_two_agent_env(name: str, cfg: Any = None, env_config: Any = None, render_mode: str | None = None) -> gym.Env:
    return TwoAgentEnv()


def make_vector_env(name: str, cfg: Any = None, env_config: Any = None, render_mode: str | None = None) -> Any:
    env = gym.vector.SyncVectorEnv([CountingEnv, CountingEnv])
    env.metadata = {**env.metadata, "autoreset_mode": "SameStep"}
    return env


def make_raising_env(name: str, cfg: Any = None, env_config: Any = None, render_mode: str | None = None) -> gym.Env:
    raise FileNotFoundError("textures of the level are missing")


def make_killed_env(name: str, cfg: Any = None, env_config: Any = None, render_mode: str | None = None) -> gym.Env:
    os.kill(os.getpid(), signal.SIGKILL)
    return CountingEnv()


def make_exiting_env(name: str, cfg: Any = None, env_config: Any = None, render_mode: str | None = None) -> gym.Env:
    os._exit(17)


def make_hanging_env(name: str, cfg: Any = None, env_config: Any = None, render_mode: str | None = None) -> gym.Env:
    while True:
        time.sleep(3600)


def make_env_with_variable(
    name: str, cfg: Any = None, env_config: Any = None, render_mode: str | None = None
) -> gym.Env:
    return CountingEnv(action_space=spaces.Discrete(int(os.environ["SF_TEST_NUM_ACTIONS"])))


class DemandingEnv(CountingEnv):
    """Works with a process of its own, and cannot be closed."""

    def __init__(self) -> None:
        super().__init__()
        multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000,), daemon=True).start()

    def close(self) -> None:
        raise RuntimeError("it is closed already")


def make_demanding_env(name: str, cfg: Any = None, env_config: Any = None, render_mode: str | None = None) -> gym.Env:
    return DemandingEnv()
