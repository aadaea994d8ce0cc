"""The runner: owns a run from configuration to exit code.

This module is about the life cycle only. Numbers are in ``metrics``, TensorBoard in ``summaries``, connections in
``wiring``, processes in ``supervisor``, signals in ``termination``, the folder in ``experiment_dir``. Two assemblies
derive from :class:`Runner`: ``SerialRunner`` and ``ParallelRunner``.

How a run ends (:meth:`Runner._stop_training`): ``stop`` is emitted once; every component answers with its own
``stop`` signal and leaves its loop; when the last one has answered, or its process has ended, the loop stops. If that
takes longer than ``--fault_timeout`` the remaining processes are killed and the run counts as failed.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections import Counter
from contextlib import ExitStack
from typing import Any

from signal_slot.signal_slot import EventLoopStatus, configure_logger, signal

from sample_factory.algo.learning.batcher import Batcher
from sample_factory.algo.learning.learner_worker import LearnerWorker
from sample_factory.algo.runners.experiment_dir import ExperimentLock, prepare_experiment_dir
from sample_factory.algo.runners.heartbeats import Heartbeats
from sample_factory.algo.runners.message_hub import MsgHandler, PolicyMsgHandler
from sample_factory.algo.runners.observer import AlgoObserver
from sample_factory.algo.runners.periodic_duties import PeriodicDuties
from sample_factory.algo.runners.resources import ResourceError, check_resources
from sample_factory.algo.runners.result import RunResult
from sample_factory.algo.runners.resume_check import check_resume
from sample_factory.algo.runners.stop_conditions import reason_to_stop
from sample_factory.algo.runners.summaries import SummaryReporter, make_writers
from sample_factory.algo.runners.termination import TerminationSignals, status_of_exception
from sample_factory.algo.runners.wiring import connect_components
from sample_factory.algo.sampling.sampler import AbstractSampler, Sampler
from sample_factory.algo.utils.child_process import ChildProcess
from sample_factory.algo.utils.env_info import EnvInfo, EnvProbeError, obtain_env_info_in_a_separate_process
from sample_factory.algo.utils.misc import ExperimentStatus
from sample_factory.algo.utils.multiprocessing_utils import wake_fork_server
from sample_factory.algo.utils.poll_loop import PollingEventLoop
from sample_factory.algo.utils.shared_buffers import BufferMgr
from sample_factory.algo.utils.supervisor import ProcessExit, Supervisor
from sample_factory.cfg.arguments import cfg_dict, cfg_str, preprocess_cfg
from sample_factory.cfg.configurable import Configurable
from sample_factory.cfg.persistence import save_config
from sample_factory.cfg.shadowing import flag_value
from sample_factory.cfg.validation import collect_problems, resolve_device
from sample_factory.utils.attr_dict import AttrDict
from sample_factory.utils.gpu_utils import set_global_cuda_envvars
from sample_factory.utils.logging import quiet_console
from sample_factory.utils.timing import Timing
from sample_factory.utils.typing import Config, PolicyID, StatusCode
from sample_factory.utils.utils import cfg_file, experiment_dir, init_file_logger, log, save_git_diff
from sample_factory.utils.wandb_utils import finish_wandb, init_wandb

__all__ = ["AlgoObserver", "MsgHandler", "PolicyMsgHandler", "Runner"]

# What flag errors exit with, as argparse does.
EXIT_CODE_BAD_CONFIG: StatusCode = 2


class Runner(PeriodicDuties, Configurable):
    def __init__(self, cfg: Config, unique_name: str | None = None):
        Configurable.__init__(self, cfg_dict(cfg))
        cfg = self.cfg
        configure_logger(log)  # messages of the event loops look like ours
        name = unique_name or Runner.__name__
        loop = PollingEventLoop(f"{name}_EvtLoop", serial_mode=cfg.serial_mode)
        PeriodicDuties.__init__(self, loop, name, cfg)
        loop.owner = self

        self.experiment_lock: ExperimentLock = prepare_experiment_dir(cfg)
        self.status: StatusCode = ExperimentStatus.SUCCESS
        self.stop_cause = "not started"
        self.timing = Timing(name=f"{self.object_id} profile")
        self.env_info: EnvInfo | None = None
        self.buffer_mgr: BufferMgr | None = None
        self.learners: dict[PolicyID, LearnerWorker] = {}
        self.batchers: dict[PolicyID, Batcher] = {}
        self.sampler: AbstractSampler | None = None

        init_wandb(cfg)  # before the writers: it patches TensorBoard
        self.writers = make_writers(cfg)
        self.summaries = SummaryReporter(self.writers, self.metrics)

        self.observers: list[AlgoObserver] = []

        self.heartbeats = Heartbeats([], cfg.heartbeat_reporting_interval, flag_value(cfg, "startup_timeout"))
        self.supervisor = Supervisor(loop, self._on_process_exit)
        self.faults: Counter[str] = Counter()  # survived ones, by kind
        self._traceback = ""  # of what ended the run
        self.components_to_stop: set[str] = set()
        self.stopped = False
        self._stop_deadline = float("inf")
        self._termination = TerminationSignals(flag_value(cfg, "requeue_exit_code"))
        self._component_profiles: dict[str, Timing] = {}
        self._console = ExitStack()  # what is done to the console until the end of the run

        self._create_timers()

    # --- signals ---

    @signal
    def stop(self) -> None: ...

    @signal
    def all_components_stopped(self) -> None: ...

    @signal
    def worker_died(self) -> None: ...

    def use_signals(self, signals: TerminationSignals) -> None:
        """Obey the signals that the caller listens to already."""
        signals.requeue_exit_code = flag_value(self.cfg, "requeue_exit_code")
        signals.on_exit_at_once = self._exit_at_once
        self._termination = signals

    def register_observer(self, observer: AlgoObserver) -> None:
        self.observers.append(observer)

    def _call_observers(self, hook: str, *args: Any) -> None:
        for observer in self.observers:
            getattr(observer, hook)(self, *args)

    # --- initialisation ---

    def init(self) -> StatusCode:
        """Find out about the environment, check the configuration, save it and allocate memory. Starts no worker."""
        with ExitStack() as console:
            console.enter_context(quiet_console(flag_value(self.cfg, "ui") == "none"))
            status = self._init()
            if status == ExperimentStatus.SUCCESS:
                self._console = console.pop_all()
        return status

    def _init(self) -> StatusCode:
        cfg = self.cfg
        init_file_logger(cfg)
        set_global_cuda_envvars(cfg)
        resolve_device(cfg)  # says so once if there is no GPU; the workers find out for themselves
        try:
            self.env_info = obtain_env_info_in_a_separate_process(cfg)
        except EnvProbeError as exc:
            return self._fail_init(f"{exc}", ExperimentStatus.FAILURE)
        for policy_id in range(cfg.num_policies):
            self.reward_shaping[policy_id] = self.env_info.reward_shaping_scheme
        if not preprocess_cfg(cfg, self.env_info):
            problems = collect_problems(cfg, self.env_info)
            self.abort("; ".join(" ".join(problem.split()) for problem in problems), EXIT_CODE_BAD_CONFIG)
            return EXIT_CODE_BAD_CONFIG
        try:
            check_resources(cfg, self.env_info)
        except ResourceError as exc:
            return self._fail_init(f"{exc}", ExperimentStatus.FAILURE)
        check_resume(cfg, self.env_info)  # before the flags are stored: wrong ones would stop the next start as well

        shown = {key: value for key, value in cfg.items() if key != "help"}  # it says nothing about a run
        log.debug(f"Starting experiment with the following configuration:\n{cfg_str(AttrDict(shown))}")
        save_config(cfg, cfg_file(cfg))
        save_git_diff(experiment_dir(cfg))
        self.buffer_mgr = BufferMgr(cfg, self.env_info)
        self._call_observers("on_init")
        return ExperimentStatus.SUCCESS

    def _fail_init(self, text: str, status: StatusCode) -> StatusCode:
        """The last line of the text is the cause, what comes before explains it."""
        explanation, _, cause = text.strip().rpartition("\n")
        if explanation:
            log.error(explanation)
        self.abort(cause, status)
        return status

    def abort(self, cause: str, status: StatusCode) -> None:
        """The run ends before it started: leave a result, give back the folder."""
        self.status, self.stop_cause = status, cause
        self._close()

    def connect_components(self) -> None:
        """Connect everything with everything else; see ``wiring`` for the table."""
        assert isinstance(self.sampler, Sampler)
        expected = connect_components(self)
        self.heartbeats = Heartbeats(
            [(type(component).__name__, component.object_id) for component in expected],
            self.cfg.heartbeat_reporting_interval,
            flag_value(self.cfg, "startup_timeout"),
        )
        self.components_to_stop = {component.object_id for component in expected}
        self._call_observers("on_connect_components")

    # --- running ---

    def run(self) -> StatusCode:
        """Train until done, interrupted or failed; returns the exit code."""
        self._training_since = time.time()
        loop_status: StatusCode = EventLoopStatus.NORMAL_TERMINATION
        if self.view is not None:
            self.view.start()
        try:
            with self._termination, self.timing.timeit("main_loop"):
                loop_status = self.event_loop.exec(self._interrupted)
        except BaseException as exc:
            self._fail_from_exception(exc, traceback.format_exc())
            if isinstance(exc, SystemExit):
                raise SystemExit(self.status) from exc
        finally:
            self._end_run(loop_status)
        return self.status

    def _interrupted(self) -> bool:
        """Asked by the loop after every iteration; True ends it at once."""
        if self._termination.stop_requested() and not self.stopped:
            log.info(f"{self._termination.describe()} received: saving and stopping, once more to stop without saving")
            self._stop_training(status=self._termination.status(), cause=self._termination.describe())
        elif self._termination.take_save_request() and not self.stopped:
            log.info("SIGUSR1 received: saving, training goes on")
            self._save_periodic()
        return self._termination.kill_requested() or time.time() > self._stop_deadline

    def _on_start(self) -> None:
        """First slot of the loop: start the processes."""
        assert self.sampler is not None
        self.stop_cause = "running"
        self._start_processes()
        self.sampler.init()
        self.supervisor.watch(self._all_processes())
        self._propagate_training_info()
        self._call_observers("on_start")

    def _start_processes(self) -> None:
        """Learner processes, in the assembly that has some."""

    def _all_processes(self) -> list[ChildProcess]:
        return []

    @property
    def num_processes(self) -> int:
        """Worker processes of a healthy run; the supervisor knows how many are left."""
        return len(self._all_processes())

    # --- slots ---

    def _receive_heartbeat(self, component_type: type, object_id: str, process_name: str, queue_size: int) -> None:
        self.heartbeats.receive(component_type, object_id, process_name, queue_size)

    def _after_training_iteration(self, training_iteration_since_resume: int) -> None:
        if self.stopped:
            return
        self._call_observers("on_training_step", training_iteration_since_resume)
        self._stop_if_done()

    def _stop_if_done(self) -> None:
        reason = reason_to_stop(self.cfg, self.env_steps, self.total_train_seconds)
        if reason is not None and not self.stopped:
            log.info(f"Training is complete: {reason}")
            self._stop_training(cause=reason)

    def _stop_if_stalled(self, problem: str | None) -> None:
        # In serial mode life signs wait in the runner's own queue while one component works: their age means nothing.
        if self.cfg.serial_mode:
            return
        if problem is not None and not self.stopped:
            log.error(f"Stopping the run: {problem}")
            self._stop_training(status=ExperimentStatus.FAILURE, cause=problem)

    # --- the end ---

    def _on_process_exit(self, process: ChildProcess, process_exit: ProcessExit) -> None:
        """Supervisor's callback. Before the stop a worker is replaced if that is possible, and every other exit is a
        failure; afterwards only those that are not clean.
        """
        if process_exit.is_clean and self.stopped:
            self._forget_components_of(process)
            return
        if process_exit.error:
            log.error(f"Exception in {process_exit.error.text}")
        refusal = self._replace(process, process_exit)
        if refusal is None:
            log.error(f"Lost a worker: {process_exit}")
            return
        cause = f"{process_exit}{refusal}"
        log.error(f"Stopping the run: {cause}")
        if not self.stopped or self.status == ExperimentStatus.SUCCESS:
            self.status, self.stop_cause = ExperimentStatus.FAILURE, cause
            self._traceback = process_exit.error.text if process_exit.error else ""
        self._forget_components_of(process)
        self._stop_training(status=ExperimentStatus.FAILURE, cause=cause)

    def _replace(self, process: ChildProcess, process_exit: ProcessExit) -> str | None:
        """Have a process that died replaced; returns why not, to be added to the cause of the end of the run."""
        return ""

    def _forget_components_of(self, process: ChildProcess) -> None:
        """Nobody in this process will report that it stopped."""
        gone = [c.object_id for c in self._components() if c.event_loop is not None and c.event_loop.process is process]
        for object_id in gone:
            self._component_stopped(object_id, {})

    def _components(self) -> list[Any]:
        sampler_components = self.sampler.stoppable_components() if isinstance(self.sampler, Sampler) else []
        return [*self.batchers.values(), *self.learners.values(), *sampler_components]

    def _stop_training(self, status: StatusCode | None = None, cause: str = "") -> None:
        """Ask every component to stop; the learners save first. Only the first call counts."""
        if self.stopped:
            return
        self.stopped = True
        self.stop_cause = cause
        if status is not None:
            self.status = status
        self._stop_deadline = time.time() + flag_value(self.cfg, "fault_timeout")
        self._propagate_training_info()
        self._call_observers("on_stop")
        self._save_best_policies()
        for timer in self.timers:
            timer.stop()
        self.stop.emit(self.object_id)
        if self.buffer_mgr is not None:
            self.buffer_mgr.channel.wake_all()
        if not self.components_to_stop:
            self.all_components_stopped.emit()

    def _component_stopped(self, object_id: str, profiles: dict[str, Timing]) -> None:
        """Slot for the ``stop`` signal of every component."""
        self._component_profiles.update(profiles)
        if object_id not in self.components_to_stop:
            return
        log.debug(f"Component {object_id} stopped!")
        self.components_to_stop.remove(object_id)
        self.heartbeats.forget(object_id)
        if not self.components_to_stop and self.stopped:
            self.all_components_stopped.emit()

    def _on_everything_stopped(self) -> None:
        self.event_loop.stop()

    def _fail_from_exception(self, exc: BaseException, text: str) -> None:
        """An exception escaped a slot of this process. In serial mode learners live here and save what they have."""
        log.error(f"Exception in the runner process:\n{text}")
        self.status, self.stop_cause = status_of_exception(exc), text.strip().splitlines()[-1]
        self._traceback = text
        if self.cfg.serial_mode:
            for learner in self.learners.values():
                learner.on_crash()

    def _end_run(self, loop_status: StatusCode) -> None:
        """Whatever happened: no process left, profiles logged, result written, folder unlocked."""
        self._stop_view()
        # Once more: an exception may have come in between. Components that stopped already do not listen any more.
        self.stop.emit(self.object_id)
        if self.buffer_mgr is not None:
            self.buffer_mgr.channel.wake_all()
        gave_up = loop_status == EventLoopStatus.INTERRUPTED
        kill_now = gave_up or self._termination.kill_requested()
        killed = self.supervisor.join_or_kill(0.0 if kill_now else float(flag_value(self.cfg, "fault_timeout")))
        if self._termination.kill_requested():
            # The workers may have been killed by the second signal itself, which looks like a failure of theirs.
            self.status, self.stop_cause = self._termination.status(), self._termination.describe()
        else:
            self._judge_killed(killed)
        self._log_profiles()
        self._write_summaries()
        self._close()

    def _judge_killed(self, names: list[str]) -> None:
        """What it means that these processes had to be killed at the end."""

    def _exit_at_once(self) -> None:
        self.status, self.stop_cause = self._termination.status(), f"{self._termination.describe()}, exited at once"
        RunResult.of(self).write(experiment_dir(self.cfg))

    def _log_profiles(self) -> None:
        for _, profile in sorted(self._component_profiles.items()):
            log.info(profile)
        log.info(self.timing)
        seconds = max(self.timing.get("main_loop", 0.0), 1e-8)
        fps = self.metrics.frames_since_resume() / seconds
        log.info(f"Collected {dict(sorted(self.env_steps.items()))}, FPS: {fps:.1f}")
        if self.faults:
            log.warning(f"Faults survived: {', '.join(f'{n} {kind}' for kind, n in sorted(self.faults.items()))}")

    def _has_failed(self) -> bool:
        """False also if a signal asked for this end."""
        is_interrupted = self.status != ExperimentStatus.FAILURE and self._termination.stop_requested()
        return self.status != ExperimentStatus.SUCCESS and not is_interrupted

    def _close(self) -> None:
        wake_fork_server()  # it ends when this process does, unless it is stopped
        self.summaries.close()
        finish_wandb(self.cfg, self.status if self._has_failed() else ExperimentStatus.SUCCESS)
        RunResult.of(self).write(experiment_dir(self.cfg))
        if self._traceback:
            log.error(f"What ended the run:\n{self._traceback.rstrip()}")
        level = logging.ERROR if self._has_failed() else logging.INFO
        log.log(level, f"Run ended with exit code {self.status}: {self.stop_cause}")
        self._console.close()
        self.experiment_lock.release()
