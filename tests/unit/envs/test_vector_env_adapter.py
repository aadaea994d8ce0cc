from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from sample_factory.algo.utils.env_info import extract_env_info
from sample_factory.algo.utils.make_env import BatchedVecEnv, NonBatchedVecEnv, SequentialVectorizeWrapper
from sample_factory.envs.gymnasium_compat import (
    GYMNASIUM_VERSION,
    AutoresetMode,
    VectorEnvAdapter,
    adapt_vector_env,
    autoreset_mode,
)
from tests.unit.envs.sample_envs import EPISODE_LEN, CountingEnv, DictCountingEnv, make_cfg

HAS_MODES = GYMNASIUM_VERSION >= (1, 1)
MODES = ["SAME_STEP", "DISABLED"] if HAS_MODES else ["SAME_STEP"]


def make_vector_env(mode: str = "SAME_STEP", env: Any = CountingEnv, num_envs: int = 2) -> Any:
    kwargs = {"autoreset_mode": gym.vector.AutoresetMode[mode]} if HAS_MODES else {}
    return gym.vector.SyncVectorEnv([partial(env) for _ in range(num_envs)], **kwargs)


def test_mode_is_read_from_whatever_declares_it() -> None:
    class Declares:
        def __init__(self, mode: Any):
            self.metadata = {"autoreset_mode": mode}

    assert autoreset_mode(Declares("SameStep")) is AutoresetMode.SAME_STEP
    assert autoreset_mode(Declares("NEXT_STEP")) is AutoresetMode.NEXT_STEP
    assert autoreset_mode(Declares(AutoresetMode.DISABLED)) is AutoresetMode.DISABLED
    assert autoreset_mode(Declares("Sometimes")) is None
    assert autoreset_mode(CountingEnv()) is None
    EnvPoolLike = type("EnvPoolLike", (), {"__module__": "envpool.atari"})
    assert autoreset_mode(EnvPoolLike()) is AutoresetMode.NEXT_STEP
    assert autoreset_mode(make_vector_env()) is AutoresetMode.SAME_STEP


@pytest.mark.parametrize("mode", MODES)
def test_vector_env_is_batched_with_same_step_reset(mode: str) -> None:
    env = BatchedVecEnv(make_vector_env(mode))
    assert env.num_agents == 2 and env.action_space.n == 5
    assert env.observation_space["obs"].shape == (2,)
    obs, infos = env.reset(seed=1)
    assert obs["obs"].tolist() == [[1, 0], [1, 0]] and infos == [{}, {}]

    env.unwrapped.envs[1].unwrapped.num_steps = 1  # out of phase
    for _ in range(EPISODE_LEN - 2):
        obs, rewards, terminated, truncated, infos = env.step(np.array([1, 2], np.int32))
        assert not (terminated | truncated).any() and infos == [{}, {}]
    obs, rewards, terminated, truncated, infos = env.step(np.array([1, 2], np.int32))
    assert obs["obs"].tolist() == [[1, 2], [2, 0]], "the finished environment shows its new episode"
    assert rewards.tolist() == [1, 2] and terminated.tolist() == [False, True] and truncated.dtype == torch.bool
    assert infos[0] == {}
    assert np.asarray(infos[1]["final_obs"]).tolist() == [1, 3]
    assert infos[1]["steps"] == EPISODE_LEN, "the info of the finished episode, not of the new one"

    obs, rewards, terminated, _, infos = env.step(np.array([3, 4], np.int32))
    assert obs["obs"].tolist() == [[2, 0], [2, 1]] and rewards.tolist() == [3, 4], "the action after a reset counts"
    assert terminated.tolist() == [True, False] and "steps" in infos[0] and infos[1] == {}


@pytest.mark.parametrize("mode", MODES)
def test_vector_env_with_dict_observations(mode: str) -> None:
    env = BatchedVecEnv(make_vector_env(mode, DictCountingEnv))
    obs, _ = env.reset()
    assert obs["img"].shape == (2, 1, 2, 2) and obs["img"].dtype == torch.uint8
    for _ in range(EPISODE_LEN):
        obs, *_, infos = env.step(np.array([0, 0]))
    assert obs["vec"].tolist() == [[2, 0], [2, 0]]
    assert infos[0]["final_obs"]["vec"].tolist() == [1, 3]


def test_episode_statistics_honour_masks() -> None:
    def make() -> gym.Env:
        return gym.wrappers.RecordEpisodeStatistics(CountingEnv())

    env = BatchedVecEnv(make_vector_env(env=make))
    env.reset()
    env.unwrapped.envs[1].unwrapped.num_steps = 1
    env.step(np.array([1, 2]))
    *_, infos = env.step(np.array([1, 2]))
    assert "episode" not in infos[0]
    assert float(np.ravel(infos[1]["episode"]["r"])[0]) == 4.0
    assert int(np.ravel(infos[1]["episode"]["l"])[0]) == 2


def test_next_step_mode_is_refused() -> None:
    if HAS_MODES:
        with pytest.raises(ValueError, match=r"NEXT_STEP.*SAME_STEP"):
            adapt_vector_env(make_vector_env("NEXT_STEP"))
    vector_env = make_vector_env()
    vector_env.metadata = {"autoreset_mode": "NextStep"}
    with pytest.raises(ValueError, match=r"NEXT_STEP.*SAME_STEP"):
        adapt_vector_env(vector_env)


def test_unknown_mode_is_refused() -> None:
    vector_env = make_vector_env()
    vector_env.metadata = {"autoreset_mode": "Sometimes"}
    with pytest.raises(ValueError, match="does not say how it resets"):
        adapt_vector_env(vector_env)


def test_unwrapped_envpool_is_refused() -> None:
    class EnvPoolLike(gym.Env):
        num_envs = 2

    EnvPoolLike.__module__ = "envpool.atari.registration"
    with pytest.raises(ValueError, match="EnvPoolResetFixWrapper"):
        adapt_vector_env(EnvPoolLike())


def test_one_picture_is_rendered() -> None:
    vector_env = gym.vector.SyncVectorEnv(
        [partial(gym.make, "CartPole-v1", render_mode="rgb_array") for _ in range(2)],
        **({"autoreset_mode": gym.vector.AutoresetMode.SAME_STEP} if HAS_MODES else {}),
    )
    env = BatchedVecEnv(vector_env)
    env.reset(seed=0)
    if GYMNASIUM_VERSION >= (1, 0):  # 0.29 cannot render vector environments
        assert env.render().shape == (400, 600, 3)
    env.close()


def test_other_environments_are_left_alone() -> None:
    env = CountingEnv()
    assert adapt_vector_env(env) is env
    adapted = adapt_vector_env(make_vector_env())
    assert isinstance(adapted, VectorEnvAdapter) and adapt_vector_env(adapted) is adapted


def test_vector_env_needs_batched_sampling() -> None:
    with pytest.raises(ValueError, match="--batched_sampling=True"):
        NonBatchedVecEnv(make_vector_env())


def test_vector_env_info_and_several_per_split() -> None:
    env_info = extract_env_info(BatchedVecEnv(make_vector_env()), make_cfg())
    assert env_info.num_agents == 2 and env_info.action_space == gym.spaces.Discrete(5)

    vec_env = SequentialVectorizeWrapper([BatchedVecEnv(make_vector_env()) for _ in range(2)])
    obs, _ = vec_env.reset()
    assert obs["obs"].shape == (4, 2)
    obs, rewards, _, _, infos = vec_env.step(np.array([0, 1, 2, 3], np.int32))
    assert rewards.tolist() == [0, 1, 2, 3] and infos == [{}] * 4
    vec_env.close()


def test_dict_infos_of_several_environments_are_joined() -> None:
    class DictInfoEnv(CountingEnv):
        num_agents = 2
        is_multiagent = True

        def reset(self, **kwargs: Any) -> Any:
            return np.zeros((2, 2), np.float32), {}

        def step(self, actions: Any) -> Any:
            zeros = np.zeros(2)
            infos = {"mean": torch.tensor([2.0 * actions[0]]), "per_agent": {"x": torch.tensor(actions)}, "name": "a"}
            return np.zeros((2, 2), np.float32), zeros, zeros > 0, zeros > 0, infos

    vec_env = SequentialVectorizeWrapper([BatchedVecEnv(DictInfoEnv()) for _ in range(2)])
    vec_env.reset()
    *_, infos = vec_env.step(np.array([1, 2, 3, 4]))
    assert infos["per_agent"]["x"].tolist() == [1, 2, 3, 4] and infos["mean"].tolist() == [4.0]
