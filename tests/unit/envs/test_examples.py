"""The environments and parameters of ``sf_examples``; training with them is tested in ``tests/integration``."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

import sf_examples
from sample_factory.algo.utils.context import global_env_registry, global_model_factory, reset_global_context
from sample_factory.algo.utils.make_env import BatchedVecEnv, NonBatchedVecEnv, is_multiagent_env
from sample_factory.cfg.arguments import default_cfg
from sample_factory.utils.attr_dict import AttrDict
from sf_examples.dmlab.dmlab_utils import string_to_hash_bucket
from sf_examples.envpool.envpool_wrappers import BatchedRecordEpisodeStatistics, EnvPoolResetFixWrapper, envpool_seed
from sf_examples.envs.tmaze import TMazeEnv, make_tmaze_env
from sf_examples.train_custom_env_custom_model import CustomEncoder, CustomEnv
from sf_examples.train_custom_multi_env import CustomMultiEnv


@pytest.fixture(autouse=True)
def clean_registry() -> Any:
    reset_global_context()
    yield
    reset_global_context()


def all_modules() -> list[str]:
    root = Path(sf_examples.__file__).parent
    paths = [path.relative_to(root.parent).with_suffix("") for path in root.rglob("*.py") if path.name != "__init__.py"]
    return sorted(".".join(path.parts) for path in paths)


@pytest.mark.parametrize("module", all_modules())
def test_every_example_can_be_imported_without_its_extras(module: str) -> None:
    importlib.import_module(module)
    assert not global_env_registry(), "importing registers nothing"


def play_tmaze(env: TMazeEnv, seed: int, choose: Any) -> float:
    obs, _ = env.reset(seed=seed)
    memory, total, done = obs[0], 0.0, False
    while not done:
        obs, reward, done, truncated, info = env.step(choose(obs, memory))
        total += reward
        assert not truncated
    assert info["episode_extra_stats"]["success"] == (total > 0)
    return total


@pytest.mark.parametrize("length", [1, 5])
def test_tmaze_needs_memory(length: int) -> None:
    env = TMazeEnv(length)
    seeds = range(200)
    assert [play_tmaze(env, seed, lambda obs, cue: int(cue > 0)) for seed in seeds] == [1.0] * 200

    cues = [env.reset(seed=seed)[0][0] for seed in seeds]
    for action in (0, 1):  # what a memoryless policy does at the junction does not depend on the cue
        rewards = [play_tmaze(env, seed, lambda obs, cue, action=action: action) for seed in seeds]
        assert rewards == [1.0 if cue == 2 * action - 1 else -1.0 for cue in cues]
    assert 70 <= sum(cue > 0 for cue in cues) <= 130


def test_tmaze_shows_the_cue_once() -> None:
    """After the first observation, both cues lead to the same observations whatever the actions are."""
    env = TMazeEnv(4)
    trajectories: dict[float, list] = {}
    for seed in range(20):
        first, _ = env.reset(seed=seed)
        observations = [env.step(seed % 2)[0].tolist() for _ in range(4)]
        trajectories.setdefault(float(first[0]), []).append(observations)
    assert set(trajectories) == {-1.0, 1.0}
    assert all(t == [[0, 0], [0, 0], [0, 0], [0, 1]] for ts in trajectories.values() for t in ts)
    assert env.observation_space.contains(first)


def test_tmaze_parameters() -> None:
    assert make_tmaze_env("memory_tmaze", AttrDict(tmaze_corridor_length=3)).corridor_length == 3
    assert make_tmaze_env("memory_tmaze").corridor_length == 8
    with pytest.raises(ValueError, match="--tmaze_corridor_length=0"):
        TMazeEnv(0)


def test_custom_env() -> None:
    env = CustomEnv("my_custom_env_v1", AttrDict(custom_env_num_actions=10, custom_env_episode_len=3))
    obs, _ = env.reset(seed=0)
    assert env.observation_space.contains(obs) and obs.shape == (1, 10, 10)
    steps = [env.step(np.int32(9)) for _ in range(4)]
    assert [step[2:4] for step in steps] == [(False, False)] * 3 + [(True, True)], "one step more than its length"
    assert sum(step[1] for step in steps) == pytest.approx(4 * 0.09)
    with pytest.raises(AssertionError):
        env.step(np.array([1]))
    assert env.get_default_reward_shaping() == {"action_rew_coeff": 0.01}
    env.set_reward_shaping({"action_rew_coeff": 1.0}, 0)
    assert env.step(2)[1] == 2.0
    assert NonBatchedVecEnv(env).get_default_reward_shaping() == {"action_rew_coeff": 1.0}


def test_custom_encoder() -> None:
    cfg = default_cfg()
    obs_space = spaces.Dict(obs=spaces.Box(0, 1, (1, 10, 10), np.float32))
    encoder = CustomEncoder(cfg, obs_space)
    out = encoder({"obs": torch.zeros(5, 1, 10, 10)})
    assert out.shape == (5, encoder.get_out_size()) == (5, 144)


def make_multi_env(episode_len: int) -> CustomMultiEnv:
    return CustomMultiEnv("my_custom_multi_env_v1", AttrDict(custom_env_episode_len=episode_len))


def test_custom_multi_env() -> None:
    env = make_multi_env(episode_len=5)
    assert is_multiagent_env(env) and env.num_agents == 2
    obs, infos = env.reset(seed=0)
    assert infos == [{}, {}] and all(env.observation_space.contains(o) for o in obs)

    assert env.step([0, 1])[1] == [0.0, 0.0], "inactive agents get nothing"
    env.inactive_steps = [0, 40]
    _, rewards, _, _, infos = env.step([0, 1])
    assert rewards == [-1.0, 0.0] and [info["is_active"] for info in infos] == [True, False]
    assert env.step([1, 1])[1] == [0.0, 0.0]
    new_obs, _, terminated, truncated, _ = env.step([1, 1])
    assert not any(terminated) and not any(truncated)
    assert all((a == b).all() for a, b in zip(obs, new_obs, strict=True)), "observations are constant"
    _, _, terminated, truncated, infos = env.step([1, 1])
    assert terminated == truncated == [True, True] and infos == [{}, {}] and env.curr_episode_steps == 0


def test_custom_multi_env_reward_shaping_per_agent() -> None:
    env = make_multi_env(episode_len=100)
    env.reset(seed=0)
    assert env.get_default_reward_shaping() == {"rew": -1.0}
    env.set_reward_shaping({"rew": -2.0}, 1)
    env.inactive_steps = [0, 0]
    assert env.step([0, 1])[1] == [-1.0, -2.0]
    env.set_reward_shaping({"rew": -3.0}, slice(0, 2))
    assert env.step([1, 0])[1] == [-3.0, -3.0]


def test_custom_multi_env_agents_become_inactive_sometimes() -> None:
    env = make_multi_env(episode_len=10_000)
    env.reset(seed=1)
    activity = np.array([[info["is_active"] for info in env.step([0, 0])[4]] for _ in range(3000)])
    assert not activity[:2].any() and activity[2:].mean() > 0.5
    assert not activity[10:].all(axis=0).any(), "each agent is inactive at some time"


@pytest.mark.parametrize(
    ("module", "register", "env_name"),
    [
        ("train_gym_env", "register_custom_components", "CartPole-v1"),
        ("train_custom_env_custom_model", "register_custom_components", "my_custom_env_v1"),
        ("train_custom_multi_env", "register_custom_components", "my_custom_multi_env_v1"),
        ("train_pettingzoo_env", "register_custom_components", "tictactoe_v3"),
        ("train_tmaze", "register_custom_components", "memory_tmaze"),
        ("mujoco.train_mujoco", "register_mujoco_components", "mujoco_ant"),
        ("atari.train_atari", "register_atari_components", "atari_kongfumaster"),
        ("envpool.atari.train_envpool_atari", "register_atari_components", "atari_montezuma"),
        ("envpool.mujoco.train_envpool_mujoco", "register_mujoco_components", "mujoco_humanoid"),
    ],
)
def test_registration(module: str, register: str, env_name: str) -> None:
    getattr(importlib.import_module(f"sf_examples.{module}"), register)()
    assert env_name in global_env_registry()
    assert global_model_factory() is not None


@pytest.mark.parametrize(
    ("module", "parse", "env_name", "expected"),
    [
        ("train_gym_env", "parse_custom_args", "CartPole-v1", {"rollout": 32}),
        ("train_custom_env_custom_model", "parse_custom_args", "my_custom_env_v1", {"rnn_size": 128}),
        ("train_custom_multi_env", "parse_custom_args", "my_custom_multi_env_v1", {"custom_env_episode_len": 10}),
        ("train_tmaze", "parse_custom_args", "memory_tmaze", {"use_rnn": True, "tmaze_corridor_length": 8}),
        ("mujoco.train_mujoco", "parse_mujoco_cfg", "mujoco_ant", {"lr_schedule": "linear_decay", "rollout": 64}),
        ("atari.train_atari", "parse_atari_args", "atari_pong", {"env_framestack": 4, "ppo_clip_ratio": 0.1}),
        ("envpool.atari.train_envpool_atari", "parse_atari_args", "atari_pong", {"env_agents": 64, "async_rl": True}),
        ("envpool.mujoco.train_envpool_mujoco", "parse_mujoco_cfg", "mujoco_ant", {"env_agents": 64}),
    ],
)
@pytest.mark.parametrize("evaluation", [False, True])
def test_parameters(module: str, parse: str, env_name: str, expected: dict[str, Any], evaluation: bool) -> None:
    argv = [f"--env={env_name}", "--experiment=test"]
    cfg = getattr(importlib.import_module(f"sf_examples.{module}"), parse)(argv, evaluation=evaluation)
    if evaluation and env_name == "mujoco_ant" and "env_agents" in expected:
        expected = {"env_agents": 1}
    assert {key: getattr(cfg, key) for key in expected} == expected
    assert hasattr(cfg, "max_num_episodes") == evaluation


def test_atari_names() -> None:
    from sf_examples.atari.atari_utils import ATARI_ENVS, atari_env_by_name
    from sf_examples.envpool.atari.envpool_atari_utils import atari_env_by_name as envpool_env_by_name

    assert len(ATARI_ENVS) == 57 == len({spec.name for spec in ATARI_ENVS})
    assert atari_env_by_name("atari_breakout").env_id == "BreakoutNoFrameskip-v4"
    assert atari_env_by_name("atari_asteroid").env_id == "AsteroidsNoFrameskip-v4"
    assert atari_env_by_name("atari_montezuma").default_timeout == 18000
    assert envpool_env_by_name("atari_privateye").env_id == "PrivateEye-v5"
    assert not ATARI_ENVS[0].has_timer
    with pytest.raises(ValueError, match="Unknown Atari env"):
        atari_env_by_name("atari_chess")


def test_atari_observations() -> None:
    pytest.importorskip("ale_py")
    pytest.importorskip("cv2")
    from sf_examples.atari.atari_utils import make_atari_env

    env = make_atari_env("atari_breakout", AttrDict(env_frameskip=4, env_framestack=4), None)
    obs, _ = env.reset(seed=0)
    assert obs.shape == (4, 84, 84) == env.observation_space.shape and obs.dtype == np.uint8
    for _ in range(300):
        obs, _, terminated, truncated, info = env.step(env.action_space.sample())
        if terminated or truncated:
            break
    assert terminated and env.unwrapped.ale.lives() == 4, "the first lost life ends the episode"
    assert "episode" not in info, "but not the game"


def test_mujoco_names() -> None:
    from sf_examples.mujoco.mujoco_utils import MUJOCO_ENVS, make_mujoco_env, mujoco_available, mujoco_env_by_name

    assert len(MUJOCO_ENVS) == 11 and mujoco_env_by_name("mujoco_walker").env_id == "Walker2d-v4"
    with pytest.raises(ValueError, match="Unknown Mujoco env"):
        mujoco_env_by_name("mujoco_dog")
    if mujoco_available():
        assert make_mujoco_env("mujoco_hopper", None, None).observation_space.shape == (11,)


class FakeEnvPool:
    """The interface of EnvPool: the step after the end of an episode would be spent on the reset."""

    observation_space = spaces.Box(0, 100, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, lengths: list[int]):
        self.config = {"num_envs": len(lengths)}
        self.lengths = np.array(lengths)
        self.steps = np.zeros(len(lengths), np.int64)
        self.resets: list[Any] = []

    def reset(self, env_id: Any = None) -> Any:
        ids = np.arange(len(self.steps)) if env_id is None else env_id
        self.resets.append(None if env_id is None else env_id.tolist())
        self.steps[ids] = 0
        return np.zeros((len(ids), 1), np.float32), {}

    def step(self, actions: np.ndarray) -> Any:
        self.steps += 1
        terminated = self.steps >= self.lengths
        obs = self.steps[:, None].astype(np.float32)
        return obs, np.ones(len(self.steps)), terminated, np.zeros_like(terminated), {}

    def render(self) -> np.ndarray:
        return np.full((1, 4, 6, 3), self.steps[0], np.uint8)  # of the first sub-environment only

    def close(self) -> None:
        self.steps[:] = -1


def test_envpool_wrappers() -> None:
    pool = FakeEnvPool([2, 3])
    env = BatchedVecEnv(BatchedRecordEpisodeStatistics(EnvPoolResetFixWrapper(pool), num_envs=2, deque_size=5))
    assert env.num_agents == 2
    env.seed(1)
    obs, _ = env.reset()
    assert obs["obs"].tolist() == [[0], [0]] and pool.resets == [None]
    env.step(np.array([0, 0]))
    obs, _, terminated, _, infos = env.step(np.array([0, 0]))
    assert obs["obs"].tolist() == [[0], [2]] and terminated.tolist() == [True, False]
    assert infos["r"].tolist() == [2, 2] and infos["l"].tolist() == [2, 2] and pool.resets == [None, [0]]
    *_, infos = env.step(np.array([0, 0]))
    assert infos["r"].tolist() == [1, 3], "counted from the start of each episode"
    assert env.render().shape == (4, 6, 3), "one picture, as a video wants it"
    env.close()


@pytest.mark.parametrize("render_mode", [None, "rgb_array"])
@pytest.mark.parametrize(
    ("module", "factory", "env_name"),
    [
        ("atari.envpool_atari_utils", "make_atari_env", "atari_pong"),
        ("mujoco.envpool_mujoco_utils", "make_mujoco_env", "mujoco_ant"),
    ],
)
def test_envpool_is_told_to_render(monkeypatch, module, factory, env_name, render_mode) -> None:
    made: list[dict[str, Any]] = []

    def make(env_id: str, **kwargs: Any) -> FakeEnvPool:
        made.append(kwargs)
        return FakeEnvPool([2, 3])

    monkeypatch.setitem(sys.modules, "envpool", SimpleNamespace(make=make))
    cfg = AttrDict(env_agents=2, seed=None, envpool_num_threads=1, envpool_thread_affinity_offset=-1)
    cfg.update(env_frameskip=4, env_framestack=4)
    make_env = getattr(importlib.import_module(f"sf_examples.envpool.{module}"), factory)
    make_env(env_name, cfg, None, render_mode)
    assert made[0].get("render_mode") == render_mode and ("render_mode" in made[0]) == (render_mode is not None)


def test_envpool_seeds_do_not_overlap() -> None:
    seeds = [envpool_seed(seed, AttrDict(env_id=env_id)) for seed in (None, 1) for env_id in range(3)]
    assert len(set(seeds)) == 6 and envpool_seed(None, None) == 0


def test_string_hash_is_stable() -> None:
    buckets = [string_to_hash_bucket(word, 42) for word in ("jump", "over", "the", "lazy", "dog")]
    assert all(1 <= bucket <= 41 for bucket in buckets)
    assert string_to_hash_bucket("", 42) == 1 + int("d41d8cd98f00b204e9800998ecf8427e", 16) % 41


def test_gym_env_factory() -> None:
    from sf_examples.train_gym_env import make_gym_env_func

    env = make_gym_env_func("CartPole-v1", render_mode="rgb_array")
    assert isinstance(env, gym.Env) and env.render_mode == "rgb_array"
