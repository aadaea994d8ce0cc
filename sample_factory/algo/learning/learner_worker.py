"""Process shell around one learner and its batcher.

The learner runs on the main thread of the process, the batcher on a thread of its own (in serial mode both on the
runner's loop). The learner waits for training batches; it stops after its batcher and saves a checkpoint first. An
exception saves, too, as long as the weights are finite.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
from signal_slot.signal_slot import EventLoop, signal

from sample_factory.algo.learning.batcher import Batcher
from sample_factory.algo.learning.checkpoint_saver import SaveRequest
from sample_factory.algo.learning.learner import Learner
from sample_factory.algo.learning.level_curriculum import LevelCurriculum
from sample_factory.algo.utils.context import SampleFactoryContext, set_global_context
from sample_factory.algo.utils.env_info import EnvInfo
from sample_factory.algo.utils.heartbeat import HeartbeatStoppableEventLoopObject
from sample_factory.algo.utils.life_signs import PHASE, RUNNING
from sample_factory.algo.utils.misc import LEARNER_ENV_STEPS, POLICY_ID_KEY, TIME_SHARES
from sample_factory.algo.utils.model_sharing import ParameterServer, SharedWeights
from sample_factory.algo.utils.periodic_timer import PeriodicTimer
from sample_factory.algo.utils.seeding import seed_process
from sample_factory.algo.utils.shared_buffers import BufferMgr
from sample_factory.algo.utils.thread_counts import (
    ThreadCounts,
    limit_serial_threads,
    set_threads,
    threads_now,
    use_learner_threads,
)
from sample_factory.algo.utils.time_shares import TimeShares
from sample_factory.algo.utils.torch_utils import init_torch_runtime
from sample_factory.cfg.configurable import Configurable
from sample_factory.cfg.shadowing import flag_value
from sample_factory.utils.gpu_utils import cuda_envvars_for_policy
from sample_factory.utils.timing import Timing
from sample_factory.utils.typing import Config, PolicyID
from sample_factory.utils.utils import init_file_logger, log, set_process_niceness

_BATCHER_CHECK_SEC = 1.0
_REPORT_INTERVAL_SEC = 3.0
_CUDA_CACHE_CLEANUP_SEC = 30.0
_SAVE_RETRY_SEC = 10.0


def init_learner_process(sf_context: SampleFactoryContext, learner_worker: LearnerWorker) -> None:
    """First thing a learner process does: registries, logging, scheduling, GPU visibility, threads."""
    cfg = learner_worker.cfg
    set_global_context(sf_context)
    init_file_logger(cfg)
    log.info(f"{learner_worker.object_id} started, process {learner_worker.event_loop.process.pid}")
    # Those of the batcher's thread: it answers while the learner is at work.
    signs = learner_worker.batcher.buffer_mgr.life_signs
    learner_worker.batcher.event_loop.show_life_signs(signs.writer(signs.learner_row(learner_worker.policy_id)))
    seed_process(cfg, "learner", learner_worker.policy_id)
    set_process_niceness(cfg.default_niceness)
    if cfg.device == "gpu":
        cuda_envvars_for_policy(learner_worker.policy_id, "learning")
    init_torch_runtime(cfg)


class BatcherThread(threading.Thread):
    """Runs the batcher's loop and keeps the exception that ended it, if one did."""

    def __init__(self, event_loop: EventLoop) -> None:
        super().__init__(name="batcher", daemon=True)
        self.event_loop = event_loop
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self.event_loop.exec()
        except BaseException as exc:
            self.error = exc


class LearnerWorker(HeartbeatStoppableEventLoopObject, Configurable):
    def __init__(
        self,
        evt_loop: EventLoop,
        cfg: Config,
        env_info: EnvInfo,
        buffer_mgr: BufferMgr,
        batcher: Batcher,
        policy_id: PolicyID,
        weights: SharedWeights | None = None,
    ):
        Configurable.__init__(self, cfg)
        HeartbeatStoppableEventLoopObject.__init__(
            self, evt_loop, f"{LearnerWorker.__name__}_p{policy_id}", cfg.heartbeat_interval
        )
        self.policy_id, self.batcher = policy_id, batcher
        self.timing = Timing(name=f"Learner {policy_id} profile")
        self.param_server = ParameterServer(policy_id, buffer_mgr.policy_versions, cfg.serial_mode, weights)
        self.learner = Learner(cfg, env_info, buffer_mgr.policy_versions, policy_id, self.param_server)
        if buffer_mgr.levels is not None:
            self.learner.level_curriculum = LevelCurriculum(cfg, buffer_mgr.levels)
        self.training_iteration_since_resume = 0
        self._time_shares = TimeShares(self.timing, {"learner: train": "train"})
        self._report_timer: PeriodicTimer | None = None
        self._batcher_thread: BatcherThread | None = None
        self._batcher_check_timer: PeriodicTimer | None = None
        self._cuda_cache_timer: PeriodicTimer | None = None
        self._is_learner_ready = False
        # Kinds of checkpoints asked for while another one was being written.
        self._waiting_saves: set[str] = set()
        self._save_retry_timer: PeriodicTimer | None = None
        self._threads_before: ThreadCounts | None = None
        self.save_ended.connect(self._on_save_ended)

    @signal
    def initialized(self) -> None: ...

    @signal
    def model_initialized(self) -> None: ...

    @signal
    def report_msg(self) -> None: ...

    @signal
    def training_batch_released(self) -> None: ...

    @signal
    def finished_training_iteration(self) -> None: ...

    @signal
    def saved_model(self) -> None: ...

    @signal
    def save_ended(self) -> None:
        """To itself, from the thread that writes checkpoints."""

    def init(self) -> None:
        """First thing a learner does: its batcher's thread, its model, and the news that both are there."""
        if self.batcher.event_loop is not self.event_loop:
            self._batcher_thread = BatcherThread(self.batcher.event_loop)
            self._batcher_thread.start()
            self._batcher_check_timer = PeriodicTimer(self.event_loop, _BATCHER_CHECK_SEC)
            self._batcher_check_timer.timeout.connect(self._check_batcher)
        policy_id, _, device, policy_version = self.learner.init()
        self._is_learner_ready = True
        self.batcher.event_loop.life_signs[PHASE] = RUNNING
        model, obs_space = self.learner.actor_critic, self.learner.env_info.obs_space
        if self.cfg.serial_mode:
            if self.policy_id == 0:  # all policies have such a model
                self._threads_before = threads_now()  # the process is that of the user, who gets them back
                limit_serial_threads(self.cfg, model, obs_space)
        else:
            of_operations, sharing_rows = use_learner_threads(self.cfg, model, obs_space)
            log.debug(f"{self.object_id}: torch uses {of_operations} threads, rows are shared by {sharing_rows}")
        if device.type == "cuda" and not self.cfg.benchmark:
            # Other processes use the same GPU: blocks the allocator keeps for later would be missing there.
            self._cuda_cache_timer = PeriodicTimer(self.event_loop, _CUDA_CACHE_CLEANUP_SEC)
            self._cuda_cache_timer.timeout.connect(self._empty_cuda_cache)
        # The weights themselves are in the parameter server: no tensor travels with the message.
        self.model_initialized.emit((policy_id, None, str(device), policy_version))
        self.report_msg.emit({LEARNER_ENV_STEPS: self.learner.env_steps, POLICY_ID_KEY: self.policy_id})
        self._report_timer = PeriodicTimer(self.event_loop, _REPORT_INTERVAL_SEC)
        self._report_timer.timeout.connect(self._report_time_shares)
        self.start_heartbeat()
        self.initialized.emit()

    def _report_time_shares(self) -> None:
        self.report_msg.emit({TIME_SHARES: self._time_shares.report()})

    def _empty_cuda_cache(self) -> None:
        torch.cuda.empty_cache()

    def _check_batcher(self) -> None:
        thread = self._batcher_thread
        if thread is not None and thread.error is not None:
            error, thread.error = thread.error, None
            raise RuntimeError(f"the batcher of policy {self.policy_id} failed") from error

    # --- training ---

    def on_new_training_batch(self, batch_idx: int) -> None:
        with self.timing.add_time("train"):
            stats = self.learner.train(self.batcher.training_batches[batch_idx])
        self.training_iteration_since_resume += 1
        self.training_batch_released.emit(batch_idx, self.training_iteration_since_resume)
        # The numbers come first: whether training is complete is decided by this iteration, not by the clock.
        if stats is not None:
            self.report_msg.emit(stats)
        self.finished_training_iteration.emit(self.training_iteration_since_resume)

    # --- saving and loading ---

    def save(self) -> None:
        """``saved_model`` follows when the checkpoint is on the disk."""
        if not self._is_learner_ready:
            return
        if self.learner.is_saving:
            self._waiting_saves.add("latest")
        elif self.learner.is_saved():
            self.saved_model.emit(self.policy_id)
        else:
            self._begin_save(self.learner.latest_request())

    def save_best(self, policy_id: PolicyID, metric: str, metric_value: float) -> None:
        """While another file is being written nothing happens: the score is offered again in a few seconds."""
        if not self._is_learner_ready or self.learner.is_saving:
            return
        request = self.learner.best_request(policy_id, metric, metric_value)
        if request is not None:
            self._begin_save(request)

    def save_milestone(self) -> None:
        if not self._is_learner_ready:
            return
        if self.learner.is_saving:
            self._waiting_saves.add("milestone")
        else:
            self._begin_save(self.learner.milestone_request())

    def _begin_save(self, request: SaveRequest) -> None:
        self.learner.begin_save(request, self.save_ended.emit)
        if self.cfg.serial_mode:
            # No threads there: what happens next must not depend on how fast a disk is.
            self.learner.wait_for_saves()

    def _on_save_ended(self) -> None:
        for request in self.learner.settle_saves():
            if request.kind != "milestone":
                self.saved_model.emit(self.policy_id)
        self._retry_failed_saves()
        if not self.learner.is_saving and self._waiting_saves:
            if self._waiting_saves.pop() == "milestone":
                self.save_milestone()
            else:
                self.save()

    def _retry_failed_saves(self) -> None:
        """A full disk is tried more often than a checkpoint is due."""
        if self.learner.is_save_failing and self._save_retry_timer is None:
            self._save_retry_timer = PeriodicTimer(self.event_loop, min(_SAVE_RETRY_SEC, self.cfg.save_every_sec))
            self._save_retry_timer.timeout.connect(self.save)
        elif not self.learner.is_save_failing and self._save_retry_timer is not None:
            self._save_retry_timer.stop()
            self._save_retry_timer = None

    def load(self, policy_to_load: PolicyID) -> None:
        """Replace this policy's weights by another policy's newest checkpoint before the next batch."""
        self.learner.set_policy_to_load(policy_to_load)

    def on_update_cfg(self, new_cfg: dict[str, Any]) -> None:
        self.learner.set_new_cfg(new_cfg)

    # --- ends ---

    def profile(self) -> dict[Any, Any]:
        timing = getattr(self.learner, "timing", None)
        return {self.object_id: timing if timing is not None else self.timing}

    def on_crash(self) -> None:
        """Save what can be saved: the checkpoint store refuses non-finite weights."""
        if not self._is_learner_ready or self.is_stopped:
            return
        log.error(f"{self.object_id}: saving a checkpoint after an exception")
        try:
            self.learner.save()
        except Exception as exc:  # the first exception is the one to report
            log.error(f"{self.object_id}: no checkpoint could be saved: {exc}")

    def on_stop(self, *args: Any) -> None:
        if self.is_stopped:
            return
        if self._is_learner_ready and self.learner.save_finally():
            self.saved_model.emit(self.policy_id)
        timers = (self._batcher_check_timer, self._report_timer, self._cuda_cache_timer, self._save_retry_timer)
        for timer in timers:
            if timer is not None:
                timer.stop()
        if self._batcher_thread is not None:
            self._batcher_thread.join(timeout=flag_value(self.cfg, "fault_timeout"))
        if self._threads_before is not None:
            set_threads(self._threads_before)
        super().on_stop(*args)
