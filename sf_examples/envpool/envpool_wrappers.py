"""Wrappers that bring EnvPool to the conventions of batched sampling."""

from __future__ import annotations

from collections import deque
from typing import Any

import gymnasium as gym
import numpy as np
import torch

StepResult = tuple[Any, np.ndarray, np.ndarray, np.ndarray, Any]


class _EnvPoolLayer(gym.Env):
    """EnvPool objects are not always ``gym.Env``, so these layers are no ``gym.Wrapper``."""

    is_multiagent = True

    def __init__(self, env: Any):
        self.env = env
        self.observation_space = env.observation_space
        self.action_space = env.action_space
        self.render_mode = getattr(env, "render_mode", None)

    @property
    def unwrapped(self) -> Any:
        return getattr(self.env, "unwrapped", self.env)

    def render(self) -> Any:
        return self.env.render()

    def close(self) -> None:
        self.env.close()


class EnvPoolResetFixWrapper(_EnvPoolLayer):
    """Reset at once: EnvPool by itself spends the next step on it, ignoring the action of that step.

    After a step the finished sub-environments are reset and their fresh observations replace the final ones. EnvPool is
    seeded when it is created, so ``seed`` and ``options`` of ``reset`` are dropped.
    """

    metadata = {"autoreset_mode": "SameStep"}

    def __init__(self, env: Any):
        super().__init__(env)
        self.num_agents: int = getattr(env, "num_agents", None) or env.config["num_envs"]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, Any]:
        return self.env.reset()

    def step(self, action: Any) -> StepResult:  # type: ignore[override]
        obs, rewards, terminated, truncated, infos = self.env.step(action)
        done_ids = np.flatnonzero(terminated | truncated)
        if len(done_ids) > 0:
            fresh_obs, _ = self.env.reset(done_ids)
            if isinstance(obs, dict):
                for key, value in fresh_obs.items():
                    obs[key][done_ids] = value
            else:
                obs[done_ids] = fresh_obs
        return obs, rewards, terminated, truncated, infos

    def render(self) -> Any:
        frames = self.env.render()  # [1, H, W, 3]: of the first sub-environment; None if it goes to a window
        return None if frames is None else frames[0]


class BatchedRecordEpisodeStatistics(_EnvPoolLayer):
    """Adds ``infos["r"]`` and ``infos["l"]``: return and length of the episodes up to this step, ``[num_envs]``."""

    def __init__(self, env: Any, num_envs: int, deque_size: int = 100):
        super().__init__(env)
        self.metadata = env.metadata
        self.num_envs = self.num_agents = num_envs
        self.episode_returns = np.zeros(num_envs, dtype=np.float32)
        self.episode_lengths = np.zeros(num_envs, dtype=np.int32)
        self.return_queue: deque[float] = deque(maxlen=deque_size)
        self.length_queue: deque[int] = deque(maxlen=deque_size)

    def reset(self, **kwargs: Any) -> tuple[Any, Any]:
        self.episode_returns[:] = 0
        self.episode_lengths[:] = 0
        return self.env.reset(**kwargs)

    def step(self, action: Any) -> StepResult:  # type: ignore[override]
        obs, rewards, terminated, truncated, infos = self.env.step(action)
        self.episode_returns += rewards
        self.episode_lengths += 1
        infos["r"] = torch.from_numpy(self.episode_returns.copy())
        infos["l"] = torch.from_numpy(self.episode_lengths.copy())
        done = terminated | truncated
        self.return_queue.extend(self.episode_returns[done].tolist())
        self.length_queue.extend(self.episode_lengths[done].tolist())
        self.episode_returns[done] = 0
        self.episode_lengths[done] = 0
        return obs, rewards, terminated, truncated, infos


def make_envpool_env(
    env_id: str, num_envs: int, seed: int, render_mode: str | None = None, **kwargs: Any
) -> BatchedRecordEpisodeStatistics:
    """EnvPool environment ``env_id`` with ``num_envs`` sub-environments that keeps the conventions."""
    try:
        import envpool
    except ImportError as exc:
        raise ImportError(f"{env_id} is made by the package envpool ({exc}); pip install envpool") from exc

    if render_mode is not None:  # versions without rendering do not know the argument
        kwargs["render_mode"] = render_mode
    env = envpool.make(env_id, env_type="gymnasium", num_envs=num_envs, seed=seed, **kwargs)
    return BatchedRecordEpisodeStatistics(EnvPoolResetFixWrapper(env), num_envs=num_envs)


def envpool_seed(seed: int | None, env_config: Any) -> int:
    """EnvPool seeds its sub-environments ``seed, seed + 1, ...``: keep instances apart."""
    env_id = 0 if env_config is None else env_config.get("env_id", 0)
    return (seed or 0) + 10_000 * env_id
