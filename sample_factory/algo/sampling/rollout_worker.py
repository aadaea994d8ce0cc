"""Process shell around the environment runners of one rollout worker.

What it waits for, and who unblocks it: actions (its inference workers), free trajectory blocks (the batchers) and, in
synchronous mode, the next training iteration (the batchers' signal). All three ring the worker's doorbell. It ends on
``on_stop`` from the runner, or with its process when the main process dies.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from contextlib import nullcontext
from typing import Any

from signal_slot.signal_slot import signal
from threadpoolctl import threadpool_limits

from sample_factory.algo.sampling.batched_sampling import BatchedVectorEnvRunner
from sample_factory.algo.sampling.non_batched_sampling import NonBatchedVectorEnvRunner
from sample_factory.algo.sampling.sampling_utils import FinishedRollouts, VectorEnvRunner, rollout_worker_device
from sample_factory.algo.utils.context import SampleFactoryContext, set_global_context
from sample_factory.algo.utils.env_info import EnvInfo
from sample_factory.algo.utils.heartbeat import HeartbeatStoppableEventLoopObject
from sample_factory.algo.utils.life_signs import PHASE, RUNNING
from sample_factory.algo.utils.misc import FAULTS, TIME_SHARES, new_trajectories_signal
from sample_factory.algo.utils.periodic_timer import PeriodicTimer
from sample_factory.algo.utils.poll_loop import PollingEventLoop
from sample_factory.algo.utils.seeding import seed_process
from sample_factory.algo.utils.shared_buffers import BufferMgr, rollouts_per_iteration
from sample_factory.algo.utils.thread_counts import num_usable_cores
from sample_factory.algo.utils.time_shares import TimeShares
from sample_factory.algo.utils.torch_utils import inference_context, init_torch_runtime
from sample_factory.cfg.configurable import Configurable
from sample_factory.utils.gpu_utils import set_gpus_for_process
from sample_factory.utils.timing import Timing
from sample_factory.utils.typing import Config, PolicyID
from sample_factory.utils.utils import (
    cores_for_worker_process,
    init_file_logger,
    log,
    set_process_cpu_affinity,
    set_process_niceness,
)

_NO_CONTEXT = nullcontext()
_NICENESS_OFFSET = 10
_REPORT_INTERVAL_SEC = 3.0
# Many small episodes end every millisecond; a message each would keep the main process busy.
_EPISODES_INTERVAL_SEC = 0.2
_TIME_SHARES = {
    "rollout: env": "env_step",
    "rollout: record": "overhead",
    "rollout: request": "enqueue_policy_requests",
    "rollout: wait": "wait_for_actions",
}
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def init_rollout_worker_process(sf_context: SampleFactoryContext, worker: RolloutWorker) -> None:
    """First thing a rollout worker process does: registries, logging, scheduling, threads."""
    cfg = worker.cfg
    set_global_context(sf_context)
    init_file_logger(cfg)
    log.info(f"Worker {worker.worker_idx} started, process {worker.event_loop.process.pid}")
    signs = worker.buffer_mgr.life_signs
    worker.event_loop.show_life_signs(signs.writer(signs.rollout_row(worker.worker_idx)))
    seed_process(cfg, "rollout_worker", worker.worker_idx, *filter(None, [worker.num_restarts]))
    cores = cores_for_worker_process(worker.worker_idx, cfg.num_workers, num_usable_cores())
    if cfg.set_workers_cpu_affinity:
        set_process_cpu_affinity(worker.worker_idx, cfg.num_workers)
    if cfg.force_envs_single_thread and cores is not None and len(cores) == 1:
        limit_numerical_libraries_to_one_thread()
    if cfg.num_workers > 1:
        set_process_niceness(min(cfg.default_niceness + _NICENESS_OFFSET, 20))
    init_torch_runtime(cfg)
    if cfg.actor_worker_gpus:
        set_gpus_for_process(
            worker.worker_idx, num_gpus_per_process=1, process_type="actor", gpu_mask=cfg.actor_worker_gpus
        )


def limit_numerical_libraries_to_one_thread() -> None:
    """One thread for BLAS, OpenMP and the like: those loaded already, and those the environment will load."""
    threadpool_limits(limits=1, user_api=None)
    for variable in _THREAD_VARIABLES:
        os.environ[variable] = "1"


class RolloutWorker(HeartbeatStoppableEventLoopObject, Configurable):
    def __init__(
        self, event_loop: PollingEventLoop, worker_idx: int, buffer_mgr: BufferMgr, cfg: Config, env_info: EnvInfo
    ):
        Configurable.__init__(self, cfg)
        HeartbeatStoppableEventLoopObject.__init__(
            self, event_loop, f"{RolloutWorker.__name__}_w{worker_idx}", cfg.heartbeat_interval
        )
        self.timing = Timing(name=f"{self.object_id} profile")
        self.worker_idx = worker_idx
        self.buffer_mgr, self.env_info = buffer_mgr, env_info
        self.channel = buffer_mgr.channel
        self.sampling_device = str(rollout_worker_device(worker_idx, cfg, env_info))
        self.num_splits = buffer_mgr.num_splits
        self.env_runners: list[VectorEnvRunner] = []
        # Shared by reference with the environment runners, updated in place.
        self.training_info: list[dict[str, Any] | None] = [None] * cfg.num_policies

        self.rollouts_per_iteration = rollouts_per_iteration(cfg, env_info)
        self.training_iteration = -1  # that all policies have finished
        self._remaining_rollouts = [self.rollouts_per_iteration] * self.num_splits
        # Policies asked for the current step of each split; None while the split has no request under way.
        self._asked: list[list[PolicyID] | None] = [None] * self.num_splits
        self._is_decorrelated = cfg.benchmark
        self._pause_until = 0.0  # monotonic time
        self._time_shares = TimeShares(self.timing, _TIME_SHARES)
        self._episode_reports: list[dict[str, Any]] = []
        self._report_timer: PeriodicTimer | None = None
        self._episodes_timer: PeriodicTimer | None = None
        self.is_initialized = False

    @signal
    def report_msg(self) -> None: ...

    # --- life cycle ---

    def init(self) -> None:
        """Create the environments and ask for the first actions. Told again whenever a worker of the run has been
        replaced.
        """
        if self.is_initialized:
            return
        cfg = self.cfg
        envs_per_split = cfg.num_envs_per_worker // self.num_splits
        runner_cls = BatchedVectorEnvRunner if cfg.batched_sampling else NonBatchedVectorEnvRunner
        for split_idx in range(self.num_splits):
            runner = runner_cls(
                cfg,
                self.env_info,
                envs_per_split,
                self.worker_idx,
                split_idx,
                self.buffer_mgr,
                self.sampling_device,
                self.training_info,
                self.event_loop.life_signs,
                self.num_restarts,
            )
            runner.init(self.timing)
            self.env_runners.append(runner)
        if not cfg.async_rl:
            self.training_iteration = int(self.channel.iterations.min())
            # What a predecessor has delivered for this iteration is still in the hands of the batchers.
            self._remaining_rollouts = [runner.num_free_blocks() for runner in self.env_runners]
        self.is_initialized = True
        self.event_loop.life_signs[PHASE] = RUNNING
        self.event_loop.add_poller(self)
        if not cfg.serial_mode:
            self._episodes_timer = PeriodicTimer(self.event_loop, _EPISODES_INTERVAL_SEC)
            self._episodes_timer.timeout.connect(self._report_episodes)
        if self.worker_idx == 0:  # the others spend their time alike
            self._report_timer = PeriodicTimer(self.event_loop, _REPORT_INTERVAL_SEC)
            self._report_timer.timeout.connect(self._report_time_shares)
        self.start_heartbeat()

    def _report_time_shares(self) -> None:
        self.report_msg.emit({TIME_SHARES: self._time_shares.report()})

    def _report_episodes(self) -> None:
        faults: Counter[str] = Counter()
        for runner in self.env_runners:
            faults.update(runner.faults.unreported)
            runner.faults.unreported.clear()
        if faults:
            self._episode_reports.append({FAULTS: dict(faults)})
        if self._episode_reports:
            self.report_msg.emit(self._episode_reports)
            self._episode_reports = []

    def on_update_training_info(self, training_info: dict[PolicyID, dict[str, Any]]) -> None:
        for policy_id, info in training_info.items():
            self.training_info[policy_id] = info

    def _begin_iteration(self) -> None:
        """In synchronous mode the next rollouts may start once every policy has trained."""
        iteration = int(self.channel.iterations.min())
        if iteration > self.training_iteration:
            self.training_iteration = iteration
            self._remaining_rollouts = [self.rollouts_per_iteration] * self.num_splits

    def profile(self) -> dict[Any, Any]:
        """Only the first and the last worker: the others look the same."""
        return {self.object_id: self.timing} if self.worker_idx in (0, self.cfg.num_workers - 1) else {}

    def on_crash(self) -> None:
        self._report_episodes()

    def on_stop(self, *args: Any) -> None:
        if self.is_stopped:
            return
        self.event_loop.remove_poller(self)
        self._report_episodes()
        for timer in (self._report_timer, self._episodes_timer):
            if timer is not None:
                timer.stop()
        for runner in self.env_runners:
            runner.close()
        super().on_stop(*args)

    # --- hot path ---

    def wait(self, timeout_sec: float) -> None:
        with self.timing.add_time("wait_for_actions"):
            self.channel.wait_for_answers(self.worker_idx, timeout_sec)

    def poll(self) -> bool:
        if self._pause_until:
            if time.monotonic() < self._pause_until:
                return False
            self._pause_until = 0.0
        worked = False
        # Vectorised environments speak torch, ordinary ones do not: entering the context would cost for nothing.
        with inference_context(self.cfg.serial_mode) if self.cfg.batched_sampling else _NO_CONTEXT:
            for split_idx, runner in enumerate(self.env_runners):
                asked = self._asked[split_idx]
                if asked is None:
                    worked = self._request_actions(split_idx, runner) or worked
                elif self.channel.is_answered(self.worker_idx, split_idx, asked):
                    self._advance(split_idx, runner)
                    worked = True
        return worked

    def _request_actions(self, split_idx: int, runner: VectorEnvRunner) -> bool:
        """Whether a request could be made; otherwise it is tried again at the next poll."""
        if runner.rollout_step == 0 and self._remaining_rollouts[split_idx] <= 0:
            self._begin_iteration()
            if self._remaining_rollouts[split_idx] <= 0:
                return False
        if not runner.update_trajectory_buffers():
            return False
        with self.timing.add_time("enqueue_policy_requests"):
            # With no active agent nobody is asked, and the empty request counts as answered.
            self._asked[split_idx] = runner.generate_policy_request()
        return True

    def _advance(self, split_idx: int, runner: VectorEnvRunner) -> None:
        with self.timing.add_time("advance_rollouts"):
            finished, episodic_stats = runner.advance_rollouts(self.timing)
        self._asked[split_idx] = None
        if finished:
            self._remaining_rollouts[split_idx] -= 1
            self._send_finished_rollouts(finished)
        if episodic_stats:
            self._episode_reports += episodic_stats
            if self._episodes_timer is None:
                # At once in serial mode: what follows from rewards must not depend on the clock.
                self._report_episodes()
        if not self._pause_until:
            self._request_actions(split_idx, runner)

    def _send_finished_rollouts(self, finished: list[FinishedRollouts]) -> None:
        for rollouts in finished:
            self.emit(new_trajectories_signal(rollouts.policy_id), [rollouts], self.sampling_device)
        if not self._is_decorrelated:
            self._is_decorrelated = True
            self._decorrelate_experience()

    def _decorrelate_experience(self) -> None:
        """Shift workers against each other in time, so that batches mix different stages of the episodes."""
        delay_sec = self.worker_idx / self.cfg.num_workers * self.cfg.decorrelate_experience_max_seconds
        if delay_sec > 0:
            log.info(f"Worker {self.worker_idx} pauses for {delay_sec:.3f} sec to decorrelate experience collection")
            # Not a sleep: life signs and stop messages go on, and so do the other workers of a shared loop.
            self._pause_until = time.monotonic() + delay_sec
