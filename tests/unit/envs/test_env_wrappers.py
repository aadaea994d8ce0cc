from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from sample_factory.envs.env_wrappers import (
    ClipRewardEnv,
    EpisodeCounterWrapper,
    EpisodicLifeEnv,
    FireResetEnv,
    MaxAndSkipEnv,
    NoopResetEnv,
    NumpyObsWrapper,
    PixelFormatChwWrapper,
    RecordingWrapper,
    ResizeWrapper,
    RewardScalingWrapper,
    TimeLimitWrapper,
    has_image_observations,
)
from tests.unit.envs.sample_envs import EPISODE_LEN, CountingEnv, TwoAgentEnv


class ImageEnv(CountingEnv):
    """``uint8 [12, 16, 3]`` images filled with the step number, optionally inside a dict; a game with lives."""

    def __init__(self, as_dict: bool = False, lives: int = 0):
        image_space = spaces.Box(0, 255, (12, 16, 3), np.uint8)
        super().__init__(spaces.Dict(obs=image_space, other=image_space) if as_dict else image_space)
        self.as_dict = as_dict
        self.num_lives = lives
        self.ale = self

    def lives(self) -> int:
        return max(self.num_lives - self.num_steps, 0)

    def get_action_meanings(self) -> list[str]:
        return ["NOOP", "FIRE", "UP", "DOWN", "LEFT"]

    def obs(self) -> Any:
        image = np.full((12, 16, 3), self.num_steps, np.uint8)
        return {"obs": image, "other": image} if self.as_dict else image


def test_has_image_observations() -> None:
    assert has_image_observations(spaces.Box(0, 1, (4, 4)))
    assert not has_image_observations(spaces.Box(0, 1, (4,)))
    assert not has_image_observations(spaces.Discrete(3))
    assert not has_image_observations(spaces.Dict())


def test_resize() -> None:
    pytest.importorskip("cv2")
    for kwargs, shape in [
        ({}, (8, 10)),
        ({"add_channel_dim": True}, (8, 10, 1)),
        ({"grayscale": False, "area_interpolation": True}, (8, 10, 3)),
    ]:
        env = ResizeWrapper(ImageEnv(), 10, 8, **kwargs)
        obs, _ = env.reset()
        assert obs.shape == shape == env.observation_space.shape and obs.dtype == np.uint8
    env = ResizeWrapper(ImageEnv(as_dict=True), 10, 8)
    env.reset()
    obs, *_ = env.step(0)
    assert obs["other"].shape == (8, 10) == env.observation_space["other"].shape and obs["obs"][0, 0] == 1


def test_q58_reward_scaling_without_reward_range() -> None:
    env = RewardScalingWrapper(CountingEnv(), 0.5)
    env.reset()
    assert env.step(3)[1] == 1.5

    inner = CountingEnv()
    inner.reward_range = (-1.0, 2.0)  # Gymnasium 0.29
    assert RewardScalingWrapper(inner, -2.0).reward_range == (-4.0, 2.0), "a tuple, not a generator"


def test_time_limit() -> None:
    env = TimeLimitWrapper(CountingEnv(), 2)
    for _ in range(2):
        env.reset()
        assert env.step(0)[2:4] == (False, False)
        assert env.step(0)[2:4] == (False, True)
    env = TimeLimitWrapper(CountingEnv(), EPISODE_LEN)
    env.reset()
    for _ in range(EPISODE_LEN):
        *_, terminated, truncated, _ = env.step(0)
    assert terminated and not truncated, "an episode that ended by itself is not truncated"


def test_time_limit_counts_frames_and_varies() -> None:
    class SkippingEnv(CountingEnv):
        def step(self, action: Any) -> Any:
            obs, reward, _, _, info = super().step(action)
            return (None if action == 1 else obs), reward, False, False, {**info, "num_frames": 4}

    env = TimeLimitWrapper(SkippingEnv(), 8)
    env.reset()
    assert not env.step(0)[3] and not env.step(1)[3] and env.step(0)[3], "steps without observation do not count"

    env = TimeLimitWrapper(CountingEnv(), 10, random_variation_steps=3)
    env.reset(seed=0)
    limits = set()
    for _ in range(200):
        env.reset()
        limits.add(env._terminate_in)
    assert limits == set(range(7, 14))


def test_pixel_format() -> None:
    env = PixelFormatChwWrapper(ImageEnv())
    obs, _ = env.reset()
    assert obs.shape == (3, 12, 16) == env.observation_space.shape
    env = PixelFormatChwWrapper(ImageEnv(as_dict=True))
    obs, _ = env.reset()
    assert obs["obs"].shape == (3, 12, 16) == env.observation_space["obs"].shape
    assert obs["other"].shape == (12, 16, 3) == env.observation_space["other"].shape
    with pytest.raises(ValueError, match="image-based"):
        PixelFormatChwWrapper(CountingEnv())
    with pytest.raises(ValueError, match="channel dimension"):
        PixelFormatChwWrapper(CountingEnv(spaces.Box(0, 1, (8, 8))))
    with pytest.raises(ValueError, match="HWC"):
        PixelFormatChwWrapper(CountingEnv(spaces.Box(0, 1, (3, 8, 8))))


def test_recording(tmp_path: Path) -> None:
    env = RecordingWrapper(ImageEnv(), str(tmp_path), player_id=1)
    env.reset()
    env.step(2)
    env.step(1)
    assert (tmp_path / "ep_000_p1").is_dir() and env.unwrapped.record_to == str(tmp_path)
    env.reset()
    episode = tmp_path / "ep_000_p1_r3.00"
    assert json.loads((episode / "actions.json").read_text()) == [2, 1]
    assert sorted(path.name for path in episode.glob("*.png")) == ["00000.png", "00001.png"]
    env.step(4)
    env.close()
    assert (tmp_path / "ep_001_p1_r4.00" / "00000.png").exists()


def test_noop_reset() -> None:
    env = NoopResetEnv(ImageEnv(), noop_max=2)
    env.reset(seed=3)
    assert set(env.unwrapped.actions) == {0} and 1 <= len(env.unwrapped.actions) <= 2
    env.override_num_noops = EPISODE_LEN + 1
    env.unwrapped.actions.clear()
    env.reset()
    assert len(env.unwrapped.actions) == EPISODE_LEN + 1 and env.unwrapped.num_steps == 1, "reset when noops end it"
    with pytest.raises(AttributeError):
        NoopResetEnv(CountingEnv())


def test_fire_reset() -> None:
    env = FireResetEnv(ImageEnv())
    obs, _ = env.reset()
    assert env.unwrapped.actions == [1, 2] and obs[0, 0, 0] == 2


def test_episodic_life() -> None:
    class Game(ImageEnv):
        """Three lives, one lost per two steps; the game ends with the last."""

        def __init__(self) -> None:
            super().__init__()
            self.frame = 0

        def lives(self) -> int:
            return 3 - self.frame // 2

        def reset(self, **kwargs: Any) -> Any:
            self.frame = 0
            return super().reset(**kwargs)

        def step(self, action: Any) -> Any:
            obs, reward, _, _, info = super().step(action)
            self.frame += 1
            return obs, reward, self.lives() == 0, False, info

    env = EpisodicLifeEnv(Game())
    env.reset()
    assert [env.step(0)[2] for _ in range(2)] == [False, True]
    env.reset()
    game = env.unwrapped
    assert game.num_resets == 1 and game.frame == 3, "a no-op instead of a reset"
    assert env.step(0)[2]
    env.reset()
    assert env.step(0)[2] and game.lives() == 0
    env.reset()
    assert game.num_resets == 2 and game.frame == 0, "the game was really over"


def test_max_and_skip() -> None:
    env = MaxAndSkipEnv(ImageEnv(), skip=2)
    env.reset()
    obs, reward, terminated, _, _ = env.step(2)
    assert obs[0, 0, 0] == 2 and reward == 4.0 and not terminated
    obs, reward, terminated, _, _ = env.step(2)
    assert obs[0, 0, 0] == 3 and reward == 2.0 and terminated


def test_clip_reward_and_numpy_obs() -> None:
    assert [ClipRewardEnv(CountingEnv()).reward(r) for r in (-3.5, 0, 7)] == [-1, 0, 1]

    class LazyObs(CountingEnv):
        def obs(self) -> Any:
            return [[1.0, 2.0]]

    assert isinstance(NumpyObsWrapper(LazyObs()).reset()[0], np.ndarray)


def run_episodes(env: gym.Env, action: Any, num_steps: int) -> list[Any]:
    env.reset()
    infos = []
    for _ in range(num_steps):
        _, _, terminated, truncated, info = env.step(action)
        if np.any(np.asarray(terminated)) or np.any(np.asarray(truncated)):
            infos.append(info)
            env.reset()
    return infos


def test_episode_counter() -> None:
    env = EpisodeCounterWrapper(CountingEnv())
    assert (env.is_multiagent, env.num_agents) == (False, 1)
    infos = run_episodes(env, 0, 3 * EPISODE_LEN)
    assert [info["episode_extra_stats"]["episode_number"] for info in infos] == [0, 1, 2]


@pytest.mark.parametrize("as_arrays", [False, True])
def test_q50_episode_counter_with_lists(as_arrays: bool) -> None:
    env = EpisodeCounterWrapper(TwoAgentEnv(as_arrays))
    assert (env.is_multiagent, env.num_agents) == (True, 2)
    infos = run_episodes(env, [0, 0], 2 * EPISODE_LEN)
    numbers = [[info["episode_extra_stats"]["episode_number"] for info in agents] for agents in infos]
    assert numbers == [[0, 0], [1, 1]]


def test_q50_episode_counter_counts_each_agent() -> None:
    class Staggered(TwoAgentEnv):
        def step(self, actions: Any) -> Any:
            obs, rewards, terminated, truncated, infos = super().step(actions)
            return obs, rewards, [True, terminated[1]], truncated, infos

    env = EpisodeCounterWrapper(Staggered())
    env.reset()
    infos = [env.step([0, 0])[4] for _ in range(EPISODE_LEN)]
    assert [info[0]["episode_extra_stats"]["episode_number"] for info in infos] == [0, 1, 2]
    assert ["episode_extra_stats" in info[1] for info in infos] == [False, False, True]
    assert infos[-1][1]["episode_extra_stats"]["episode_number"] == 0


def test_episode_counter_with_one_info_for_all_agents() -> None:
    class DictInfo(TwoAgentEnv):
        def step(self, actions: Any) -> Any:
            obs, rewards, terminated, truncated, _ = super().step(actions)
            return obs, rewards, torch.tensor(terminated), torch.tensor(truncated), {}

    infos = run_episodes(EpisodeCounterWrapper(DictInfo()), [0, 0], 2 * EPISODE_LEN)
    assert [info["episode_extra_stats"]["episode_number"].tolist() for info in infos] == [[0, 0], [1, 1]]
