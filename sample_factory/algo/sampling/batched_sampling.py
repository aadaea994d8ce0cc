"""Runner for vectorised environments: one call steps all agents of the split, data arrives as batched tensors."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from sample_factory.algo.sampling.batched_recording import (
    CUT_OFF,
    BatchedStep,
    RecordingSettings,
    StepColumns,
    host_array,
    make_recorder,
    with_finite_numbers,
)
from sample_factory.algo.sampling.env_faults import MAX_REPAIRS, BadObservationError, EnvFaults
from sample_factory.algo.sampling.sampling_utils import FinishedRollouts, VectorEnvRunner
from sample_factory.algo.utils.child_process import FinalError
from sample_factory.algo.utils.env_actions import preprocess_actions, process_action_space
from sample_factory.algo.utils.env_info import EnvInfo, check_env_info
from sample_factory.algo.utils.env_layer import close_env
from sample_factory.algo.utils.life_signs import ENV, PHASE, RUNNING, STARTING, STEPS
from sample_factory.algo.utils.make_env import BatchedVecEnv, SequentialVectorizeWrapper, make_env_func_batched
from sample_factory.algo.utils.misc import EPISODIC, POLICY_ID_KEY
from sample_factory.algo.utils.seeding import env_seed
from sample_factory.algo.utils.shared_buffers import BufferMgr
from sample_factory.algo.utils.torch_utils import synchronize
from sample_factory.envs.env_utils import find_training_info_interface, set_reward_shaping, set_training_info
from sample_factory.utils.attr_dict import AttrDict
from sample_factory.utils.timing import Timing
from sample_factory.utils.typing import Config, PolicyID

__all__ = ["BatchedVectorEnvRunner", "preprocess_actions", "process_action_space"]


class BatchedVectorEnvRunner(VectorEnvRunner):
    """All agents of a worker follow one policy: ``worker_idx % num_policies``."""

    def __init__(
        self,
        cfg: Config,
        env_info: EnvInfo,
        num_envs: int,
        worker_idx: int,
        split_idx: int,
        buffer_mgr: BufferMgr,
        sampling_device: str,
        training_info: list[dict[str, Any] | None],
        life_signs: memoryview | None = None,
        num_restarts: int = 0,
    ):
        super().__init__(cfg, env_info, worker_idx, split_idx, buffer_mgr, sampling_device, life_signs, num_restarts)
        self.num_envs = num_envs
        self.num_agents = num_envs * env_info.num_agents
        self.training_info = training_info
        self.policy_id: PolicyID = worker_idx % cfg.num_policies
        self.vec_env: BatchedVecEnv | SequentialVectorizeWrapper | None = None
        self._training_info_interface: Any = None
        self._last_obs: dict[str, Tensor] = {}
        self.faults = EnvFaults(cfg, worker_idx, worker_idx * cfg.num_envs_per_worker + split_idx * num_envs)
        self._num_steps = self._num_repairs = 0
        self._rollout = cfg.rollout
        self._acts_itself = buffer_mgr.topology.inference_in_rollout_workers
        self._obs_keys = tuple(buffer_mgr.traj_tensors_torch[sampling_device]["obs"])
        self._columns = {
            block.idx: [StepColumns(view, step) for step in range(cfg.rollout)]
            for block, view in zip(self._blocks, self._views, strict=True)
        }
        frames_per_step = env_info.frameskip if cfg.summaries_use_frameskip else 1
        settings = RecordingSettings(self.num_agents, cfg.reward_scale, cfg.reward_clip, frames_per_step)
        self._recorder = make_recorder(sampling_device, settings)

    def init(self, timing: Timing) -> None:
        with timing.timeit("env_init"):
            self._last_obs = self._build()
        for view in self._views:  # all experience of this worker is of one policy
            view["policy_id"][...] = self.policy_id
        self.channel.agent_policy[self.worker_idx, self.split_idx] = self.policy_id
        self.update_trajectory_buffers()

    def _build(self) -> dict[str, Tensor]:
        """Create everything; returns the first observations."""
        envs = []
        for env_i in range(self.num_envs):
            self._life_signs[ENV] = env_i
            envs.append(self._create_env(env_i))
        self.vec_env = envs[0] if self.num_envs == 1 else SequentialVectorizeWrapper(envs)
        self._training_info_interface = find_training_info_interface(self.vec_env)
        self._push_training_info()
        obs, _ = self.vec_env.reset()
        return obs

    def _rebuild(self) -> dict[str, Tensor]:
        """Inside an ``except`` block: create everything anew until it works, or its budget is used up."""
        assert self.vec_env is not None
        self.faults.on_exception(0, self._num_steps)
        self._life_signs[PHASE] = STARTING  # creating it may take longer than a step
        while True:
            self._num_repairs += 1
            try:
                with suppress(Exception):  # it may be in any state
                    self.vec_env.close()
                obs = self._build()
                self._life_signs[PHASE] = RUNNING
                return obs
            except Exception:
                self.faults.on_exception(0, self._num_steps)

    def _create_env(self, env_i: int) -> BatchedVecEnv:
        vector_idx = self.split_idx * self.num_envs + env_i
        env_id = self.worker_idx * self.cfg.num_envs_per_worker + vector_idx
        env_config = AttrDict(worker_index=self.worker_idx, vector_index=vector_idx, env_id=env_id)
        env = make_env_func_batched(self.cfg, env_config=env_config)
        try:
            check_env_info(env, self.env_info, self.cfg)
        except ValueError as exc:
            raise FinalError(str(exc)) from exc
        env.seed(env_seed(self.cfg, env_id, self._num_restarts * MAX_REPAIRS + self._num_repairs))
        return env

    def _push_training_info(self) -> None:
        info = self.training_info[self.policy_id]
        if info is not None:
            set_reward_shaping(self.vec_env, info.get("reward_shaping"), slice(0, self.num_agents))
            set_training_info(self._training_info_interface, info)

    def generate_policy_request(self) -> list[PolicyID]:
        assert self._block is not None
        policies = [self.policy_id]
        if self.rollout_step == 0 and self.sampling_device != "cpu" and not self._acts_itself:
            synchronize(self.cfg, self.sampling_device)  # the first observations of the block may be on their way
        self.channel.post_request(
            self.worker_idx, self.split_idx, policies, self._block.idx, self.rollout_step, partial=False
        )
        return policies

    def advance_rollouts(self, timing: Timing) -> tuple[list[FinishedRollouts], list[dict[str, Any]]]:
        assert self.vec_env is not None and self._block is not None
        columns = self._columns[self._block.idx][self.rollout_step]
        self._num_steps += 1
        self._life_signs[STEPS] = self._num_steps
        with timing.add_time("env_step"):
            result = self._step(columns)
        with timing.add_time("overhead"):
            stats = self._record(columns, result)
        reports = [] if stats is None else [{EPISODIC: stats, POLICY_ID_KEY: self.policy_id}]

        self.rollout_step += 1
        if self.rollout_step < self._rollout:
            return [], reports
        self._push_training_info()
        block = self._block
        return self._hand_over_block([FinishedRollouts(self.policy_id, block.idx, block.rows)]), reports

    def _step(self, columns: StepColumns) -> BatchedStep:
        assert self.vec_env is not None
        try:
            return self.vec_env.step(preprocess_actions(self.env_info, columns.actions))
        except Exception:
            return self._cut_off(self._rebuild())

    def _cut_off(self, obs: dict[str, Tensor]) -> BatchedStep:
        """The episodes of all agents end here, with nothing for this step, and go on with these observations."""
        like = next(iter(obs.values()))
        rewards = torch.zeros(self.num_agents, device=like.device)
        flags = torch.ones(self.num_agents, dtype=torch.bool, device=like.device)
        return obs, rewards, ~flags, flags, CUT_OFF

    def _record(self, columns: StepColumns, result: BatchedStep) -> dict[str, Any] | None:
        try:
            return self._recorder.record(columns, result)
        except BadObservationError as error:
            self.faults.on_bad_observation(0, self._num_steps, error)
            if self.faults.policy == "zero":
                return self._recorder.record(columns, with_finite_numbers(result))
        try:
            obs, _ = self.vec_env.reset()  # type: ignore[union-attr]
        except Exception:
            obs = self._rebuild()
        return self._record(columns, self._cut_off(obs))

    def _start_block(self, previous: dict[str, Any]) -> None:
        for key in self._obs_keys:
            first = self._data["obs"][key][:, 0]
            if previous:
                first[...] = previous["obs"][key][:, self._rollout]
            else:
                first[...] = host_array(self._last_obs[key]) if self.sampling_device == "cpu" else self._last_obs[key]
        self._data["rnn_states"][:, 0] = previous["rnn_states"][:, self._rollout] if previous else 0.0
        self._last_obs = {}

    def close(self) -> None:
        if self.vec_env is not None:
            close_env(self.vec_env)
