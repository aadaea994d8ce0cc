"""Evaluation with the parallel sampler: many episodes, no bias towards short ones."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from sample_factory.algo.learning.checkpoints import CheckpointError
from sample_factory.algo.learning.learner import Learner
from sample_factory.algo.sampling.sampling_loop import SamplingLoop, TrajectoryBuffers
from sample_factory.algo.utils.env_info import EnvInfo
from sample_factory.algo.utils.shared_buffers import policy_device
from sample_factory.cfg.arguments import cfg_dict
from sample_factory.cfg.configurable import Configurable
from sample_factory.utils.dicts import iterate_recursively
from sample_factory.utils.typing import Config, Device, InitModelData, PolicyID, StatusCode

__all__ = ["EvalSamplingAPI", "SamplingLoop"]

EPISODE_NUMBER = "episode_number"


class _EvaluationLoop(SamplingLoop):
    """Keeps every statistic of the first episodes of each environment."""

    def __init__(self, cfg: Config, env_info: EnvInfo):
        super().__init__(cfg, env_info, print_episode_info=False)
        num_envs = self.cfg.num_workers * self.cfg.num_envs_per_worker
        # The policies of a population share the environments.
        self.episodes_per_env = self.cfg.sample_env_episodes * self.cfg.num_policies / num_envs
        self.eval_stats: dict[str, list[list[Any]]] = {}
        self.samples_in_rollouts = 0

    def _on_new_trajectories(self, finished: TrajectoryBuffers, device: Device) -> None:
        for rollouts in finished:
            rows = rollouts.rows
            num_rows = rows.stop - rows.start if isinstance(rows, slice) else len(rows)
            self.samples_in_rollouts += num_rows * self.cfg.rollout
        super()._on_new_trajectories(finished, device)

    def on_episode(self, policy_id: PolicyID, stats: dict[str, Any]) -> None:
        super().on_episode(policy_id, stats)
        columns = {key: np.asarray(value).reshape(-1) for _, key, value in iterate_recursively(stats)}
        if EPISODE_NUMBER not in columns:
            raise ValueError("episodes are not counted: create the environment with --episode_counter=True")
        # Environments with short episodes would otherwise contribute more of them.
        is_counted = columns[EPISODE_NUMBER] < self.episodes_per_env
        for key, values in columns.items():
            lists = self.eval_stats.setdefault(key, [[] for _ in range(self.cfg.num_policies)])
            kept = values[is_counted] if len(values) == len(is_counted) else values
            lists[policy_id].extend(kept.tolist())


class EvalSamplingAPI(Configurable):
    """``init()``, ``start()``, look at the properties until content, ``stop()``."""

    def __init__(self, cfg: Config, env_info: EnvInfo):
        super().__init__(cfg_dict(cfg))
        self.env_info = env_info
        self.sampling_loop = _EvaluationLoop(self.cfg, env_info)
        self._thread = threading.Thread(target=self.sampling_loop.run, name="evaluation", daemon=True)

    def init(self) -> None:
        """Start the workers. Raises CheckpointError if a policy has no checkpoint that can be read."""
        self.sampling_loop.init()
        self._load_policies()
        self._thread.start()
        self.sampling_loop.wait_until_ready()

    def _load_policies(self) -> None:
        prefix = {"latest": "checkpoint", "best": "best"}[self.cfg.load_checkpoint_kind]
        for policy_id, server in self.sampling_loop.param_servers.items():
            directory = Learner.checkpoint_dir(self.cfg, policy_id)
            checkpoints = Learner.get_checkpoints(directory, f"{prefix}_*")
            checkpoint = Learner.load_checkpoint(checkpoints, policy_device(self.cfg, policy_id))
            if checkpoint is None:
                raise CheckpointError(f"no checkpoint {prefix}_* of policy {policy_id} in {directory}")
            assert server.actor_critic is not None
            server.actor_critic.load_state_dict(checkpoint["model"])
            server.publish(int(checkpoint["train_step"]))

    def start(self, init_model_data: InitModelData | None = None) -> None:
        self.sampling_loop.start(init_model_data)

    def stop(self) -> StatusCode:
        self.sampling_loop.stop_sampling()
        self._thread.join()
        return self.sampling_loop.status

    @property
    def is_running(self) -> bool:
        return self.sampling_loop.is_running

    @property
    def eval_stats(self) -> dict[str, list[list[Any]]]:
        """Statistic -> policy -> values of the counted episodes, in the order they ended."""
        return self.sampling_loop.eval_stats

    @property
    def eval_episodes(self) -> list[list[Any]]:
        return self.eval_stats.get(EPISODE_NUMBER, [[] for _ in range(self.cfg.num_policies)])

    @property
    def eval_env_steps(self) -> list[int]:
        """Frames of the counted episodes, per policy."""
        return [int(sum(lengths)) for lengths in self.eval_stats.get("len", [[]] * self.cfg.num_policies)]

    @property
    def total_samples(self) -> int:
        """Steps of agents: what workers report every few seconds, or what has arrived in whole rollouts since."""
        return max(sum(self.sampling_loop.samples_collected), self.sampling_loop.samples_in_rollouts)
