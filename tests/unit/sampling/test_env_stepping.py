"""The loop over environments does what the layers around a single environment do."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from sample_factory.algo.sampling.env_faults import BAD_OBSERVATIONS, BadObservationError, EnvFaults
from sample_factory.algo.sampling.env_stepping import (
    FAULT_KEY,
    EnvRepair,
    MultiAgentEnvs,
    SingleAgentEnvs,
    make_split_envs,
)
from sample_factory.algo.sampling.episode_accounts import EpisodeAccounts
from sample_factory.algo.sampling.obs_writer import ObsWriter
from sample_factory.algo.utils.life_signs import unobserved
from sample_factory.algo.utils.make_env import NonBatchedVecEnv
from sample_factory.utils.attr_dict import AttrDict

N, T = 3, 4


class CountingEnv(gym.Env):
    """The observation is the number of steps in the episode, which ends after ``length``."""

    def __init__(self, length: int, as_dict: bool = False, ends_by: str = "terminated"):
        box = spaces.Box(-1e6, 1e6, (2,), np.float32)
        self.observation_space = spaces.Dict(a=box, b=box) if as_dict else box
        self.action_space = spaces.Discrete(10)
        self.length, self.as_dict, self.ends_by = length, as_dict, ends_by

    def _obs(self):
        value = np.full(2, self.t, np.float32)
        return {"a": value, "b": -value} if self.as_dict else value

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return self._obs(), {"fresh": True}

    def step(self, action):
        self.t += 1
        done = self.t == self.length
        return (
            self._obs(),
            float(action),
            done and self.ends_by == "terminated",
            done and self.ends_by != "terminated",
            {},
        )


class PairEnv:
    """Two agents; the second has no observation at odd steps."""

    num_agents, is_multiagent = 2, True
    observation_space = spaces.Box(-1e6, 1e6, (2,), np.float32)
    action_space = spaces.Discrete(10)

    def reset(self, **kwargs):
        self.t = 0
        return [np.zeros(2, np.float32)] * 2, [{}, {}]

    def step(self, actions):
        self.t += 1
        obs = [np.full(2, self.t, np.float32), None if self.t % 2 else np.full(2, -self.t, np.float32)]
        done = self.t == 3
        return obs, [float(a) for a in actions], [done, False], [False, done], [{"agent": 0}, {}]

    def close(self):
        pass


def split_of(envs: list[NonBatchedVecEnv], make_env=None, bad_obs="error", max_env_rebuilds=3):
    """The environments as a rollout worker steps them; broken ones are replaced by what ``make_env`` returns."""

    def rebuild(env_i: int) -> list[dict]:
        envs[env_i] = make_env(env_i)
        return envs[env_i].reset()[0]

    cfg = AttrDict(env="counting", bad_obs=bad_obs, max_env_rebuilds=max_env_rebuilds)
    faults = EnvFaults(cfg, worker_idx=7, first_env=10)
    return make_split_envs(envs, faults, EnvRepair(rebuild, lambda i: envs[i].reset()[0]), unobserved()), faults


def columns_for(env) -> dict[str, np.ndarray]:
    """Like a block: indexed [row, step], stored step after step."""
    return {key: np.full((T + 1, N, 2), 7, np.float32).swapaxes(0, 1) for key in env.observation_space.spaces}


@pytest.mark.parametrize("as_dict", [False, True])
def test_single_agents_are_stepped_reset_and_stored(as_dict):
    envs = [
        NonBatchedVecEnv(CountingEnv(length, as_dict, ends_by))
        for length, ends_by in [(2, "terminated"), (100, ""), (1, "truncated")]
    ]
    split, _ = split_of(envs)
    assert isinstance(split, SingleAgentEnvs)
    for env in envs:
        env.reset()
    columns = columns_for(envs[0])
    writer = ObsWriter(columns)
    rewards = np.zeros(N)
    first = split.step([5, 6, 7], writer, 1, rewards)
    assert rewards.tolist() == [5.0, 6.0, 7.0]
    assert [(e.row, e.terminated, e.truncated) for e in first.finished] == [(2, False, True)]
    assert first.finished[0].info == {"reset_info": {"fresh": True}} == first.infos[2]
    second = split.step([1, 1, 1], writer, 2, rewards)
    assert [(e.row, e.terminated, e.truncated) for e in second.finished] == [(0, True, False), (2, False, True)]
    stored = columns["a" if as_dict else "obs"]
    assert stored[:, 1].tolist() == [[1, 1], [1, 1], [0, 0]]
    assert stored[:, 2].tolist() == [[0, 0], [2, 2], [0, 0]]
    assert (stored[:, [0, 3, 4]] == 7).all()
    if as_dict:
        assert columns["b"][:, 1].tolist() == [[-1, -1], [-1, -1], [0, 0]]


def test_agents_without_observation_are_stored_as_zeros():
    env = NonBatchedVecEnv(PairEnv())
    split, _ = split_of([env])
    assert isinstance(split, MultiAgentEnvs)
    env.reset()
    columns = {"obs": np.full((T + 1, 2, 2), 7, np.float32).swapaxes(0, 1)}
    writer = ObsWriter(columns)
    rewards = np.zeros((4, 2))
    results = [split.step([step, step + 1], writer, step, rewards[step]) for step in (1, 2, 3)]
    assert columns["obs"][:, 1:4, 0].tolist() == [[1, 2, 3], [0, -2, 0]]
    assert rewards[1].tolist() == [1.0, 2.0] and results[0].infos == [{"agent": 0}, {}]
    assert [(e.row, e.terminated, e.truncated) for e in results[2].finished] == [(0, True, False), (1, False, True)]


@pytest.mark.parametrize("shape", [(2,), (1, 2)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_observations_are_converted_like_assignments_do(shape, dtype):
    columns = {"obs": np.zeros((T + 1, N, 2), np.float32).swapaxes(0, 1)}
    ObsWriter(columns).write_key("obs", 2, [np.full(shape, row, dtype) for row in range(N)])
    assert columns["obs"][:, 2].tolist() == [[0, 0], [1, 1], [2, 2]]


def test_images_and_scalars_are_stored():
    image = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    columns = {
        "image": np.zeros((T + 1, N, 2, 3, 4), np.uint8).swapaxes(0, 1),
        "number": np.zeros((T + 1, N), np.float32).swapaxes(0, 1),
    }
    ObsWriter(columns).write(1, [{"image": image + row, "number": row} for row in range(N)])
    assert np.array_equal(columns["image"][2, 1], image + 2) and columns["number"][:, 1].tolist() == [0, 1, 2]


def test_observation_of_the_wrong_size_is_an_error():
    columns = {"obs": np.zeros((T + 1, N, 2), np.float32).swapaxes(0, 1)}
    with pytest.raises(BadObservationError, match=r"observation 'obs': has the shape \(3,\)"):
        ObsWriter(columns).write_key("obs", 1, [np.zeros(2), np.zeros(3), np.zeros(2)])


def test_axes_in_another_order_are_an_error():
    """As many numbers, but a picture of noise."""
    columns = {"obs": np.zeros((T + 1, N, 3, 4, 4), np.uint8).swapaxes(0, 1)}
    with pytest.raises(BadObservationError, match=r"has the shape \(4, 4, 3\), the observation space says \(3, 4, 4\)"):
        ObsWriter(columns).write_key("obs", 1, [np.zeros((4, 4, 3), np.uint8)] * N)


def test_lengths_that_only_add_up_are_an_error():
    columns = {"obs": np.zeros((T + 1, N, 2), np.float32).swapaxes(0, 1)}
    values = [np.zeros(size, np.float32) for size in (1, 2, 3)]
    with pytest.raises(BadObservationError, match=r"has the shape \(1,\)"):
        ObsWriter(columns).write_key("obs", 1, values)


class ArrayPairEnv(PairEnv):
    """Arrays instead of lists, and a dictionary of infos."""

    def step(self, actions):
        self.t += 1
        done = np.array([self.t == 2, False])
        infos = {1: {"agent": 1}, 0: {"agent": 0}}
        return np.full((2, 2), self.t, np.float32), np.array(actions) * 0.5, done, np.zeros(2, bool), infos


def test_agents_may_share_arrays_and_have_infos_by_number():
    envs = [NonBatchedVecEnv(ArrayPairEnv()) for _ in range(2)]
    split, _ = split_of(envs)
    for env in envs:
        env.reset()
    columns = {"obs": np.full((T + 1, 4, 2), 7, np.float32).swapaxes(0, 1)}
    writer, rewards = ObsWriter(columns), np.zeros((3, 4))
    results = [split.step([step, 2, 3, 4], writer, step, rewards[step]) for step in (1, 2)]
    assert rewards[1].tolist() == [0.5, 1.0, 1.5, 2.0]
    assert columns["obs"][:, 1:3, 0].tolist() == [[1, 2]] * 4
    assert results[0].infos == [{"agent": 0}, {"agent": 1}] * 2
    assert [(e.row, e.terminated, e.info) for e in results[1].finished] == [
        (0, True, {"agent": 0}),
        (2, True, {"agent": 0}),
    ]


class CutOffPairEnv(ArrayPairEnv):
    """A time limit for the second agent alone."""

    def step(self, actions):
        obs, rewards, _, _, infos = super().step(actions)
        return obs, rewards, np.zeros(2, bool), np.array([False, True]), infos


def test_a_time_limit_of_one_agent_is_the_end_of_its_episode():
    env = NonBatchedVecEnv(CutOffPairEnv())
    split, _ = split_of([env])
    env.reset()
    columns = {"obs": np.zeros((T + 1, 2, 2), np.float32).swapaxes(0, 1)}
    result = split.step([1, 1], ObsWriter(columns), 1, np.zeros(2))
    assert [(e.row, e.terminated, e.truncated) for e in result.finished] == [(1, False, True)]


class SpoiledPairEnv(ArrayPairEnv):
    """The second agent sees NaN in the first step."""

    def step(self, actions):
        obs, *rest = super().step(actions)
        if self.t == 1:
            obs[1] = np.nan
        return obs, *rest


def test_bad_observation_of_an_agent_resets_its_environment_and_no_other():
    envs = [NonBatchedVecEnv(cls()) for cls in (ArrayPairEnv, SpoiledPairEnv, ArrayPairEnv)]
    split, faults = split_of(envs, bad_obs="reset")
    for env in envs:
        env.reset()
    columns = {"obs": np.full((T + 1, 6, 2), 7, np.float32).swapaxes(0, 1)}
    result = split.step([1] * 6, ObsWriter(columns), 1, np.zeros(6))
    assert columns["obs"][:, 1, 0].tolist() == [1, 1, 0, 0, 1, 1]
    assert [(e.row, e.terminated, e.truncated) for e in result.finished] == [(2, False, True), (3, False, True)]
    assert [FAULT_KEY in info for info in result.infos] == [False, False, True, True, False, False]
    assert faults.unreported == {BAD_OBSERVATIONS: 1}


class WrappedRewardEnv(CountingEnv):
    def __init__(self, wrap):
        super().__init__(length=100)
        self.wrap = wrap

    def step(self, action):
        obs, reward, *rest = super().step(action)
        return obs, self.wrap(reward), *rest


@pytest.mark.parametrize("wrap", [lambda r: np.array([r]), lambda r: np.array([[r]]), lambda r: [r]])
def test_rewards_may_be_wrapped_in_arrays_of_one_element(wrap):
    envs = [NonBatchedVecEnv(WrappedRewardEnv(wrap)) for _ in range(N)]
    for env in envs:
        env.reset()
    rewards = np.zeros(N)
    split_of(envs)[0].step([5, 6, 7], ObsWriter(columns_for(envs[0])), 1, rewards)
    assert rewards.tolist() == [5.0, 6.0, 7.0]


@pytest.mark.parametrize("reward", [[1.0, 2.0], "x", {}])
def test_rewards_that_are_no_number_name_their_agent(reward):
    envs = [NonBatchedVecEnv(WrappedRewardEnv(wrap)) for wrap in (float, lambda _: reward, float)]
    for env in envs:
        env.reset()
    with pytest.raises(ValueError, match="the reward of agent 1 of the split is no number"):
        split_of(envs)[0].step([5, 6, 7], ObsWriter(columns_for(envs[0])), 1, np.zeros(N))


def test_accounts_agree_with_adding_up_every_step():
    rng, n, rollout, frameskip = np.random.default_rng(0), 5, 7, 4
    accounts = EpisodeAccounts(n, rollout, frameskip)
    returns, lengths = np.zeros(n), np.zeros(n, int)
    num_episodes = 0
    for step in range(rollout * 20):
        rewards = rng.normal(size=n)
        accounts.rewards[step % rollout] = rewards
        returns += rewards
        lengths += frameskip
        for row in np.flatnonzero(rng.random(n) < 0.15):
            assert accounts.finish_episode(row, step % rollout) == (pytest.approx(returns[row]), lengths[row])
            returns[row], lengths[row] = 0.0, 0
            num_episodes += 1
        if step % rollout == rollout - 1:
            accounts.finish_block()
    assert num_episodes > 50
