"""Environments of the throughput benchmarks, used by every framework that is measured.

Needs gymnasium (0.29 or 1.x) and NumPy (1.26 or 2.x); `BatchedZeroCost` PyTorch; `Pong` ale-py and OpenCV. Nothing of
this project: the original runs this file with its own Python. All environments end episodes at a fixed length with a
reward of one per step unless they are games, so that equal statistics on both sides show equal work.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np

EPISODE_LENGTH = 100
NUM_AGENTS = 4

SLEEP_SEC = 0.001
# Two milliseconds in the middle; 0.2 and 20 are two standard deviations away and bound what is drawn.
LOGNORMAL_MEDIAN_SEC = 0.002
LOGNORMAL_SIGMA = math.log(10.0) / 2
LOGNORMAL_BOUNDS_SEC = (0.0002, 0.02)

_NUM_DRAWS = 4096


class ZeroCost(gym.Env):
    """Returns the same array at every step: what remains is the framework. 4 floats, or 4 x 84 x 84 bytes."""

    def __init__(self, is_image: bool = False, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self._obs: np.ndarray
        if is_image:
            self.observation_space = gym.spaces.Box(0, 255, (4, 84, 84), np.uint8)
            self._obs = np.full((4, 84, 84), 127, np.uint8)  # [stack, height, width]
        else:
            self.observation_space = gym.spaces.Box(-1.0, 1.0, (4,), np.float32)
            self._obs = np.full(4, 0.5, np.float32)  # [4]
        self.action_space = gym.spaces.Discrete(2)
        self._num_steps = 0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        self._num_steps = 0
        return self._obs, {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self._num_steps += 1
        return self._obs, 1.0, False, self._num_steps >= EPISODE_LENGTH, {}


class Sleeping(ZeroCost):
    """A slow simulator: a step sleeps one millisecond, or a log-normal time drawn by a generator of its own."""

    def __init__(self, is_uneven: bool, seed: int, render_mode: str | None = None) -> None:
        super().__init__(render_mode=render_mode)
        self._durations_sec = sleep_durations(is_uneven, seed)
        self._num_sleeps = 0

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        time.sleep(self._durations_sec[self._num_sleeps % len(self._durations_sec)])
        self._num_sleeps += 1
        return super().step(action)


def sleep_durations(is_uneven: bool, seed: int) -> list[float]:
    """Seconds that the steps of one sleeping environment take, in order, repeated at the end."""
    if not is_uneven:
        return [SLEEP_SEC]
    draws = np.random.default_rng(seed).lognormal(math.log(LOGNORMAL_MEDIAN_SEC), LOGNORMAL_SIGMA, _NUM_DRAWS)
    return np.clip(draws, *LOGNORMAL_BOUNDS_SEC).tolist()


class FourAgents(gym.Env):
    """Four agents at no cost; all values are lists with one entry per agent, the environment resets itself."""

    is_multiagent = True

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.num_agents = NUM_AGENTS
        self.observation_space = gym.spaces.Box(-1.0, 1.0, (4,), np.float32)  # of one agent
        self.action_space = gym.spaces.Discrete(2)
        self._obs = [np.full(4, 0.2 * idx, np.float32) for idx in range(NUM_AGENTS)]  # [4] each
        self._num_steps = 0

    def reset(  # type: ignore[override]
        self, *, seed: int | None = None, options: dict | None = None
    ) -> tuple[list, list]:
        self._num_steps = 0
        return list(self._obs), [{} for _ in range(NUM_AGENTS)]

    def step(  # type: ignore[override]
        self, actions: Sequence[Any]
    ) -> tuple[list, list, list, list, list]:
        self._num_steps += 1
        is_over = self._num_steps >= EPISODE_LENGTH
        if is_over:
            self._num_steps = 0
        infos: list[dict] = [{} for _ in range(NUM_AGENTS)]
        return list(self._obs), [1.0] * NUM_AGENTS, [False] * NUM_AGENTS, [is_over] * NUM_AGENTS, infos


class BatchedZeroCost(gym.Env):
    """A vectorised simulator at no cost: one call steps all agents and returns the same tensors again and again.

    Episodes end at different steps for different agents, a hundredth of them at each step.
    """

    is_multiagent = True

    def __init__(self, num_agents: int, render_mode: str | None = None, device: str = "cpu") -> None:
        import torch

        self.render_mode = render_mode
        self.num_agents = num_agents
        self.observation_space = gym.spaces.Dict(obs=gym.spaces.Box(-1.0, 1.0, (4,), np.float32))  # of one agent
        self.action_space = gym.spaces.Discrete(2)
        self._obs = {"obs": torch.full((num_agents, 4), 0.5, device=device)}  # [agents, 4]
        self._rewards = torch.ones(num_agents, device=device)  # [agents]
        self._never = torch.zeros(num_agents, dtype=torch.bool, device=device)  # [agents]
        ends = torch.arange(num_agents, device=device) % EPISODE_LENGTH
        self._truncated = [ends == step for step in range(EPISODE_LENGTH)]  # [agents] each
        self._num_steps = 0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        self._num_steps = 0
        return self._obs, {}

    def step(self, actions: Any) -> tuple[dict, Any, Any, Any, dict]:
        truncated = self._truncated[self._num_steps % EPISODE_LENGTH]
        self._num_steps += 1
        return self._obs, self._rewards, self._never, truncated, {}


class Pong(gym.Env):
    """Atari Pong: frameskip 4, maximum of the last two frames, grey 84 x 84, stack of 4, rewards as they are."""

    FRAMESKIP = 4
    MAX_NOOPS = 30

    def __init__(self, seed: int = 0, render_mode: str | None = None) -> None:
        import ale_py
        import cv2
        from ale_py import roms

        cv2.setNumThreads(1)
        self._cv2 = cv2
        self.render_mode = render_mode
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        self._ale = ale_py.ALEInterface()
        self._ale.setInt("random_seed", seed)
        self._ale.setFloat("repeat_action_probability", 0.0)
        self._ale.loadROM(roms.get_rom_path("pong"))
        self._actions = self._ale.getMinimalActionSet()
        self._rng = np.random.default_rng(seed)
        height, width = self._ale.getScreenDims()
        self._frames = np.zeros((2, height, width), np.uint8)  # [last two, height, width]
        self._stack = np.zeros((4, 84, 84), np.uint8)  # [stack, height, width]
        self.observation_space = gym.spaces.Box(0, 255, (4, 84, 84), np.uint8)
        self.action_space = gym.spaces.Discrete(len(self._actions))

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        self._ale.reset_game()
        for _ in range(int(self._rng.integers(1, self.MAX_NOOPS + 1))):
            self._ale.act(self._actions[0])
        self._ale.getScreenGrayscale(self._frames[0])
        self._stack[:] = self._resize(self._frames[0])
        return self._stack.copy(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        reward = 0.0
        for idx in range(self.FRAMESKIP):
            reward += self._ale.act(self._actions[int(action)])
            if idx >= self.FRAMESKIP - 2:
                self._ale.getScreenGrayscale(self._frames[idx - self.FRAMESKIP + 2])
        self._stack[:-1] = self._stack[1:]
        self._stack[-1] = self._resize(self._frames.max(axis=0))
        return self._stack.copy(), reward, self._ale.game_over(), False, {}

    def _resize(self, frame: np.ndarray) -> np.ndarray:
        return self._cv2.resize(frame, (84, 84), interpolation=self._cv2.INTER_AREA)


BATCHED_PREFIX, CUDA = "bench_batched_", "cuda_"
ENV_NAMES = (
    "CartPole-v1",
    "bench_zero_vector",
    "bench_zero_image",
    "bench_sleep",
    "bench_sleep_lognormal",
    "bench_four_agents",
    "bench_pong",
    *(f"{BATCHED_PREFIX}{num_agents}" for num_agents in (64, 1024, 8192)),
    *(f"{BATCHED_PREFIX}{CUDA}{num_agents}" for num_agents in (1024, 8192)),
)


def make_env(
    full_env_name: str, cfg: Any = None, env_config: Any = None, render_mode: str | None = None
) -> gym.Env[Any, Any]:
    """Any of `ENV_NAMES`; `env_config.env_id` seeds the ones that draw numbers, `cfg` is not used."""
    env_id = 0 if env_config is None else int(getattr(env_config, "env_id", 0) or 0)
    if full_env_name.startswith(BATCHED_PREFIX):
        name = full_env_name.removeprefix(BATCHED_PREFIX)
        return BatchedZeroCost(int(name.removeprefix(CUDA)), render_mode, "cuda" if name.startswith(CUDA) else "cpu")
    if full_env_name in ("bench_zero_vector", "bench_zero_image"):
        return ZeroCost(full_env_name.endswith("image"), render_mode)
    if full_env_name in ("bench_sleep", "bench_sleep_lognormal"):
        return Sleeping(full_env_name.endswith("lognormal"), env_id, render_mode)
    if full_env_name == "bench_four_agents":
        return FourAgents(render_mode)
    if full_env_name == "bench_pong":
        return Pong(env_id, render_mode)
    return gym.make(full_env_name, render_mode=render_mode)
