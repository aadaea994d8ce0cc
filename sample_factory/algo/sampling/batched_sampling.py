"""Runner for vectorised environments: one call steps all agents of the split, data arrives as batched tensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sample_factory.algo.sampling.sampling_utils import (
    FinishedRollouts,
    VectorEnvRunner,
    record_episode_statistics_wrapper_stats,
)
from sample_factory.algo.utils.env_actions import preprocess_actions, process_action_space
from sample_factory.algo.utils.env_info import EnvInfo, check_env_info
from sample_factory.algo.utils.make_env import BatchedVecEnv, SequentialVectorizeWrapper, make_env_func_batched
from sample_factory.algo.utils.misc import EPISODIC, POLICY_ID_KEY
from sample_factory.algo.utils.seeding import env_seed
from sample_factory.algo.utils.shared_buffers import BufferMgr
from sample_factory.envs.env_utils import find_training_info_interface, set_reward_shaping, set_training_info
from sample_factory.utils.attr_dict import AttrDict
from sample_factory.utils.dicts import iterate_recursively
from sample_factory.utils.timing import Timing
from sample_factory.utils.typing import Config, PolicyID
from sample_factory.utils.utils import log

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
    ):
        super().__init__(cfg, env_info, worker_idx, split_idx, buffer_mgr, sampling_device)
        self.num_envs = num_envs
        self.num_agents = num_envs * env_info.num_agents
        self.training_info = training_info
        self.policy_id: PolicyID = worker_idx % cfg.num_policies
        self.vec_env: BatchedVecEnv | SequentialVectorizeWrapper | None = None
        self._training_info_interface: Any = None
        self._last_obs: dict[str, Tensor] = {}
        self._episode_reward = torch.zeros(self.num_agents, device=sampling_device)
        self._episode_len = torch.zeros(self.num_agents, dtype=torch.int32, device=sampling_device)
        self._min_raw_reward = torch.full_like(self._episode_reward, torch.inf)
        self._max_raw_reward = torch.full_like(self._episode_reward, -torch.inf)

        self._rollout, self._scale, self._clip = cfg.rollout, cfg.reward_scale, cfg.reward_clip
        self._frames_per_step = env_info.frameskip if cfg.summaries_use_frameskip else 1
        self._obs_keys = tuple(buffer_mgr.traj_tensors_torch[sampling_device]["obs"])
        # The batched environment speaks torch; rows of the block as tensors, also on the CPU.
        self._views = [buffer_mgr.traj_tensors_torch[block.device][block.rows] for block in self._blocks]

    def init(self, timing: Timing) -> None:
        with timing.timeit("env_init"):
            envs = [self._create_env(env_i) for env_i in range(self.num_envs)]
            self.vec_env = envs[0] if self.num_envs == 1 else SequentialVectorizeWrapper(envs)
            self._training_info_interface = find_training_info_interface(self.vec_env)
            self._push_training_info()
            self._last_obs, _ = self.vec_env.reset()
        self.channel.agent_policy[self.worker_idx, self.split_idx] = self.policy_id
        self.update_trajectory_buffers()

    def _create_env(self, env_i: int) -> BatchedVecEnv:
        vector_idx = self.split_idx * self.num_envs + env_i
        env_id = self.worker_idx * self.cfg.num_envs_per_worker + vector_idx
        env_config = AttrDict(worker_index=self.worker_idx, vector_index=vector_idx, env_id=env_id)
        env = make_env_func_batched(self.cfg, env_config=env_config)
        check_env_info(env, self.env_info, self.cfg)
        env.seed(env_seed(self.cfg, env_id))
        return env

    def _push_training_info(self) -> None:
        info = self.training_info[self.policy_id]
        if info is not None:
            set_reward_shaping(self.vec_env, info.get("reward_shaping"), slice(0, self.num_agents))
            set_training_info(self._training_info_interface, info)

    def generate_policy_request(self) -> list[PolicyID]:
        assert self._block is not None
        policies = [self.policy_id]
        self.channel.post_request(
            self.worker_idx, self.split_idx, policies, self._block.idx, self.rollout_step, partial=False
        )
        return policies

    def advance_rollouts(self, timing: Timing) -> tuple[list[FinishedRollouts], list[dict[str, Any]]]:
        assert self.vec_env is not None and self._block is not None
        step, data = self.rollout_step, self._data
        with timing.add_time("env_step"):
            actions = preprocess_actions(self.env_info, data["actions"][:, step])
            obs, rewards, terminated, truncated, infos = self.vec_env.step(actions)

        with timing.add_time("overhead"):
            for key in self._obs_keys:
                data["obs"][key][:, step + 1] = obs[key]
            dones = terminated | truncated
            data["rewards"][:, step] = (rewards * self._scale).clamp_(-self._clip, self._clip)
            data["dones"][:, step] = dones
            data["time_outs"][:, step] = truncated
            data["policy_id"][:, step] = self.policy_id
            data["rnn_states"][:, step + 1] *= (~dones).unsqueeze(-1)
            reports = self._episode_accounting(rewards, dones, infos)

        self.rollout_step += 1
        if self.rollout_step < self._rollout:
            return [], reports
        self._push_training_info()
        block = self._block
        return self._hand_over_block([FinishedRollouts(self.policy_id, block.idx, block.rows)]), reports

    def _start_block(self, previous: dict[str, Any]) -> None:
        for key in self._obs_keys:
            self._data["obs"][key][:, 0] = previous["obs"][key][:, self._rollout] if previous else self._last_obs[key]
        self._data["rnn_states"][:, 0] = previous["rnn_states"][:, self._rollout] if previous else 0.0
        self._last_obs = {}

    # --- episode statistics ---

    def _episode_accounting(self, rewards: Tensor, dones: Tensor, infos: Any) -> list[dict[str, Any]]:
        self._episode_reward += rewards
        self._episode_len += self._frames_per_step
        torch.minimum(self._min_raw_reward, rewards, out=self._min_raw_reward)
        torch.maximum(self._max_raw_reward, rewards, out=self._max_raw_reward)

        finished = dones.nonzero(as_tuple=True)[0]
        if not len(finished):
            return []
        stats: dict[str, Any] = {
            "reward": self._episode_reward[finished].cpu().numpy(),
            "len": self._episode_len[finished].cpu().numpy(),
            "min_raw_reward": self._min_raw_reward[finished].cpu().numpy(),
            "max_raw_reward": self._max_raw_reward[finished].cpu().numpy(),
        }
        # Infos may override: an environment knows its true objective better than the sum of rewards.
        stats["true_objective"] = stats["reward"]
        finished_rows = finished.cpu().numpy()
        if isinstance(infos, dict):
            stats.update(_stats_from_dict(infos, finished_rows, self.num_agents))
        elif isinstance(infos, list | tuple):
            stats.update(_stats_from_list(infos, finished_rows, stats["reward"]))
        for accumulator, start in (
            (self._episode_reward, 0),
            (self._episode_len, 0),
            (self._min_raw_reward, torch.inf),
            (self._max_raw_reward, -torch.inf),
        ):
            accumulator[finished] = start
        return [{EPISODIC: stats, POLICY_ID_KEY: self.policy_id}]

    def close(self) -> None:
        if self.vec_env is not None:
            self.vec_env.close()


def _stats_from_dict(infos: dict[str, Any], finished: np.ndarray, num_agents: int) -> dict[str, Any]:
    """Numbers out of the info dict of a vectorised environment; per-agent arrays are restricted to finished agents."""
    stats: dict[str, Any] = {}
    for name, value in _leaves(infos):
        if isinstance(value, bool | int | float):
            stats[name] = value
        elif isinstance(value, Tensor | np.ndarray | np.generic):
            array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
            if array.dtype == object:
                continue
            if array.size == 1:
                stats[name] = array.reshape(-1)[0].item()
            elif array.shape[0] == num_agents:
                stats[name] = array[finished]
            else:
                log.warning(
                    f"Info {name!r} has shape {array.shape}, expected one value or one per agent ({num_agents})"
                )
    return stats


def _leaves(d: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in d.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _leaves(value, f"{name}/")
        else:
            yield name, value


def _stats_from_list(infos: Any, finished: np.ndarray, rewards: np.ndarray) -> dict[str, Any]:
    """The same keys as non-batched sampling reports, collected over the agents that finished."""
    finished_infos = [infos[row] for row in finished.tolist()]
    objectives = [info.get("true_objective", reward) for info, reward in zip(finished_infos, rewards, strict=True)]
    stats: dict[str, Any] = {"true_objective": np.asarray([float(value) for value in objectives if value is not None])}
    recorded = [record_episode_statistics_wrapper_stats(info) for info in finished_infos]
    recorded_pairs = [pair for pair in recorded if pair is not None]
    if recorded_pairs:
        stats["RecordEpisodeStatistics_reward"] = np.asarray([reward for reward, _ in recorded_pairs])
        stats["RecordEpisodeStatistics_len"] = np.asarray([length for _, length in recorded_pairs])
    extra: dict[str, list[Any]] = {}
    for info in finished_infos:
        for _, name, value in iterate_recursively(info.get("episode_extra_stats", {})):
            extra.setdefault(name, []).append(value)
    stats["episode_extra_stats"] = {name: np.asarray(values) for name, values in extra.items()}
    return stats
