"""Runner for ordinary environments: one Python object per environment, any number of agents in each.

All agents of a split step together, so everything that is not ``env.step`` is done for the whole split at once on
arrays of the trajectory block, once per block where possible. Per-agent Python runs only where agents really differ:
at episode ends, when agents become inactive or change policy.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np

from sample_factory.algo.sampling.env_faults import MAX_REPAIRS, BadObservationError, EnvFaults
from sample_factory.algo.sampling.env_stepping import FAULT_KEY, EnvRepair, SplitEnvs, StepResult, make_split_envs
from sample_factory.algo.sampling.episode_accounts import EpisodeAccounts
from sample_factory.algo.sampling.level_choice import SplitLevels
from sample_factory.algo.sampling.obs_writer import ObsWriter
from sample_factory.algo.sampling.sampling_utils import (
    FinishedRollouts,
    VectorEnvRunner,
    record_episode_statistics_wrapper_stats,
)
from sample_factory.algo.utils.agent_policy_mapping import AgentPolicyMapping
from sample_factory.algo.utils.child_process import FinalError
from sample_factory.algo.utils.env_actions import make_action_converter
from sample_factory.algo.utils.env_info import EnvInfo, check_env_info
from sample_factory.algo.utils.env_layer import close_env
from sample_factory.algo.utils.level_tables import CUT_OFF
from sample_factory.algo.utils.life_signs import ENV, STEPS
from sample_factory.algo.utils.make_env import NonBatchedVecEnv, make_env_func_non_batched
from sample_factory.algo.utils.misc import EPISODIC, POLICY_ID_KEY
from sample_factory.algo.utils.random_actions import sample_action
from sample_factory.algo.utils.seeding import component_rng, env_seed
from sample_factory.algo.utils.shared_buffers import BufferMgr
from sample_factory.envs.env_utils import (
    TrainingInfoInterface,
    find_training_info_interface,
    set_reward_shaping,
    set_training_info,
)
from sample_factory.utils.attr_dict import AttrDict
from sample_factory.utils.timing import Timing
from sample_factory.utils.typing import Config, PolicyID
from sample_factory.utils.utils import log

INACTIVE: PolicyID = -1


class AgentStates:
    """Per-agent state of one split as arrays of length n, agent j of environment i at ``i * num_agents + j``."""

    def __init__(self, num_envs: int, num_agents: int) -> None:
        n = num_envs * num_agents
        self.policy = np.zeros(n, np.int32)
        self.is_active = np.ones(n, bool)
        self.all_active = True
        self.acting_policy = self.policy.copy()  # policy, or INACTIVE
        self.asked_policies: list[PolicyID] = [0]
        self.partial = False

    def refresh(self) -> None:
        """Recompute what follows from ``policy`` and ``is_active``; call after changing either."""
        self.acting_policy = np.where(self.is_active, self.policy, INACTIVE).astype(np.int32)
        self.asked_policies = np.unique(self.policy[self.is_active]).tolist()
        self.all_active = bool(self.is_active.all())
        self.partial = len(self.asked_policies) != 1 or not self.all_active


class NonBatchedVectorEnvRunner(VectorEnvRunner):
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
        self.num_envs, self.num_agents = num_envs, env_info.num_agents
        self.training_info = training_info
        self.envs: list[NonBatchedVecEnv] = []
        self.faults = EnvFaults(cfg, worker_idx, worker_idx * cfg.num_envs_per_worker + split_idx * num_envs)
        self._num_repairs = 0
        self._levels: SplitLevels | None = None  # chosen by a curriculum
        if buffer_mgr.levels is not None:
            self._levels = SplitLevels(cfg, buffer_mgr.levels, [self._env_id(i) for i in range(num_envs)])
        self._training_info_interfaces: list[TrainingInfoInterface | None] = []
        self._policy_mapping = AgentPolicyMapping(cfg, env_info, worker_idx, split_idx)
        self._agents = AgentStates(num_envs, self.num_agents)
        self._to_env_actions = make_action_converter(env_info.action_space, batched=False).many
        self._last_actions: np.ndarray | None = None  # [n, num_actions]
        self._last_obs: list[dict[str, Any]] = []

        self._rollout, self._scale, self._clip = cfg.rollout, cfg.reward_scale, cfg.reward_clip
        frames_per_step = env_info.frameskip if cfg.summaries_use_frameskip else 1
        self._accounts = EpisodeAccounts(num_envs * env_info.num_agents, cfg.rollout, frames_per_step)
        self._obs_keys = tuple(buffer_mgr.traj_tensors_torch[sampling_device]["obs"])
        self._obs_writers: dict[int, ObsWriter] = {}
        self._writer: ObsWriter | None = None
        self._split_envs: SplitEnvs | None = None

    # --- creation ---

    def init(self, timing: Timing) -> None:
        with timing.timeit("env_init"):
            for env_i in range(self.num_envs):
                self._life_signs[ENV] = env_i
                env = self._make_env(env_i)
                self._check_env(env)
                self.envs.append(env)
                self._training_info_interfaces.append(find_training_info_interface(env))
                self._assign_policies(env_i)
            for env_i in range(self.num_envs):
                self._life_signs[ENV] = env_i
                self._last_obs += self._first_reset(env_i)
        repair = EnvRepair(self._rebuild_env, self._reset_env)
        self._split_envs = make_split_envs(self.envs, self.faults, repair, self._life_signs)
        self._time_env_step, self._time_overhead = timing.add_time("env_step"), timing.add_time("overhead")
        self._agents.refresh()
        self._publish_agent_policies()
        self.update_trajectory_buffers()

    def _make_env(self, env_i: int) -> NonBatchedVecEnv:
        vector_idx = self.split_idx * self.num_envs + env_i
        env_config = AttrDict(worker_index=self.worker_idx, vector_index=vector_idx, env_id=self._env_id(env_i))
        if self._levels is None:
            return make_env_func_non_batched(self.cfg, env_config=env_config)
        return make_env_func_non_batched(self.cfg, env_config=env_config, wrap=partial(self._levels.wrap, env_i))

    def _check_env(self, env: NonBatchedVecEnv) -> None:
        try:
            check_env_info(env, self.env_info, self.cfg)
        except ValueError as exc:
            raise FinalError(str(exc)) from exc

    def _env_id(self, env_i: int) -> int:
        return self.worker_idx * self.cfg.num_envs_per_worker + self.split_idx * self.num_envs + env_i

    def _assign_policies(self, env_i: int) -> None:
        for agent_i in range(self.num_agents):
            policy = self._policy_mapping.get_policy_for_agent(agent_i, env_i, self._env_id(env_i))
            self._agents.policy[env_i * self.num_agents + agent_i] = policy
            self._push_training_info(env_i, agent_i, policy)
        self._tell_env_its_policy(env_i)

    def _rebuild_env(self, env_i: int) -> list[dict[str, Any]]:
        """Replace an environment that raised. The agents keep their policies until their next episode."""
        with suppress(Exception):  # it may be in any state
            self.envs[env_i].close()
        env = self._make_env(env_i)
        self._check_env(env)
        self.envs[env_i] = env
        self._training_info_interfaces[env_i] = find_training_info_interface(env)
        for agent_i in range(self.num_agents):
            self._push_training_info(env_i, agent_i, int(self._agents.policy[env_i * self.num_agents + agent_i]))
        self._tell_env_its_policy(env_i)
        return self._reset_env(env_i)

    def _reset_env(self, env_i: int) -> list[dict[str, Any]]:
        """With another seed than before: the same one could lead to the same fault."""
        self._num_repairs += 1
        obs, _ = self.envs[env_i].reset(seed=env_seed(self.cfg, self._env_id(env_i), self._attempt()))
        return obs

    def _attempt(self) -> int:
        return self._num_restarts * MAX_REPAIRS + self._num_repairs

    def _first_reset(self, env_i: int) -> list[dict[str, Any]]:
        vector_idx = self.split_idx * self.num_envs + env_i
        env_id = self._env_id(env_i)
        env = self.envs[env_i]
        obs, _ = env.reset(seed=env_seed(self.cfg, env_id, self._attempt()))
        if self.cfg.decorrelate_envs_on_one_worker:
            num_steps = self.cfg.rollout * vector_idx
            if num_steps:
                log.info(f"Decorrelating experience for {num_steps} frames...")
                obs = self._random_steps(env, obs, num_steps, env_id)
                if self._levels is not None:
                    self._levels.cut_off(env_i)
        return obs

    def _random_steps(
        self, env: NonBatchedVecEnv, obs: list[dict[str, Any]], num_steps: int, env_id: int
    ) -> list[dict[str, Any]]:
        """Random actions, so that environments of one worker do not end their episodes in lockstep."""
        action_space = self.env_info.action_space
        action_space.seed(int(component_rng(self.cfg, "decorrelation", env_id).integers(2**31)))
        for step in range(num_steps):
            self._life_signs[STEPS] = step
            actions = [sample_action(action_space, o.get("action_mask") if isinstance(o, dict) else None) for o in obs]
            obs, *_ = env.step(actions)
        return obs

    def _push_training_info(self, env_i: int, agent_i: int, policy: PolicyID) -> None:
        info = self.training_info[policy]
        if info is not None:
            set_reward_shaping(self.envs[env_i], info.get("reward_shaping"), agent_i)
            set_training_info(self._training_info_interfaces[env_i], info)

    def _tell_env_its_policy(self, env_i: int) -> None:
        unwrapped = self.envs[env_i].unwrapped
        if hasattr(unwrapped, "curr_policy_idx"):
            unwrapped.curr_policy_idx = int(self._agents.policy[env_i * self.num_agents])

    # --- policy requests ---

    def generate_policy_request(self) -> list[PolicyID]:
        assert self._block is not None
        agents = self._agents
        if agents.asked_policies:
            self.channel.post_request(
                self.worker_idx,
                self.split_idx,
                agents.asked_policies,
                self._block.idx,
                self.rollout_step,
                agents.partial,
            )
        return agents.asked_policies

    def _publish_agent_policies(self) -> None:
        self.channel.agent_policy[self.worker_idx, self.split_idx] = self._agents.acting_policy

    # --- stepping ---

    def advance_rollouts(self, timing: Timing) -> tuple[list[FinishedRollouts], list[dict[str, Any]]]:
        assert self._split_envs is not None and self._writer is not None
        step = self.rollout_step
        with self._time_env_step:
            result = self._split_envs.step(
                self._current_actions(), self._writer, step + 1, self._accounts.rewards[step]
            )

        with self._time_overhead:
            episodic_stats = self._after_step(result, step)

        self.rollout_step += 1
        if self.rollout_step < self._rollout:
            return [], episodic_stats
        raw_rewards = self._accounts.rewards  # [T, n]
        self._data["rewards"][...] = np.clip(raw_rewards * self._scale, -self._clip, self._clip).T
        self._accounts.finish_block()
        return self._hand_over_block(self._finished_rollouts()), episodic_stats

    def _current_actions(self) -> list[Any]:
        """What every agent does now; an inactive agent repeats its last action (its environment ignores it)."""
        actions = self._data["actions"][:, self.rollout_step]
        if self._agents.partial:
            if self._last_actions is None:
                self._last_actions = np.zeros_like(actions)
            actions = np.where(self._agents.is_active[:, None], actions, self._last_actions)
            self._data["rnn_states"][~self._agents.is_active, self.rollout_step + 1] = self._data["rnn_states"][
                ~self._agents.is_active, self.rollout_step
            ]
        self._last_actions = actions
        return self._to_env_actions(actions)

    def _after_step(self, result: StepResult, step: int) -> list[dict[str, Any]]:
        """Episode accounting; activity and policies of the agents for the next step."""
        changed = (any(result.infos) or not self._agents.all_active) and self._update_activity(result.infos)
        reports: list[dict[str, Any]] = []
        for row, _, truncated, info in result.finished:
            self._data["dones"][row, step] = True
            self._data["time_outs"][row, step] = truncated
            self._data["rnn_states"][row, step + 1] = 0.0
            report = self._episodic_report(row, step, info)
            if FAULT_KEY not in info:  # an episode that was cut off says nothing about the policy
                reports.append(report)
            changed = self._start_next_episode(row) or changed
            if self._levels is not None:
                self._note_level(self._levels, row, step, was_cut_off=FAULT_KEY in info)
        if changed:
            self._agents.refresh()
            self._publish_agent_policies()
            self._data["policy_id"][:, step + 1 :] = self._agents.acting_policy[:, None]
        return reports

    def _note_level(self, levels: SplitLevels, row: int, step: int, was_cut_off: bool) -> None:
        """The episode of this environment ended with this step; what follows is on another level."""
        level_ids = self._data["level_id"]
        if was_cut_off:
            level_ids[row, step] += CUT_OFF
        level_ids[row, step + 1 :] = levels.level_id(row)

    def _update_activity(self, infos: list[dict[str, Any]]) -> bool:
        changed = False
        is_active = self._agents.is_active
        for row, info in enumerate(infos):
            if info or not is_active[row]:
                active = bool(info.get("is_active", True))
                if active != is_active[row]:
                    is_active[row] = active
                    changed = True
        return changed

    def _episodic_report(self, row: int, step: int, info: dict[str, Any]) -> dict[str, Any]:
        reward, length = self._accounts.finish_episode(row, step)
        stats: dict[str, Any] = {
            "reward": reward,
            "len": length,
            "episode_extra_stats": info.get("episode_extra_stats", {}),
        }
        true_objective = info.get("true_objective", reward)
        if true_objective is not None:
            stats["true_objective"] = true_objective
        recorded = record_episode_statistics_wrapper_stats(info)
        if recorded is not None:
            stats["RecordEpisodeStatistics_reward"], stats["RecordEpisodeStatistics_len"] = recorded
        return {EPISODIC: stats, POLICY_ID_KEY: int(self._agents.policy[row])}

    def _start_next_episode(self, row: int) -> bool:
        """Returns whether the agent changes its policy."""
        agents = self._agents
        env_i, agent_i = divmod(row, self.num_agents)
        self._push_training_info(env_i, agent_i, int(agents.policy[row]))
        policy = self._policy_mapping.get_policy_for_agent(agent_i, env_i, self._env_id(env_i))
        if policy == agents.policy[row]:
            return False
        agents.policy[row] = policy
        self._tell_env_its_policy(env_i)
        return True

    # --- trajectories ---

    def _finished_rollouts(self) -> list[FinishedRollouts]:
        """Rows for every policy that acted in this block; a row with experience of two policies goes to both."""
        assert self._block is not None
        block = self._block
        policy_id = self._data["policy_id"]  # [n, T]
        if self.cfg.num_policies == 1:
            return [FinishedRollouts(0, block.idx, block.rows)]
        # Agents inactive all along count for the policy they belong to now.
        policy_id = np.where(policy_id == INACTIVE, self._agents.policy[:, None], policy_id)
        finished = []
        for policy in np.unique(policy_id).tolist():
            rows = np.flatnonzero((policy_id == policy).any(axis=1))
            finished.append(FinishedRollouts(policy, block.idx, rows + block.start))
        return finished

    def _start_block(self, previous: dict[str, Any]) -> None:
        assert self._block is not None
        data = self._data
        self._writer = self._obs_writers.get(self._block.idx)
        if self._writer is None:
            columns = {key: data["obs"][key] for key in self._obs_keys}
            self._writer = self._obs_writers[self._block.idx] = ObsWriter(columns)
        # What holds for most steps is written once; the exceptions are written when they happen.
        data["dones"][...] = False
        data["time_outs"][...] = False
        data["policy_id"][...] = self._agents.acting_policy[:, None]
        if previous:
            for key in self._obs_keys:
                data["obs"][key][:, 0] = previous["obs"][key][:, self._rollout]
            data["rnn_states"][:, 0] = previous["rnn_states"][:, self._rollout]
        else:
            self._write_first_obs(self._writer)
            data["rnn_states"][:, 0] = 0.0
        if self._levels is not None:
            data["level_id"][...] = self._levels.level_ids()[:, None]

    def _write_first_obs(self, writer: ObsWriter) -> None:
        try:
            writer.write(0, self._last_obs)
        except BadObservationError as error:
            env_i = error.row // self.num_agents
            self.faults.on_bad_observation(env_i, 0, error)
            if self.faults.policy == "zero":
                self._last_obs[error.row] = writer.zeros_instead(self._last_obs[error.row], error.key, wraps_obs=False)
            else:
                rows = slice(env_i * self.num_agents, (env_i + 1) * self.num_agents)
                self._last_obs[rows] = self._reset_env(env_i)
            self._write_first_obs(writer)
        self._last_obs = []

    def close(self) -> None:
        for env in self.envs:
            close_env(env)
