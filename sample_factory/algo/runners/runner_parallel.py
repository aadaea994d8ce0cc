"""One process per learner (with its batcher's thread), inference worker and rollout worker."""

from __future__ import annotations

from sample_factory.algo.learning.batcher import Batcher
from sample_factory.algo.learning.learner_worker import LearnerWorker, init_learner_process
from sample_factory.algo.runners.resources import ResourceError, check_room_for_weights
from sample_factory.algo.runners.runner import Runner
from sample_factory.algo.runners.watchdog import Watchdog
from sample_factory.algo.runners.worker_restarts import WorkerRestarts
from sample_factory.algo.sampling.inference_worker import InferenceWorker
from sample_factory.algo.sampling.rollout_worker import RolloutWorker
from sample_factory.algo.sampling.sampler import ParallelSampler
from sample_factory.algo.utils.child_process import ChildProcess
from sample_factory.algo.utils.context import sf_global_context
from sample_factory.algo.utils.misc import ExperimentStatus
from sample_factory.algo.utils.model_sharing import SharedWeights
from sample_factory.algo.utils.multiprocessing_utils import get_mp_ctx
from sample_factory.algo.utils.poll_loop import ControlLoop
from sample_factory.algo.utils.supervisor import ProcessExit
from sample_factory.cfg.shadowing import flag_value
from sample_factory.model.actor_critic import create_actor_critic
from sample_factory.utils.typing import Config, PolicyID, StatusCode
from sample_factory.utils.utils import log

_RESTART_CHECK_SEC = 0.1


class ParallelRunner(Runner):
    def __init__(self, cfg: Config):
        super().__init__(cfg)
        self._learner_processes: dict[PolicyID, ChildProcess] = {}
        self._restarts: WorkerRestarts | None = None
        self._watchdog: Watchdog | None = None

    def init(self) -> StatusCode:
        status = super().init()
        if status != ExperimentStatus.SUCCESS:
            return status
        assert self.env_info is not None and self.buffer_mgr is not None
        # Built once here: its size is needed to allocate the shared weights, and a broken model fails before any
        # process runs.
        model = create_actor_critic(self.cfg, self.env_info.obs_space, self.env_info.action_space)
        try:
            check_room_for_weights(self.cfg, model)
        except ResourceError as exc:
            return self._fail_init(f"{exc}", ExperimentStatus.FAILURE)
        for policy_id in range(self.cfg.num_policies):
            self._make_learner(policy_id, SharedWeights(model))
        param_servers = {policy_id: learner.param_server for policy_id, learner in self.learners.items()}
        self.sampler = ParallelSampler(self.event_loop, self.buffer_mgr, param_servers, self.cfg, self.env_info)
        self.connect_components()
        for batcher in self.batchers.values():
            self.worker_died.connect(batcher.on_worker_died)
            batcher.worker_forgotten.connect(self.on_worker_forgotten)
        for policy_id, process in self._learner_processes.items():
            # The batcher's loop runs in a thread of the learner's process.
            self.batchers[policy_id].event_loop.process = process
        self._restarts = WorkerRestarts(
            self.sampler,
            flag_value(self.cfg, "max_worker_restarts"),
            self.batchers,
            lambda worker_idx: self.worker_died.emit(worker_idx),
            lambda process: self.supervisor.watch([process]),
        )
        self._watchdog = self._make_watchdog(self.sampler)
        self._add_timer(_RESTART_CHECK_SEC, self._restarts_timer)
        self._add_timer(self._watchdog.check_period_sec, self._watchdog_timer)
        return status

    def _make_watchdog(self, sampler: ParallelSampler) -> Watchdog:
        cfg = self.cfg
        signs = sampler.buffer_mgr.life_signs
        watchdog = Watchdog(self.supervisor, signs, flag_value(cfg, "startup_timeout"))
        for process in sampler.processes:
            owner = process.event_loop.owner
            if isinstance(owner, RolloutWorker):
                watchdog.watch(
                    process, signs.rollout_row(owner.worker_idx), flag_value(cfg, "env_timeout"), "--env_timeout"
                )
            elif isinstance(owner, InferenceWorker):
                row = signs.inference_row(owner.policy_id, owner.worker_idx)
                watchdog.watch(process, row, flag_value(cfg, "fault_timeout"), "--fault_timeout")
        for policy_id, process in self._learner_processes.items():
            watchdog.watch(process, signs.learner_row(policy_id), flag_value(cfg, "fault_timeout"), "--fault_timeout")
        return watchdog

    def _watchdog_timer(self) -> None:
        if self._watchdog is not None and not self.stopped:
            self._watchdog.check()

    def _stop_if_stalled(self, problem: str | None) -> None:
        if problem is not None and not self.stopped:
            for process in self.supervisor.running:
                log.error(f"Threads of process {process.name} (pid {process.pid}):\n{process.stacks()}")
        super()._stop_if_stalled(problem)

    def _restarts_timer(self) -> None:
        if self._restarts is not None and not self.stopped:
            self._restarts.start_those_due()

    def on_worker_forgotten(self, policy_id: PolicyID, worker_idx: int) -> None:
        """Slot for the batchers."""
        if self._restarts is not None:
            self._restarts.batcher_is_ready(policy_id, worker_idx)

    def _replace(self, process: ChildProcess, process_exit: ProcessExit) -> str | None:
        if self.stopped or self._restarts is None:
            return ""
        if process_exit.error is not None and process_exit.error.is_final:
            return ""
        refusal = self._restarts.begin(process)
        if refusal is None:
            self.faults["worker_restarts"] += 1
            return None
        return "" if process in self._learner_processes.values() else f"; {refusal}"

    def _judge_killed(self, names: list[str]) -> None:
        """Learners have the progress of the run: without one of them not everything is saved, whatever was asked for.
        Others, for instance in an environment that hangs, have nothing to save.
        """
        lost = [process.name for process in self._learner_processes.values() if process.name in names]
        if lost:
            self.status, self.stop_cause = ExperimentStatus.FAILURE, f"{self.stop_cause}; killed {', '.join(lost)}"
        elif names:
            self.faults["workers_killed_at_the_end"] += len(names)

    def _stop_training(self, status: StatusCode | None = None, cause: str = "") -> None:
        missing = self._restarts.cancel() if self._restarts is not None else []
        super()._stop_training(status, cause)
        for process in missing:
            self._forget_components_of(process)

    def _make_learner(self, policy_id: PolicyID, weights: SharedWeights) -> None:
        assert self.env_info is not None and self.buffer_mgr is not None
        mp_ctx = get_mp_ctx(self.cfg.serial_mode)
        assert mp_ctx is not None
        batcher_loop = ControlLoop(f"batcher_{policy_id}_evt_loop")
        batcher = Batcher(batcher_loop, policy_id, self.buffer_mgr, self.cfg, self.env_info)
        batcher_loop.owner = batcher

        process = ChildProcess(f"learner_proc{policy_id}", mp_ctx, init_learner_process)
        learner = LearnerWorker(
            process.event_loop, self.cfg, self.env_info, self.buffer_mgr, batcher, policy_id, weights
        )
        process.event_loop.owner = learner
        process.set_init_func_args((sf_global_context(), learner))
        self._learner_processes[policy_id] = process
        self.batchers[policy_id], self.learners[policy_id] = batcher, learner

    def _start_processes(self) -> None:
        for process in self._learner_processes.values():
            log.debug(f"Starting process {process.name}")
            process.start()

    def _all_processes(self) -> list[ChildProcess]:
        assert isinstance(self.sampler, ParallelSampler)
        return [*self._learner_processes.values(), *self.sampler.processes]
