"""A T-maze: the smallest task that needs memory.

A cue is visible in the first observation only. The agent then walks down a corridor (by itself: the only decision is
the last one) and has to turn to the side of the cue at the junction.

Nothing the agent sees or does before the junction depends on the cue or influences what it sees there, so the turn of a
memoryless policy is independent of the cue: it succeeds in exactly half of the episodes, with a mean reward of 0. A
policy that remembers one bit always gets 1.
"""

from __future__ import annotations

import argparse
from typing import Any

import gymnasium as gym
import numpy as np

from sample_factory.utils.typing import Config

ENV_NAME = "memory_tmaze"
DEFAULT_CORRIDOR_LENGTH = 8


class TMazeEnv(gym.Env):
    """Observation ``[cue, is_junction]`` float32: the cue is -1 or 1 in the first observation and 0 later.

    Actions: 0 turns to the side of cue -1, 1 to that of cue 1; they count at the junction only. The episode has
    ``corridor_length + 1`` steps and ends with the reward 1 (right turn) or -1.
    """

    metadata = {"render_modes": []}

    def __init__(self, corridor_length: int = DEFAULT_CORRIDOR_LENGTH, render_mode: str | None = None):
        if corridor_length < 1:
            raise ValueError(f"--tmaze_corridor_length={corridor_length}: must be at least 1, or no memory is needed")
        self.corridor_length = corridor_length
        self.render_mode = render_mode
        self.observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
        self.action_space = gym.spaces.Discrete(2)
        self._cue = 0
        self._position = 0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self._cue = int(self.np_random.integers(2)) * 2 - 1
        self._position = 0
        return np.array([self._cue, 0], dtype=np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        if self._position < self.corridor_length:
            self._position += 1
            return self._obs(), 0.0, False, False, {}
        is_success = int(action) * 2 - 1 == self._cue
        info = {"episode_extra_stats": {"success": float(is_success)}}
        return self._obs(), 1.0 if is_success else -1.0, True, False, info

    def render(self) -> None:
        return None

    def _obs(self) -> np.ndarray:
        return np.array([0, self._position == self.corridor_length], dtype=np.float32)


def make_tmaze_env(
    full_env_name: str, cfg: Config | None = None, env_config: Any = None, render_mode: str | None = None
) -> TMazeEnv:
    return TMazeEnv(getattr(cfg, "tmaze_corridor_length", DEFAULT_CORRIDOR_LENGTH), render_mode)


def add_tmaze_args(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tmaze_corridor_length",
        default=DEFAULT_CORRIDOR_LENGTH,
        type=int,
        help="Steps between the cue and the junction of the T-maze",
    )
