"""The classic preprocessing of Atari games (Mnih et al. 2015). Public path: ``sample_factory.envs.env_wrappers``."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from sample_factory.utils.typing import Env

StepResult = tuple[Any, Any, Any, Any, Any]


def _action_meanings(env: Env) -> list[str]:
    return env.unwrapped.get_action_meanings()


class NoopResetEnv(gym.Wrapper):
    """Start from a random state: 1 to ``noop_max`` (or ``override_num_noops``) no-op steps after a reset."""

    def __init__(self, env: Env, noop_max: int = 30):
        super().__init__(env)
        self.noop_max = noop_max
        self.override_num_noops: int | None = None
        self.noop_action = 0
        assert _action_meanings(env)[0] == "NOOP", "action 0 must be NOOP"

    def reset(self, **kwargs: Any) -> tuple[Any, dict]:
        obs, info = self.env.reset(**kwargs)
        num_noops = self.override_num_noops
        if num_noops is None:
            num_noops = int(self.unwrapped.np_random.integers(1, self.noop_max + 1))
        for _ in range(num_noops):
            obs, _, terminated, truncated, info = self.env.step(self.noop_action)
            if terminated or truncated:
                obs, info = self.env.reset()
        return obs, info


class FireResetEnv(gym.Wrapper):
    """Press FIRE, then the action after it, to start games that wait for that."""

    def __init__(self, env: Env):
        super().__init__(env)
        meanings = _action_meanings(env)
        assert meanings[1] == "FIRE", "action 1 must be FIRE"
        assert len(meanings) >= 3, "the environment needs at least three actions"

    def reset(self, **kwargs: Any) -> tuple[Any, dict]:
        obs, info = self.env.reset(**kwargs)
        for action in (1, 2):
            obs, _, terminated, truncated, info = self.env.step(action)
            if terminated or truncated:
                obs, info = self.env.reset()
        return obs, info


class EpisodicLifeEnv(gym.Wrapper):
    """A lost life ends the episode, but only the end of the game leads to a real reset."""

    def __init__(self, env: Env):
        super().__init__(env)
        self.lives = 0
        self.was_real_done = True

    def step(self, action: Any) -> StepResult:
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.was_real_done = bool(terminated or truncated)
        # In Qbert the counter is 0 for a few frames before the game ends: only a loss that leaves lives counts.
        lives = self.unwrapped.ale.lives()  # type: ignore[attr-defined]
        if 0 < lives < self.lives:
            terminated = True
        self.lives = lives
        return obs, reward, terminated, truncated, info

    def reset(self, **kwargs: Any) -> tuple[Any, dict]:
        if self.was_real_done:
            obs, info = self.env.reset(**kwargs)
        else:
            obs, _, terminated, truncated, info = self.env.step(0)
            if terminated or truncated:  # the no-op ended the game
                obs, info = self.env.reset(**kwargs)
        self.was_real_done = False
        self.lives = self.unwrapped.ale.lives()  # type: ignore[attr-defined]
        return obs, info


class MaxAndSkipEnv(gym.Wrapper):
    """Repeat every action ``skip`` times: sum of rewards, pixel-wise maximum of the last two frames."""

    def __init__(self, env: Env, skip: int = 4):
        super().__init__(env)
        self._skip = skip

    def step(self, action: Any) -> StepResult:
        total_reward = 0.0
        previous_frame: Any = None
        frame: Any = None
        terminated = truncated = False
        info: dict[str, Any] = {}
        for _ in range(self._skip):
            previous_frame = frame
            frame, reward, terminated, truncated, info = self.env.step(action)
            total_reward += float(reward)
            if terminated or truncated:
                break
        max_frame = frame if previous_frame is None else np.maximum(previous_frame, frame)
        return max_frame, total_reward, terminated, truncated, info


class ClipRewardEnv(gym.RewardWrapper):
    """Only the sign of the reward."""

    def reward(self, reward: Any) -> float:
        return float(np.sign(reward))
