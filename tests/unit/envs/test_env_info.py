from __future__ import annotations

import dataclasses
import os
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from gymnasium import spaces

from sample_factory.algo.utils import env_info as env_info_module
from sample_factory.algo.utils.context import reset_global_context, sf_global_context
from sample_factory.algo.utils.env_info import (
    ENV_INFO_PROTOCOL_VERSION,
    EnvInfo,
    EnvProbeError,
    check_env_info,
    env_info_cache_filename,
    extract_env_info,
    obtain_env_info_in_a_separate_process,
    spawn_tmp_env_and_get_info,
)
from sample_factory.algo.utils.make_env import BatchedVecEnv, NonBatchedVecEnv
from sample_factory.algo.utils.spaces.discretized import Discretized
from sample_factory.envs.env_utils import register_env
from tests.unit.envs import sample_envs
from tests.unit.envs.sample_envs import CountingEnv, TwoAgentEnv, make_cfg


@pytest.fixture(autouse=True)
def clean_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    reset_global_context()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in ("counting", "raising", "killed", "exiting", "hanging", "two_agent", "demanding"):
        register_env(name, getattr(sample_envs, f"make_{name}_env"))
    register_env("with_variable", sample_envs.make_env_with_variable)
    yield
    reset_global_context()


def num_probe_processes() -> int:
    """Grandchildren: probes are children of the fork server, which is a child of this process."""
    fork_servers = psutil.Process().children()
    return sum(len(fork_server.children()) for fork_server in fork_servers)


def test_extract_env_info_single_agent() -> None:
    env = BatchedVecEnv(CountingEnv())
    info = extract_env_info(env, make_cfg(env_frameskip=4, env_gpu_actions=True))
    assert info == EnvInfo(
        obs_space=spaces.Dict(obs=spaces.Box(0, 1000, (2,), np.float32)),
        action_space=spaces.Discrete(5),
        num_agents=1,
        gpu_actions=True,
        gpu_observations=True,
        action_splits=None,
        all_discrete=None,
        frameskip=4,
        reward_shaping_scheme=None,
        env_info_protocol_version=ENV_INFO_PROTOCOL_VERSION,
    )


def test_extract_env_info_multi_agent_and_tuples() -> None:
    info = extract_env_info(NonBatchedVecEnv(TwoAgentEnv()), make_cfg())
    assert info.num_agents == 2 and info.reward_shaping_scheme == {"rew": 1.0}

    mixed = spaces.Tuple([spaces.Discrete(3), spaces.Box(-1, 1, (2,))])
    info = extract_env_info(BatchedVecEnv(CountingEnv(action_space=mixed)), make_cfg())
    assert (info.action_splits, info.all_discrete) == ([1, 2], False)
    discrete = spaces.Tuple([spaces.Discrete(3), Discretized(5, -1, 1)])
    info = extract_env_info(BatchedVecEnv(CountingEnv(action_space=discrete)), make_cfg())
    assert (info.action_splits, info.all_discrete) == ([1, 1], True)


@pytest.mark.parametrize("obs_space", [spaces.Text(5), spaces.Tuple([spaces.Discrete(2)])], ids=str)
def test_unsupported_observation_spaces_are_named(obs_space: Any) -> None:
    with pytest.raises(ValueError, match="not supported"):
        extract_env_info(BatchedVecEnv(CountingEnv(obs_space=obs_space)), make_cfg())


def test_check_env_info_names_the_difference_and_removes_the_cache() -> None:
    cfg = make_cfg()
    env = BatchedVecEnv(CountingEnv())
    env_info = extract_env_info(env, cfg)
    check_env_info(env, env_info, cfg)

    cache = Path(env_info_cache_filename(cfg))
    cache.parent.mkdir(mode=0o700)
    cache.write_bytes(b"old")
    env_info.num_agents = 3
    with pytest.raises(ValueError, match="Env info mismatch: num_agents: expected 3, found 1"):
        check_env_info(env, env_info, cfg)
    assert not cache.exists()


def test_spawn_function_puts_the_info_into_a_queue() -> None:
    class Queue(list):
        put = list.append

    queue = Queue()
    spawn_tmp_env_and_get_info(sf_global_context(), queue, make_cfg())
    assert queue[0].action_space == spaces.Discrete(5)


def test_vector_environments_need_batched_sampling_from_the_start() -> None:
    class Queue(list):
        put = list.append

    queue = Queue()
    register_env("vector", sample_envs.make_vector_env)
    with pytest.raises(ValueError, match=r"SyncVectorEnv.*--batched_sampling=True"):
        spawn_tmp_env_and_get_info(sf_global_context(), queue, make_cfg("vector"))
    spawn_tmp_env_and_get_info(sf_global_context(), queue, make_cfg("vector", batched_sampling=True))
    assert queue[0].num_agents == 2


def test_cache_file_name_has_no_path_separators() -> None:
    name = env_info_cache_filename(make_cfg("ALE/../Pong-v5"))
    assert re.fullmatch(r"env_info_ALE_\.\._Pong-v5_[0-9a-f]{8}", os.path.basename(name))
    assert name != env_info_cache_filename(make_cfg("ALE?../Pong-v5"))


@pytest.mark.multiproc
def test_probe_returns_env_info() -> None:
    info = obtain_env_info_in_a_separate_process(make_cfg("two_agent"))
    assert info.num_agents == 2 and info.action_space == spaces.Discrete(5)
    assert info == extract_env_info(BatchedVecEnv(TwoAgentEnv()), make_cfg())


@pytest.mark.multiproc
def test_environments_may_start_processes_and_fail_to_be_closed() -> None:
    assert obtain_env_info_in_a_separate_process(make_cfg("demanding")).action_space == spaces.Discrete(5)
    assert num_probe_processes() == 0


@pytest.mark.multiproc
def test_probe_sees_the_current_environment_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    obtain_env_info_in_a_separate_process(make_cfg())  # the fork server is running by now
    monkeypatch.setenv("SF_TEST_NUM_ACTIONS", "23")
    assert obtain_env_info_in_a_separate_process(make_cfg("with_variable")).action_space == spaces.Discrete(23)


@pytest.mark.multiproc
def test_q19_raising_probe_reports_the_traceback_first() -> None:
    with pytest.raises(EnvProbeError) as error:
        obtain_env_info_in_a_separate_process(make_cfg("raising"))
    text = str(error.value)
    assert text.startswith("Traceback")
    assert "make_raising_env" in text and "FileNotFoundError: textures of the level are missing" in text
    assert num_probe_processes() == 0


@pytest.mark.multiproc
@pytest.mark.parametrize(("name", "reason"), [("killed", "SIGKILL"), ("exiting", "exit code 17")])
def test_q19_dead_probe_is_noticed(name: str, reason: str) -> None:
    with pytest.raises(EnvProbeError, match=f"{name}.*died without a message.*{reason}"):
        obtain_env_info_in_a_separate_process(make_cfg(name))


@pytest.mark.multiproc
def test_q19_unregistered_environment_is_an_error() -> None:
    with pytest.raises(EnvProbeError, match="'unheard_of' is not registered"):
        obtain_env_info_in_a_separate_process(make_cfg("unheard_of"))


@pytest.mark.multiproc
def test_hanging_probe_is_stopped_with_its_stack() -> None:
    with pytest.raises(EnvProbeError, match="not created within 3 seconds") as error:
        obtain_env_info_in_a_separate_process(make_cfg("hanging", startup_timeout=3))
    assert "make_hanging_env" in str(error.value), "the stack shows where"
    assert num_probe_processes() == 0


def test_unpicklable_factories_are_explained() -> None:
    register_env("local", lambda *args: CountingEnv())
    with pytest.raises(ValueError, match="module-level functions"):
        obtain_env_info_in_a_separate_process(make_cfg("local"))


@pytest.mark.multiproc
def test_cache_is_written_and_used() -> None:
    cfg = make_cfg(use_env_info_cache=True)
    info = obtain_env_info_in_a_separate_process(cfg)
    assert Path(env_info_cache_filename(cfg)).exists()
    register_env("counting", sample_envs.make_raising_env)  # would raise if it was created
    assert obtain_env_info_in_a_separate_process(cfg) == info


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-1, 1, (2, 3), np.float64),
        spaces.Box(0, 255, (3,), np.uint8),
        spaces.Discrete(4, start=2),
        spaces.MultiDiscrete([2, 3]),
        spaces.MultiBinary(3),
        spaces.Tuple([spaces.Discrete(2), spaces.Box(-1, 1, (2,))]),
        Discretized(5, -1.0, 1.0),
        spaces.Dict(a=spaces.Dict(b=spaces.Discrete(2))),
    ],
    ids=str,
)
def test_cache_round_trip_of_spaces(space: Any) -> None:
    cfg = make_cfg()
    space.seed(1)  # a space with a random generator
    env_info = EnvInfo(space, space, 1, False, True, [1], None, 1, {"a": 1.0}, ENV_INFO_PROTOCOL_VERSION)
    path = env_info_cache_filename(cfg)
    env_info_module._save_cache(path, env_info)
    assert env_info_module._load_cached(path) == env_info
    assert env_info.obs_space._np_random is not None, "the original is left alone"


class Malicious:
    def __reduce__(self) -> Any:
        return os.mkdir, (f"{os.environ['SF_TEST_MARKER']}",)


@pytest.mark.parametrize("content", ["malicious", "truncated", "other_version", "other_type"])
def test_C10_bad_cache_runs_no_code_and_is_ignored(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "code_was_run"
    monkeypatch.setenv("SF_TEST_MARKER", str(marker))
    info = extract_env_info(BatchedVecEnv(CountingEnv()), make_cfg())
    payload = {
        "malicious": pickle.dumps(Malicious()),
        "truncated": pickle.dumps(info)[:50],
        "other_version": pickle.dumps(dataclasses.replace(info, env_info_protocol_version=0)),
        "other_type": pickle.dumps({"obs_space": 1}),
    }[content]
    path = tmp_path / "cache"
    path.write_bytes(payload)
    assert env_info_module._load_cached(str(path)) is None
    assert not marker.exists()
