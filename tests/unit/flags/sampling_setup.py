"""A scripted environment and the parts of a sampler around it, in this process and driven by hand."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sample_factory.algo.learning.batcher import Batcher
from sample_factory.algo.sampling.batched_sampling import BatchedVectorEnvRunner
from sample_factory.algo.sampling.non_batched_sampling import NonBatchedVectorEnvRunner
from sample_factory.algo.sampling.sampling_utils import VectorEnvRunner
from sample_factory.algo.utils.env_info import EnvInfo, extract_env_info
from sample_factory.algo.utils.make_env import make_env_func_batched
from sample_factory.algo.utils.poll_loop import PollingEventLoop
from sample_factory.algo.utils.shared_buffers import BufferMgr
from sample_factory.envs.env_utils import register_env
from sample_factory.utils.attr_dict import AttrDict
from sample_factory.utils.timing import Timing
from tests.unit.learning.learner_setup import make_cfg

ENV = "flag_effects_scripted"
EPISODE_LEN = 5


class ScriptedEnv(gym.Env):
    """Episodes of five steps with rewards 1, 2, 3, 4, 5."""

    observation_space = spaces.Box(-1, 1, (4,), np.float32)
    action_space = spaces.Discrete(3)

    def __init__(self, cfg: Any, env_config: Any) -> None:
        self.cfg, self.env_config = cfg, env_config
        self.num_steps_ever = 0
        self.num_steps = 0

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict]:
        self.num_steps = 0
        return np.zeros(4, np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.num_steps_ever += 1
        self.num_steps += 1
        return np.zeros(4, np.float32), float(self.num_steps), self.num_steps == EPISODE_LEN, False, {}


def make_scripted_env(full_env_name: str, cfg: Any = None, env_config: Any = None, render_mode: Any = None) -> Any:
    return ScriptedEnv(cfg, env_config)


def sampling_cfg(*flags: str) -> AttrDict:
    register_env(ENV, make_scripted_env)
    defaults = ("--num_workers=2", "--num_envs_per_worker=2", "--worker_num_splits=1", "--batch_size=16")
    return make_cfg("train_dir", f"--env={ENV}", *defaults, *flags)


def env_info_of(cfg: AttrDict) -> EnvInfo:
    env = make_env_func_batched(cfg, env_config=None)
    return extract_env_info(env, cfg)


def make_env_runner(cfg: AttrDict, worker_idx: int = 0, split_idx: int = 0) -> Any:
    """The environments of a split of a worker, reset and ready for actions."""
    env_info = env_info_of(cfg)
    cls: type[VectorEnvRunner] = BatchedVectorEnvRunner if cfg.batched_sampling else NonBatchedVectorEnvRunner
    num_envs = cfg.num_envs_per_worker // cfg.worker_num_splits
    runner: Any = cls(cfg, env_info, num_envs, worker_idx, split_idx, BufferMgr(cfg, env_info), "cpu", [None])  # type: ignore
    runner.init(Timing())
    return runner


def step(runner: Any, num_steps: int) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Act; returns the stored rewards ``[n, T]`` of the block (complete at its end) and all episode reports."""
    data, reports = runner._data, []
    for _ in range(num_steps):
        data["actions"][:, runner.rollout_step] = 0
        reports += runner.advance_rollouts(Timing())[1]
    return np.asarray(data["rewards"]), [report["episodic"] for report in reports]


def make_batcher(*flags: str) -> tuple[Batcher, BufferMgr]:
    """A batcher that is ready; training batches have two rows unless flags say otherwise."""
    cfg = sampling_cfg("--num_envs_per_worker=1", "--rollout=8", "--batch_size=16", *flags)
    env_info = env_info_of(cfg)
    buffer_mgr = BufferMgr(cfg, env_info)
    batcher = Batcher(PollingEventLoop("loop", serial_mode=True), 0, buffer_mgr, cfg, env_info)
    batcher.init()
    return batcher, buffer_mgr
