"""A tiny environment with levels: ``--env=level_env --env_module=tests.level_env``."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from sample_factory.envs.env_utils import register_env

ENV = "level_env"


class LevelEnv(gym.Env):
    """A level says how long its episode is (2 to 6 steps) and which action is right; every right one gives 1 / length.

    The observation is the level.
    """

    observation_space = gym.spaces.Box(-10.0, 10.0, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self) -> None:
        self.level = np.array([2, 0], np.int16)
        self.levels_played: list[tuple[int, int] | None] = []
        self.num_steps = 0
        self.num_steps_ever = 0
        self.fails_at: int | None = None

    def sample_level(self, rng: np.random.Generator) -> np.ndarray:
        return np.array([rng.integers(2, 7), rng.integers(2)], np.int16)

    def mutate_level(self, level: np.ndarray, rng: np.random.Generator, num_mutations: int) -> np.ndarray:
        level = level.copy()
        for _ in range(num_mutations):
            level[0] = rng.integers(2, 7)
        return level

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        level = (options or {}).get("level")
        self.levels_played.append(None if level is None else tuple(level.tolist()))
        self.level = self.sample_level(self.np_random) if level is None else level
        self.num_steps = 0
        return self.level.astype(np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.num_steps += 1
        self.num_steps_ever += 1
        if self.num_steps_ever == self.fails_at:
            raise RuntimeError("broken on request")
        reward = float(action == self.level[1]) / float(self.level[0])
        return self.level.astype(np.float32), reward, self.num_steps >= self.level[0], False, {}


class LevelEnvWithoutMutations(LevelEnv):
    mutate_level = None  # type: ignore[assignment]


def make_level_env(full_env_name: str, cfg: Any = None, env_config: Any = None, render_mode: Any = None) -> LevelEnv:
    return LevelEnv()


register_env(ENV, make_level_env)
