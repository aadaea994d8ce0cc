"""What environments written for Sample Factory 2 are given and may answer."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from sample_factory.algo.utils.context import reset_global_context
from sample_factory.algo.utils.misc import ExperimentStatus
from sample_factory.enjoy import enjoy
from sample_factory.envs.create_env import create_env
from sample_factory.envs.env_utils import register_env
from tests.api import script_envs
from tests.integration.harness import MODES, SERIAL, parse, train

FACTORIES: dict[str, Any] = {
    "function": script_envs.make_env,
    "partial": partial(script_envs.make_env_with_options, episode_len=4),
    "bound_method": script_envs.EnvBuilder().build,
    "class": script_envs.SingleAgentEnv,
}


@pytest.fixture(autouse=True)
def own_registry():
    reset_global_context()
    yield
    reset_global_context()


@pytest.fixture
def short() -> tuple[str, ...]:
    return ("--train_for_env_steps=500",)


@pytest.mark.parametrize("kind", FACTORIES)
@pytest.mark.parametrize("by_keyword", [False, True])
def test_anything_callable_can_be_registered(kind: str, by_keyword: bool, tmp_path) -> None:
    if by_keyword:
        register_env(env_name="mine", make_env_func=FACTORIES[kind])
    else:
        register_env("mine", FACTORIES[kind])
    env = create_env("mine", cfg=parse(tmp_path, env="mine"))
    assert isinstance(env.unwrapped, script_envs.SingleAgentEnv)
    if kind in ("function", "class"):
        assert env.unwrapped.full_env_name == "mine"
        assert env.unwrapped.cfg.env == "mine"


@pytest.mark.multiproc
@pytest.mark.parametrize("kind", FACTORIES)
def test_registered_factories_reach_the_workers(kind: str, tmp_path, short) -> None:
    register_env("mine", FACTORIES[kind])
    status, runner = train(tmp_path, *short, "--num_workers=1", env="mine")
    assert status == ExperimentStatus.SUCCESS
    assert runner.metrics.mean("reward", 0) == (4.0 if kind == "partial" else 5.0)


@pytest.mark.parametrize("batched", [False, True])
def test_info_of_finished_episodes_is_averaged(batched: bool, tmp_path, short) -> None:
    register_env("mine", script_envs.make_env)
    status, runner = train(tmp_path, *SERIAL, *short, f"--batched_sampling={batched}", env="mine")
    assert status == ExperimentStatus.SUCCESS
    stats = runner.policy_avg_stats
    assert {key: set(stats[key][0]) for key in ("reward", "len", "true_objective")} == {
        "reward": {5.0},
        "len": {5},
        "true_objective": {7.0},
    }
    assert set(stats["apples"][0]) == {2.0} and set(stats["pears"][0]) == {3.0}


@pytest.mark.parametrize("env_class", [script_envs.TupleActionEnv, script_envs.MixedTupleEnv])
def test_form_of_tuple_actions(env_class, tmp_path, short) -> None:
    register_env("mine", script_envs.EnvBuilder(env_class).build)
    status, runner = train(tmp_path, *SERIAL, *short, env="mine")
    assert status == ExperimentStatus.SUCCESS
    assert runner.metrics.mean("reward", 0) == 5.0


@pytest.mark.multiproc
@pytest.mark.parametrize("mode", MODES)
def test_multi_agent_environment_with_lists(mode: str, tmp_path, short) -> None:
    register_env("mine", script_envs.EnvBuilder(script_envs.ListMultiAgentEnv).build)
    batch = () if "async" in mode else ("--batch_size=128",)
    status, runner = train(tmp_path, *MODES[mode], *short, *batch, env="mine")
    assert status == ExperimentStatus.SUCCESS
    stats = runner.policy_avg_stats
    assert set(stats["reward"][0]) == {6.0, 12.0}
    assert set(stats["true_objective"][0]) == {10.0, 11.0}


def test_batched_environment_with_a_dict_of_arrays(tmp_path, short) -> None:
    register_env("mine", script_envs.EnvBuilder(script_envs.DictOfArraysEnv).build)
    extra = ("--batched_sampling=True", "--num_envs_per_worker=2", "--worker_num_splits=2")
    status, runner = train(tmp_path, *SERIAL, *short, *extra, env="mine")
    assert status == ExperimentStatus.SUCCESS
    assert set(runner.policy_avg_stats["reward"][0]) == {5.0}
    assert set(runner.env_info.obs_space.spaces) == {"obs", "extra"}


def test_evaluation_switches_reset_on_init_off(tmp_path, short) -> None:
    created = []

    def make_env(full_env_name, cfg=None, env_config=None, render_mode=None):
        created.append(script_envs.SingleAgentEnv(full_env_name, cfg, env_config, render_mode))
        return created[-1]

    register_env("mine", script_envs.make_env)
    assert train(tmp_path, *SERIAL, *short, env="mine")[0] == ExperimentStatus.SUCCESS
    register_env("mine", make_env)
    cfg = parse(tmp_path, "--device=cpu", "--no_render", "--max_num_episodes=2", env="mine", evaluation=True)
    status, avg_reward = enjoy(cfg)
    assert (status, avg_reward) == (ExperimentStatus.SUCCESS, 5.0)
    assert created[-1].reset_on_init is False
    assert (created[-1].env_config.worker_index, created[-1].env_config.vector_index) == (0, 0)
