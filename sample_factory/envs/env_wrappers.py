"""General-purpose Gymnasium wrappers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from os.path import join
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces

from sample_factory.algo.utils.env_interfaces import num_env_steps
from sample_factory.algo.utils.env_layer import EnvLayer
from sample_factory.envs.atari_wrappers import (
    ClipRewardEnv,
    EpisodicLifeEnv,
    FireResetEnv,
    MaxAndSkipEnv,
    NoopResetEnv,
)
from sample_factory.utils.typing import Env
from sample_factory.utils.utils import ensure_dir_exists, log

__all__ = [
    "ClipRewardEnv",
    "EpisodeCounterWrapper",
    "EpisodicLifeEnv",
    "FireResetEnv",
    "MaxAndSkipEnv",
    "NoopResetEnv",
    "NumpyObsWrapper",
    "PixelFormatChwWrapper",
    "RecordingWrapper",
    "ResizeWrapper",
    "RewardScalingWrapper",
    "TimeLimitWrapper",
    "has_image_observations",
]

_CV2_HINT = "ResizeWrapper needs OpenCV: pip install opencv-python-headless"


def has_image_observations(observation_space: gym.Space) -> bool:
    """Whether observations have at least two dimensions."""
    return len(observation_space.shape or ()) >= 2


def _map_box_space(space: gym.Space, convert: Callable[[spaces.Box], spaces.Box]) -> gym.Space:
    """Apply to a Box, or to every entry of a Dict."""
    if isinstance(space, spaces.Dict):
        return spaces.Dict({key: convert(_as_box(sub_space)) for key, sub_space in space.spaces.items()})
    return convert(_as_box(space))


def _as_box(space: gym.Space) -> spaces.Box:
    if not isinstance(space, spaces.Box):
        raise ValueError(f"Image wrappers need Box observations, got {space}")
    return space


class ResizeWrapper(gym.Wrapper):
    """Scale images ``[H, W, C]`` to ``[h, w]`` (grayscale), ``[h, w, 1]`` (with channel dim) or ``[h, w, C]``."""

    def __init__(
        self,
        env: Env,
        w: int,
        h: int,
        grayscale: bool = True,
        add_channel_dim: bool = False,
        area_interpolation: bool = False,
    ):
        super().__init__(env)
        try:
            import cv2
        except ImportError as exc:
            raise ImportError(_CV2_HINT) from exc
        self._cv2 = cv2
        self.w, self.h = w, h
        self.grayscale = grayscale
        self.add_channel_dim = add_channel_dim
        self.interpolation = cv2.INTER_AREA if area_interpolation else cv2.INTER_NEAREST
        self.observation_space = _map_box_space(env.observation_space, self._convert_space)

    def _convert_space(self, space: spaces.Box) -> spaces.Box:
        shape: list[int] = [self.h, self.w]
        if self.add_channel_dim or not self.grayscale:
            shape.append(1 if self.grayscale else space.shape[-1])
        return spaces.Box(float(space.low.min()), float(space.high.max()), shape, dtype=space.dtype.type)  # type: ignore[union-attr]

    def _convert_image(self, image: Any) -> Any:
        if image is None:
            return None
        image = self._cv2.resize(image, (self.w, self.h), interpolation=self.interpolation)
        if self.grayscale:
            image = self._cv2.cvtColor(image, self._cv2.COLOR_RGB2GRAY)
        return image[..., None] if self.add_channel_dim and image.ndim == 2 else image

    def _convert(self, obs: Any) -> Any:
        if isinstance(obs, dict):
            return {key: self._convert_image(value) for key, value in obs.items()}
        return self._convert_image(obs)

    def reset(self, **kwargs: Any) -> tuple[Any, dict]:
        obs, info = self.env.reset(**kwargs)
        return self._convert(obs), info

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self._convert(obs), reward, terminated, truncated, info


class RewardScalingWrapper(gym.Wrapper):
    """Multiply rewards by ``scaling_factor``."""

    def __init__(self, env: Env, scaling_factor: float):
        super().__init__(env)
        self._reward_scaling = scaling_factor
        reward_range = getattr(env, "reward_range", None)  # gone in Gymnasium 1.0
        if reward_range is not None:
            self.reward_range = tuple(sorted(r * scaling_factor for r in reward_range))

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        return obs, reward * self._reward_scaling, terminated, truncated, info  # type: ignore[operator]


class TimeLimitWrapper(gym.Wrapper):
    """Truncate episodes after ``limit`` frames, plus a random integer in ``[-v, v]`` redrawn on every reset."""

    def __init__(self, env: Env, limit: int, random_variation_steps: int = 0):
        super().__init__(env)
        self._limit = limit
        self._variation_steps = random_variation_steps
        self._num_steps = 0
        self._terminate_in = limit

    def reset(self, **kwargs: Any) -> tuple[Any, dict]:
        obs, info = self.env.reset(**kwargs)
        self._num_steps = 0
        variation = self._variation_steps
        self._terminate_in = self._limit + int(self.unwrapped.np_random.integers(-variation, variation + 1))
        return obs, info

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        if obs is None:
            return obs, reward, terminated, truncated, info
        self._num_steps += num_env_steps([info])
        if self._num_steps >= self._terminate_in and not (terminated or truncated):
            truncated = True
        return obs, reward, terminated, truncated, info


class PixelFormatChwWrapper(gym.ObservationWrapper):
    """Channels first: ``[H, W, C]`` becomes ``[C, H, W]``; of a Dict space the key ``obs``.

    :raises ValueError: the observation is no image or already has its channels first.
    """

    def __init__(self, env: Env):
        super().__init__(env)
        self.dict_obs_space = isinstance(env.observation_space, spaces.Dict)
        image_space = env.observation_space["obs"] if self.dict_obs_space else env.observation_space
        if not has_image_observations(image_space):
            raise ValueError("Pixel format wrapper only works with image-based envs")
        shape = image_space.shape
        if len(shape) < 3:
            raise ValueError("Env has no channel dimension?")
        if shape[0] <= 4:
            raise ValueError(f"Env obs do not seem to be in HWC format? Shape: {shape}")

        chw_space = spaces.Box(
            np.transpose(image_space.low, (2, 0, 1)), np.transpose(image_space.high, (2, 0, 1)), dtype=image_space.dtype
        )
        if self.dict_obs_space:
            self.observation_space = spaces.Dict({**env.observation_space.spaces, "obs": chw_space})
        else:
            self.observation_space = chw_space

    def observation(self, observation: Any) -> Any:
        if observation is None:
            return None
        if self.dict_obs_space:
            return {**observation, "obs": np.transpose(observation["obs"], (2, 0, 1))}
        return np.transpose(observation, (2, 0, 1))


class RecordingWrapper(gym.Wrapper):
    """Write the frames and actions of every episode to ``<record_to>/ep_<id>_p<player>``.

    On the next reset the folder gets the episode's reward as a suffix.
    """

    def __init__(self, env: Env, record_to: str, player_id: int):
        super().__init__(env)
        self._record_to = record_to
        self._player_id = player_id
        self._episode_id = 0
        self._recorded_episode_reward = 0.0
        self._episode_dir: str | None = None
        self._actions: list[Any] = []
        self._frame_idx = 0
        # some environments record a demo of their own
        self.unwrapped.record_to = record_to  # type: ignore[attr-defined]

    def reset(self, **kwargs: Any) -> tuple[Any, dict]:
        self._finish_episode()
        self._episode_dir = join(self._record_to, f"ep_{self._episode_id:03d}_p{self._player_id}")
        self._episode_id += 1
        ensure_dir_exists(self._episode_dir)
        return self.env.reset(**kwargs)

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._record(obs["obs"] if isinstance(obs, dict) else obs, action)
        self._recorded_episode_reward += float(reward)
        return obs, reward, terminated, truncated, info

    def close(self) -> None:
        self._finish_episode()
        self._episode_dir = None
        super().close()

    def _record(self, image: np.ndarray, action: Any) -> None:
        from PIL import Image

        assert self._episode_dir is not None, "reset() must be called before step()"
        if image.ndim == 3 and image.shape[0] in (1, 3):
            image = np.transpose(image, (1, 2, 0))
        Image.fromarray(np.squeeze(image).astype(np.uint8)).save(join(self._episode_dir, f"{self._frame_idx:05d}.png"))
        self._frame_idx += 1
        self._actions.append(np.asarray(action).tolist())

    def _finish_episode(self) -> None:
        if self._episode_dir is None:
            return
        with open(join(self._episode_dir, "actions.json"), "w") as actions_file:
            json.dump(self._actions, actions_file)
        os.rename(self._episode_dir, f"{self._episode_dir}_r{self._recorded_episode_reward:.2f}")
        log.info("Recorded an episode with reward %.3f", self._recorded_episode_reward)
        self._recorded_episode_reward, self._frame_idx, self._actions = 0.0, 0, []


class NumpyObsWrapper(gym.ObservationWrapper):
    """Observations as NumPy arrays (Gymnasium 0.29 stacks frames lazily)."""

    def observation(self, observation: Any) -> np.ndarray:
        return np.array(observation)


class EpisodeCounterWrapper(EnvLayer):
    """Numbers episodes from 0 per agent: ``info["episode_extra_stats"]["episode_number"]`` at the end of each."""

    def __init__(self, env: Env):
        super().__init__(env)
        self._num_episodes = [0] * self.num_agents

    def step(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        if self.is_multiagent:
            done = [bool(a) or bool(b) for a, b in zip(terminated, truncated, strict=True)]
            if isinstance(info, dict):
                self._number_batched(done, info)
            else:
                for agent_idx, agent_info in enumerate(info):
                    self._number(agent_idx, done[agent_idx], agent_info)
        else:
            self._number(0, bool(terminated or truncated), info)
        return obs, reward, terminated, truncated, info

    def _number(self, agent_idx: int, done: bool, info: dict[str, Any]) -> None:
        if done:
            extra_stats = info.setdefault("episode_extra_stats", {})
            extra_stats["episode_number"] = self._num_episodes[agent_idx]
            self._num_episodes[agent_idx] += 1

    def _number_batched(self, done: list[bool], info: dict[str, Any]) -> None:
        """One info for all agents: the numbers are a tensor ``[num_agents]``, meaningful for finished agents."""
        if any(done):
            extra_stats = info.setdefault("episode_extra_stats", {})
            extra_stats["episode_number"] = torch.tensor(self._num_episodes)
            self._num_episodes = [n + int(d) for n, d in zip(self._num_episodes, done, strict=True)]
