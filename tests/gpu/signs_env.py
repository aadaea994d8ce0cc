"""A vectorised task on a GPU: say whether the number you see is positive, which differs from step to step.

Whoever acts on observations of another step, or has its actions or rewards mixed up, gets half of the rewards at most.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch

from sample_factory.envs.env_utils import register_env

EPISODE_LENGTH = 10


class Signs(gym.Env):
    is_multiagent = True

    def __init__(self, num_agents: int = 64, device: str = "cuda") -> None:
        self.num_agents, self.device = num_agents, device
        self.observation_space = gym.spaces.Dict(obs=gym.spaces.Box(-1.0, 1.0, (2,), np.float32))
        self.action_space = gym.spaces.Discrete(2)
        self._num_steps = 0
        self._is_positive = torch.zeros(num_agents, dtype=torch.bool, device=device)

    def _observe(self) -> dict[str, torch.Tensor]:
        self._is_positive = torch.rand(self.num_agents, device=self.device) < 0.5
        sign = self._is_positive.float() * 2.0 - 1.0
        return {"obs": torch.stack([sign * 0.5, torch.rand_like(sign)], dim=1)}

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        self._num_steps = 0
        return self._observe(), {}

    def step(self, actions: Any) -> tuple[dict, Any, Any, Any, dict]:
        actions = torch.as_tensor(actions, device=self.device)
        rewards = ((actions.reshape(-1) == 1) == self._is_positive).float()
        self._num_steps += 1
        is_over = self._num_steps % EPISODE_LENGTH == 0
        truncated = torch.full((self.num_agents,), is_over, device=self.device)
        return self._observe(), rewards, torch.zeros_like(truncated), truncated, {}


def make_signs(full_env_name: str, cfg: Any = None, env_config: Any = None, render_mode: str | None = None) -> Signs:
    return Signs(device="cuda" if full_env_name == "signs_cuda" else "cpu")


for _name in ("signs_cuda", "signs_cpu"):
    register_env(_name, make_signs)
