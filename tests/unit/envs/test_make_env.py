from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from sample_factory.algo.utils.context import reset_global_context
from sample_factory.algo.utils.make_env import (
    BatchedVecEnv,
    NonBatchedVecEnv,
    SequentialVectorizeWrapper,
    get_multiagent_info,
    is_multiagent_env,
    make_env_func_batched,
    make_env_func_non_batched,
    make_tensor_converter,
)
from sample_factory.envs.env_utils import register_env, set_reward_shaping
from sample_factory.utils.attr_dict import AttrDict
from tests.unit.envs.sample_envs import (
    EPISODE_LEN,
    CountingEnv,
    DictCountingEnv,
    ShapedOnlyEnv,
    TwoAgentEnv,
    make_cfg,
    make_counting_env,
)


def test_multiagent_info_looks_through_wrappers() -> None:
    assert get_multiagent_info(CountingEnv()) == (False, 1)
    assert get_multiagent_info(TwoAgentEnv()) == (True, 2)
    assert get_multiagent_info(gym.Wrapper(gym.Wrapper(TwoAgentEnv()))) == (True, 2)
    assert not is_multiagent_env(gym.Wrapper(CountingEnv()))

    contradictory = TwoAgentEnv()
    contradictory.is_multiagent = False
    with pytest.raises(AssertionError):
        get_multiagent_info(contradictory)


def test_non_batched_single_agent_resets_at_once() -> None:
    env = NonBatchedVecEnv(CountingEnv())
    assert env.is_multiagent and env.num_agents == 1
    assert isinstance(env.observation_space, spaces.Dict) and list(env.observation_space) == ["obs"]

    obs, infos = env.reset(seed=7)
    assert env.unwrapped.seeds == [7]
    assert obs[0]["obs"].tolist() == [1, 0] and infos == [{"reset": 1}]
    for step in range(1, EPISODE_LEN):
        obs, rewards, terminated, truncated, infos = env.step([2])
        assert (obs[0]["obs"].tolist(), rewards, terminated, truncated) == ([1, step], [2.0], [False], [False])
        assert "reset_info" not in infos[0]
    obs, rewards, terminated, truncated, infos = env.step([3])
    assert obs[0]["obs"].tolist() == [2, 0]  # the first observation of the new episode
    assert (rewards, terminated, truncated) == ([3.0], [True], [False])
    assert infos == [{"steps": EPISODE_LEN, "reset_info": {"reset": 2}}]
    assert env.unwrapped.seeds == [7, None]


def test_non_batched_resets_on_truncation() -> None:
    env = NonBatchedVecEnv(CountingEnv(truncates=True))
    env.reset()
    for _ in range(EPISODE_LEN):
        obs, _, terminated, truncated, _ = env.step([0])
    assert (terminated, truncated) == ([False], [True]) and obs[0]["obs"].tolist() == [2, 0]


def test_non_batched_dict_observations_are_not_wrapped_again() -> None:
    env = NonBatchedVecEnv(DictCountingEnv())
    obs, _ = env.reset()
    assert set(obs[0]) == {"img", "vec"} == set(env.observation_space)


def test_non_batched_multi_agent_passes_lists() -> None:
    env = NonBatchedVecEnv(TwoAgentEnv())
    obs, infos = env.reset()
    assert [o["obs"].tolist() for o in obs] == [[0, 0], [1, 0]] and infos == [{}, {}]
    obs, rewards, _, _, _ = env.step([1, 4])
    assert [o["obs"].tolist() for o in obs] == [[0, 1], [1, 1]] and rewards == [1.0, 4.0]
    assert env.unwrapped.actions == [[1, 4]]


def test_batched_single_agent() -> None:
    env = BatchedVecEnv(CountingEnv())
    env.seed(11)
    obs, infos = env.reset()
    assert env.unwrapped.seeds == [11]
    assert obs["obs"].shape == (1, 2) and obs["obs"].dtype == torch.float32 and infos == [{"reset": 1}]

    for step in range(1, EPISODE_LEN + 1):
        obs, rewards, terminated, truncated, infos = env.step(np.array([2], np.int32))
        is_last = step == EPISODE_LEN
        assert obs["obs"].tolist() == ([[2, 0]] if is_last else [[1, step]])
        assert rewards.tolist() == [2.0] and rewards.dtype == torch.float32
        assert terminated.tolist() == [is_last] and terminated.dtype == torch.bool
        assert truncated.tolist() == [False] and truncated.dtype == torch.bool
        assert ("reset_info" in infos[0]) == is_last
    assert isinstance(env.unwrapped.actions[0], np.int32)
    assert env.unwrapped.seeds == [11, None]
    env.reset()
    assert env.unwrapped.seeds == [11, None, None], "the seed is for one reset only"


def test_batched_results_of_different_steps_do_not_share_memory() -> None:
    env = BatchedVecEnv(CountingEnv())
    first, _ = env.reset()
    second, first_reward, *_ = env.step(np.array([1]))
    _, second_reward, *_ = env.step(np.array([2]))
    assert first["obs"].tolist() == [[1, 0]] and second["obs"].tolist() == [[1, 1]]
    assert (first_reward.item(), second_reward.item()) == (1.0, 2.0)


def test_batched_integer_then_fractional_rewards() -> None:
    class MixedRewards(CountingEnv):
        def step(self, action: Any) -> Any:
            obs, _, terminated, truncated, info = super().step(action)
            return obs, 0 if self.num_steps == 1 else 0.5, terminated, truncated, info

    for env in (BatchedVecEnv(MixedRewards()), SequentialVectorizeWrapper([BatchedVecEnv(MixedRewards())])):
        env.reset()
        assert env.step(np.array([0]))[1].tolist() == [0.0]
        assert env.step(np.array([0]))[1].tolist() == [0.5]


@pytest.mark.parametrize("as_arrays", [False, True])
def test_batched_multi_agent(as_arrays: bool) -> None:
    env = BatchedVecEnv(TwoAgentEnv(as_arrays))
    assert env.num_agents == 2
    obs, _ = env.reset()
    assert obs["obs"].tolist() == [[0, 0], [1, 0]]
    obs, rewards, terminated, truncated, infos = env.step(np.array([1, 4]))
    assert obs["obs"].tolist() == [[0, 1], [1, 1]] and rewards.tolist() == [1.0, 4.0]
    assert (terminated | truncated).tolist() == [False, False] and len(infos) == 2


def test_batched_list_of_dict_observations() -> None:
    class DictObs(TwoAgentEnv):
        def __init__(self) -> None:
            super().__init__()
            self.observation_space = spaces.Dict({"vec": self.observation_space, "id": spaces.Discrete(2)})

        def obs(self) -> Any:
            return [{"vec": o, "id": i, "undeclared": [i]} for i, o in enumerate(super().obs())]

    env = BatchedVecEnv(DictObs())
    obs, _ = env.reset()
    assert obs["vec"].shape == (2, 2)
    assert obs["id"].tolist() == [0, 1] and obs["id"].dtype == torch.int64
    assert obs["undeclared"].tolist() == [[0], [1]], "undeclared keys are carried along"


def test_batched_tensor_environment_is_passed_through() -> None:
    class TensorEnv(TwoAgentEnv):
        def reset(self, **kwargs: Any) -> Any:
            self.last_obs = torch.zeros(2, 2)
            return self.last_obs, {}

        def step(self, actions: Any) -> Any:
            flags = torch.zeros(2, dtype=torch.bool)
            return self.last_obs, torch.ones(2), flags, flags, {"mean": torch.ones(1)}

    env = BatchedVecEnv(TensorEnv())
    obs, _ = env.reset()
    assert obs["obs"] is env.unwrapped.last_obs
    _, rewards, _, _, infos = env.step(torch.zeros(2))
    assert rewards.tolist() == [1, 1] and infos["mean"].item() == 1


def test_batched_mixed_tuple_actions() -> None:
    space = spaces.Tuple([spaces.Discrete(3), spaces.Box(-1, 1, (2,))])
    env = BatchedVecEnv(CountingEnv(action_space=space))
    env.reset()
    env.step([np.array([2], np.int32), np.array([[0.5, -0.5]], np.float32)])
    discrete, box = env.unwrapped.actions[0]
    assert discrete == 2 and box.tolist() == [0.5, -0.5]

    vectorised = SequentialVectorizeWrapper([BatchedVecEnv(CountingEnv(action_space=space)) for _ in range(2)])
    vectorised.reset()
    vectorised.step([np.array([1, 2], np.int32), np.array([[0.1, 0.2], [0.3, 0.4]], np.float32)])
    assert [int(e.unwrapped.actions[0][0]) for e in vectorised.envs] == [1, 2]
    np.testing.assert_allclose(vectorised.envs[1].unwrapped.actions[0][1], [0.3, 0.4], rtol=1e-6)


def test_tensor_converter_rejects_unknown_types() -> None:
    with pytest.raises(RuntimeError, match="Cannot convert"):
        make_tensor_converter("text", None)
    stacked = make_tensor_converter([torch.zeros(2)], None)([torch.ones(2), torch.ones(2)])
    assert stacked.shape == (2, 2)


def test_sequential_concatenates_and_reuses_memory() -> None:
    envs = [BatchedVecEnv(DictCountingEnv()) for _ in range(3)]
    for i, env in enumerate(envs):
        env.seed(100 + i)
    vec_env = SequentialVectorizeWrapper(envs)
    assert vec_env.num_agents == 3 and vec_env.is_multiagent and vec_env.envs == envs
    obs, infos = vec_env.reset()
    assert [env.unwrapped.seeds for env in envs] == [[100], [101], [102]]
    assert obs["vec"].shape == (3, 2) and obs["img"].dtype == torch.uint8 and len(infos) == 3

    envs[1].unwrapped.num_steps = 1  # out of phase
    new_obs, rewards, terminated, _, infos = vec_env.step(np.array([1, 2, 3], np.int32))
    assert new_obs["vec"] is obs["vec"]
    assert rewards.tolist() == [1, 2, 3] and not terminated.any()
    new_obs, _, terminated, truncated, infos = vec_env.step(np.array([0, 0, 0], np.int32))
    assert terminated.tolist() == [False, True, False] and not truncated.any()
    assert new_obs["vec"].tolist() == [[1, 2], [2, 0], [1, 2]]
    assert new_obs["img"][:, 0, 0, 0].tolist() == [2, 0, 2]
    assert ["reset_info" in info for info in infos] == [False, True, False]
    vec_env.close()
    assert all(env.unwrapped.closed for env in envs)


def test_sequential_multi_agent() -> None:
    vec_env = SequentialVectorizeWrapper([BatchedVecEnv(TwoAgentEnv()), BatchedVecEnv(TwoAgentEnv(as_arrays=True))])
    vec_env.reset()
    obs, rewards, _, _, infos = vec_env.step(np.array([0, 1, 2, 3]))
    assert obs["obs"].tolist() == [[0, 1], [1, 1], [0, 1], [1, 1]]
    assert rewards.tolist() == [0, 1, 2, 3] and len(infos) == 4


class ListObsEnv(CountingEnv):
    def obs(self) -> Any:
        return [float(self.num_resets), self.num_steps]


class RowObsEnv(CountingEnv):
    def obs(self) -> Any:
        return super().obs()[None].astype(np.float64)  # [1, 2] for a space of [2]


class NumberObsEnv(CountingEnv):
    def __init__(self) -> None:
        super().__init__(spaces.Dict({"n": spaces.Discrete(9), "big": spaces.Box(0, 1000, (2, 300), np.float32)}))

    def obs(self) -> Any:
        return {"n": self.num_steps, "big": np.full((2, 300), self.num_steps, np.float32)}


@pytest.mark.parametrize("env_class", [CountingEnv, DictCountingEnv, ListObsEnv, RowObsEnv, NumberObsEnv])
@pytest.mark.parametrize("num_envs", [1, 3])
def test_sequential_ordinary_environments_as_through_their_layers(env_class: Any, num_envs: int) -> None:
    """Single-agent environments are stepped around the layers that give them the batched form: same results."""
    fast, layered = (SequentialVectorizeWrapper([BatchedVecEnv(env_class()) for _ in range(num_envs)]) for _ in "ab")
    layered._single_agent_envs = []
    for vec_env in (fast, layered):
        vec_env.reset()
        vec_env.envs[-1].unwrapped.num_steps = 1  # out of phase
    for step in range(2 * EPISODE_LEN):
        actions = np.arange(num_envs, dtype=np.int32) + step
        (obs, *flags, infos), (layered_obs, *layered_flags, layered_infos) = fast.step(actions), layered.step(actions)
        assert obs.keys() == layered_obs.keys() and infos == layered_infos
        for got, expected in zip([*obs.values(), *flags], [*layered_obs.values(), *layered_flags], strict=True):
            torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_sequential_mixed_tuple_actions() -> None:
    space = spaces.Tuple([spaces.Discrete(3), spaces.Box(-1, 1, (2,))])
    vec_env = SequentialVectorizeWrapper([BatchedVecEnv(CountingEnv(action_space=space)) for _ in range(2)])
    vec_env.reset()
    vec_env.step([np.array([1, 2], np.int32), np.array([[0.0, 1.0], [2.0, 3.0]], np.float32)])
    received = [env.unwrapped.actions[-1] for env in vec_env.envs]
    assert [int(action[0]) for action in received] == [1, 2]
    assert [action[1].tolist() for action in received] == [[0, 1], [2, 3]]


def test_sequential_needs_equal_numbers_of_agents() -> None:
    with pytest.raises(AssertionError, match="equal"):
        SequentialVectorizeWrapper([BatchedVecEnv(TwoAgentEnv()), BatchedVecEnv(CountingEnv())])


def test_sequential_forwards_training_info_and_reward_shaping() -> None:
    vec_env = SequentialVectorizeWrapper([BatchedVecEnv(TwoAgentEnv()) for _ in range(2)])
    vec_env.set_training_info({"approx_total_training_steps": 5})
    assert all(env.unwrapped.training_info == {"approx_total_training_steps": 5} for env in vec_env.envs)
    assert vec_env.get_default_reward_shaping() == {"rew": 1.0}

    vec_env.set_reward_shaping({"rew": 2.0}, slice(0, 4))
    assert [env.unwrapped.shaping_calls for env in vec_env.envs] == [[({"rew": 2.0}, slice(0, 2, 1))]] * 2
    vec_env.set_reward_shaping({"rew": 3.0}, slice(3, 4))
    assert len(vec_env.envs[0].unwrapped.shaping_calls) == 1
    assert vec_env.envs[1].unwrapped.shaping_calls[-1] == ({"rew": 3.0}, slice(1, 2, 1))
    with pytest.raises(AssertionError, match="slice"):
        vec_env.set_reward_shaping({"rew": 1.0}, 0)


def test_q33_reward_shaping_without_training_info() -> None:
    vec_env = SequentialVectorizeWrapper([BatchedVecEnv(ShapedOnlyEnv()) for _ in range(2)])
    assert vec_env.get_default_reward_shaping() == {"coeff": 0.5}
    set_reward_shaping(vec_env, {"coeff": 0.9}, slice(0, 2))
    assert all(env.unwrapped.shaping == [({"coeff": 0.9}, slice(0, 1, 1))] for env in vec_env.envs)
    vec_env.set_training_info({"x": 1})  # nobody listens, nothing breaks


def test_q47_non_batched_values_are_scalars() -> None:
    """Rewards and flags must fit into scalar slots of a NumPy array without deprecated conversions."""
    env = NonBatchedVecEnv(CountingEnv())
    env.reset()
    _, rewards, terminated, truncated, _ = env.step([1])
    for value in (rewards[0], terminated[0], truncated[0]):
        assert np.ndim(value) == 0


def test_q58_attributes_and_spaces_through_wrappers() -> None:
    env = gym.Wrapper(gym.wrappers.TimeLimit(TwoAgentEnv(), 10))
    wrapped = NonBatchedVecEnv(env)
    assert wrapped.num_agents == 2
    assert wrapped.get_default_reward_shaping() == {"rew": 1.0}, "attributes of the inner environment are reachable"
    with pytest.raises(AttributeError, match="no_such_attribute"):
        _ = wrapped.no_such_attribute
    assert wrapped.unwrapped is env.unwrapped


def test_factories_use_the_registry() -> None:
    reset_global_context()
    register_env("counting", make_counting_env)
    env_config = AttrDict(worker_index=0, vector_index=0, env_id=0)
    assert isinstance(make_env_func_batched(make_cfg(), env_config=None), BatchedVecEnv)
    assert isinstance(make_env_func_non_batched(make_cfg(), env_config, render_mode=None), NonBatchedVecEnv)
    with pytest.raises(ValueError, match="not registered"):
        make_env_func_batched(make_cfg("unheard_of"), env_config)
    reset_global_context()


def test_sequential_with_tensor_observations() -> None:
    class TensorObs(CountingEnv):
        def obs(self) -> Any:
            return torch.tensor([self.num_resets, self.num_steps], dtype=torch.float32)

    class TwoTensorObs(TwoAgentEnv):
        def obs(self) -> Any:
            return [torch.tensor([agent, self.num_steps], dtype=torch.float32) for agent in range(2)]

    for env_class, expected in ((TensorObs, [[1, 1], [1, 1]]), (TwoTensorObs, [[0, 1], [1, 1], [0, 1], [1, 1]])):
        vec_env = SequentialVectorizeWrapper([BatchedVecEnv(env_class()) for _ in range(2)])
        vec_env.reset()
        obs, *_ = vec_env.step(np.zeros(vec_env.num_agents, np.int32))
        assert obs["obs"].tolist() == expected
