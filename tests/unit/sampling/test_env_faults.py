"""Environments that raise, and observations and rewards nobody can learn from."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from sample_factory.algo.sampling import env_faults
from sample_factory.algo.sampling.env_faults import BAD_OBSERVATIONS, ENV_FAILURES, BadObservationError, is_finite
from sample_factory.algo.sampling.env_stepping import FAULT_KEY
from sample_factory.algo.sampling.obs_writer import ObsWriter
from sample_factory.algo.utils.child_process import FinalError
from sample_factory.algo.utils.make_env import NonBatchedVecEnv
from tests.unit.flags.sampling_setup import make_env_runner, sampling_cfg
from tests.unit.sampling.test_env_stepping import split_of

N, T = 3, 30
SEPARATE = ("--serial_mode=False", "--inference_placement=separate")  # otherwise a worker has one split


class ScriptedEnv(gym.Env):
    """Counts its steps; ``script[t]`` says what is wrong in step ``t`` of its life: ``raise``, or what to return in the
    place of the observation or the reward.
    """

    action_space = spaces.Discrete(2)

    def __init__(self, script: dict[int, Any] | None = None, as_dict: bool = False, breaks_reset: bool = False) -> None:
        box = spaces.Box(-1e6, 1e6, (2,), np.float32)
        self.observation_space = spaces.Dict(a=box, b=box) if as_dict else box
        self.script, self.as_dict, self.breaks_reset = script or {}, as_dict, breaks_reset
        self.t = self.num_resets = 0

    def _obs(self, value: Any) -> Any:
        return {"a": value, "b": np.zeros(2, np.float32)} if self.as_dict else value

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.num_resets += 1
        if self.breaks_reset:
            raise OSError("simulator is gone")
        return self._obs(np.full(2, -1, np.float32)), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        wrong = self.script.get(self.t)
        if isinstance(wrong, str) and wrong == "raise":
            raise RuntimeError(f"step {self.t} failed")
        obs, reward = self._obs(np.full(2, self.t, np.float32)), 1.0
        if isinstance(wrong, tuple):
            reward = wrong[0]
        elif isinstance(wrong, str):
            obs = {"b": obs["b"]}
        elif wrong is not None:
            obs = self._obs(wrong)
        return obs, reward, False, False, {}


class Split:
    """``N`` environments of which number 1 follows the script; replaced by what ``replacements`` holds in turn."""

    def __init__(self, script: dict[int, Any], replacements: list[ScriptedEnv] | None = None, **kwargs: Any) -> None:
        as_dict = kwargs.pop("as_dict", False)
        self.replacements = replacements if replacements is not None else [ScriptedEnv(as_dict=as_dict)] * 10
        envs = [NonBatchedVecEnv(ScriptedEnv(script if i == 1 else None, as_dict)) for i in range(N)]
        for env in envs:
            env.reset()
        make_env = lambda _: NonBatchedVecEnv(self.replacements.pop(0))  # noqa: E731
        self.split, self.faults = split_of(envs, make_env, **kwargs)
        keys = envs[0].observation_space.spaces
        self.obs = {key: np.zeros((T + 1, N, 2), np.float32).swapaxes(0, 1) for key in keys}
        self.rewards = np.zeros((T, N))
        self.writer = ObsWriter(self.obs)
        self.results: list[Any] = []

    def step(self, num_steps: int = 1) -> Any:
        for _ in range(num_steps):
            t = len(self.results)
            self.results.append(self.split.step([0] * N, self.writer, t + 1, self.rewards[t]))
        return self.results[-1]


def test_E4_environment_that_raises_is_replaced_and_the_others_notice_nothing(caplog: pytest.LogCaptureFixture) -> None:
    split = Split({3: "raise"})
    split.step(2)
    result = split.step()
    assert [(e.row, e.terminated, e.truncated) for e in result.finished] == [(1, False, True)]
    assert result.infos == [{}, {FAULT_KEY: True}, {}]
    assert split.rewards[2].tolist() == [1, 0, 1]
    assert split.obs["obs"][:, 3, 0].tolist() == [3, -1, 3]
    assert split.step().finished == [] and split.obs["obs"][:, 4, 0].tolist() == [4, 1, 4]
    assert split.faults.unreported == {ENV_FAILURES: 1}


@pytest.mark.parametrize("budget", [0, 1, 3])
def test_E4_failures_in_a_row_beyond_the_budget_are_raised(budget: int) -> None:
    broken = [ScriptedEnv({1: "raise"}) for _ in range(10)]
    split = Split({1: "raise"}, broken, max_env_rebuilds=budget)
    if budget:
        split.step(budget)
    with pytest.raises(RuntimeError, match="step 1 failed"):
        split.step()
    assert split.faults.unreported[ENV_FAILURES] == budget + 1


def test_E4_a_good_step_in_between_forgives() -> None:
    split = Split({2: "raise"}, [ScriptedEnv({2: "raise"}) for _ in range(10)], max_env_rebuilds=1)
    split.step(16)
    assert split.faults.unreported[ENV_FAILURES] == 8


def test_E4_replacement_that_cannot_be_reset_counts_as_well() -> None:
    split = Split({1: "raise"}, [ScriptedEnv(breaks_reset=True), ScriptedEnv(), ScriptedEnv()], max_env_rebuilds=2)
    split.step()
    assert split.faults.unreported[ENV_FAILURES] == 2 and len(split.replacements) == 1
    with pytest.raises(OSError, match="simulator is gone"):
        Split({1: "raise"}, [ScriptedEnv(breaks_reset=True)] * 9, max_env_rebuilds=2).step()


def test_messages_number_environments_as_these_were_told() -> None:
    cfg = sampling_cfg("--num_envs_per_worker=4", "--worker_num_splits=2", *SEPARATE)
    for worker_idx, split_idx, first in ((0, 0, 0), (1, 0, 4), (1, 1, 6)):
        runner = make_env_runner(cfg, worker_idx, split_idx)
        ids = [env.unwrapped.env_config.env_id for env in runner.envs]
        assert ids == [first, first + 1]
        with pytest.raises(FinalError, match=f"Environment {ids[1]} .* of rollout worker {worker_idx}: "):
            runner.faults.on_bad_observation(1, 0, BadObservationError(0, "obs", "is bad"))


BAD = [
    pytest.param(np.array([1, np.nan], np.float32), "element 1 is nan", id="nan"),
    pytest.param(np.array([np.inf, 0], np.float32), "element 0 is inf", id="inf"),
    pytest.param(np.zeros(3, np.float32), r"has the shape \(3,\), the observation space says \(2,\)", id="shape"),
    pytest.param(np.array(["a", "b"]), "which is no number", id="type"),
]


@pytest.mark.parametrize("as_dict", [False, True])
@pytest.mark.parametrize(("value", "message"), BAD)
def test_E9_bad_observation_is_an_error_that_names_it(value: Any, message: str, as_dict: bool) -> None:
    split = Split({2: value}, as_dict=as_dict)
    split.step()
    key = "a" if as_dict else "obs"
    with pytest.raises(
        FinalError, match=rf"Environment 11 \(counting\) of rollout worker 7: observation '{key}': .*{message}"
    ):
        split.step()
    assert split.faults.unreported == {BAD_OBSERVATIONS: 1}


def test_E9_missing_key_is_an_error_that_names_it() -> None:
    with pytest.raises(FinalError, match=r"observation 'a': is missing; the environment returned \['b'\]"):
        Split({1: "missing"}, as_dict=True).step()


@pytest.mark.parametrize("as_dict", [False, True])
@pytest.mark.parametrize(("value", "message"), BAD)
@pytest.mark.parametrize("policy", ["reset", "zero"])
def test_E9_bad_observation_is_repaired(policy: str, value: Any, message: str, as_dict: bool) -> None:
    split = Split({2: value}, as_dict=as_dict, bad_obs=policy)
    result = split.step(2)
    is_reset = policy == "reset"
    assert split.obs["a" if as_dict else "obs"][:, 2, 0].tolist() == [2, -1 if is_reset else 0, 2]
    assert [(e.row, e.truncated) for e in result.finished] == ([(1, True)] if is_reset else [])
    assert split.step().finished == []
    assert split.faults.unreported == {BAD_OBSERVATIONS: 1}


@pytest.mark.parametrize("policy", ["reset", "zero"])
def test_E9_missing_key_is_repaired(policy: str) -> None:
    split = Split({1: "missing"}, as_dict=True, bad_obs=policy)
    split.step()
    assert split.obs["a"][:, 1, 0].tolist() == [1, -1 if policy == "reset" else 0, 1]


def test_E9_environment_that_stays_bad_after_resets_ends_the_run() -> None:
    class AlwaysNan(ScriptedEnv):
        def reset(self, **kwargs: Any) -> Any:
            return np.full(2, np.nan, np.float32), {}

    split = Split({1: np.full(2, np.nan, np.float32)}, bad_obs="reset", max_env_rebuilds=2)
    split.split._envs[1].single_agent_env.reset = AlwaysNan().reset
    with pytest.raises(FinalError, match="after 2 resets"):
        split.step()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_E10_bad_reward_never_reaches_the_learner(value: float) -> None:
    with pytest.raises(FinalError, match=f"of rollout worker 7: reward: {value} is not a finite number"):
        Split({1: (value,)}).step()
    for policy, is_reset in (("reset", True), ("zero", False)):
        split = Split({1: (value,)}, bad_obs=policy)
        result = split.step()
        assert split.rewards[0].tolist() == [1, 0, 1] and bool(result.finished) == is_reset
        assert split.obs["obs"][:, 1, 0].tolist() == [1, -1 if is_reset else 1, 1]


def test_whole_numbers_in_other_types_are_no_fault() -> None:
    columns = {"obs": np.zeros((2, N, 2), np.uint8).swapaxes(0, 1)}
    ObsWriter(columns).write_key("obs", 1, [np.full(2, 200 + i, np.int64) for i in range(N)])
    assert columns["obs"][:, 1].tolist() == [[200, 200], [201, 201], [202, 202]]


def test_fractions_lose_theirs_in_integers_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    env_faults._warn_of_fractions.cache_clear()
    columns = {"obs": np.zeros((2, N, 2), np.uint8).swapaxes(0, 1)}
    for _ in range(2):
        ObsWriter(columns).write_key("obs", 1, [np.array([3.5, 254.9])] * N)
    assert columns["obs"][:, 1].tolist() == [[3, 254]] * N
    assert caplog.text.count("has fractions (float64)") == 1


@pytest.mark.parametrize("values", [[256.5, 1.0], [300, 1], [-1, 0], [np.nan, 0.0]])
def test_E9_values_the_type_cannot_hold_are_a_fault(values: list[float]) -> None:
    columns = {"obs": np.zeros((2, N, 2), np.uint8).swapaxes(0, 1)}
    with pytest.raises(BadObservationError, match="uint8 of the observation space cannot hold"):
        ObsWriter(columns).write_key("obs", 1, [np.array(values)] * N)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.filterwarnings("ignore:overflow encountered in dot")
def test_is_finite_agrees_with_looking_at_every_number(dtype: type) -> None:
    rng = np.random.default_rng(0)
    for scale in (1.0, 1e30, 1e300 if dtype is np.float64 else 1e38):  # squares of large numbers overflow
        values = (rng.uniform(-1, 1, 100) * scale).astype(dtype)
        assert is_finite(values)
        for bad in (np.nan, np.inf, -np.inf):
            values[17] = bad
            assert not is_finite(values)


def test_is_finite_looks_at_all_parts_of_long_arrays() -> None:
    values = np.ones(25_000, np.float32)
    assert is_finite(values)
    for index in (0, 9_999, 10_000, 24_999):
        changed = values.copy()
        changed[index] = np.nan
        assert not is_finite(changed)


def test_E9_one_bad_number_among_many_agents_is_found() -> None:
    num_agents, size = 200, 64  # more numbers than are summed at once
    writer = ObsWriter({"obs": np.zeros((3, num_agents, size), np.float32).swapaxes(0, 1)})
    values = [np.full(size, 1.0, np.float32) for _ in range(num_agents)]
    writer.write_key("obs", 1, values)
    values[150][7] = np.nan
    with pytest.raises(BadObservationError, match="element 7 is nan") as raised:
        writer.write_key("obs", 2, values)
    assert raised.value.row == 150
