"""Creates and connects everything that collects experience; two assemblies of the same workers.

Who lives where: the Sampler on the runner's loop; in serial mode all workers live there too. Otherwise every rollout
worker has its own process, and inference workers have processes of their own or live in those of the rollout workers
(:mod:`sample_factory.algo.utils.topology`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from signal_slot.signal_slot import EventLoop, EventLoopObject, signal

from sample_factory.algo.sampling.inference_worker import InferenceWorker, init_inference_process
from sample_factory.algo.sampling.rollout_worker import RolloutWorker, init_rollout_worker_process
from sample_factory.algo.utils.child_process import ChildProcess
from sample_factory.algo.utils.context import sf_global_context
from sample_factory.algo.utils.env_info import EnvInfo
from sample_factory.algo.utils.heartbeat import HeartbeatStoppableEventLoopObject
from sample_factory.algo.utils.misc import new_trajectories_signal
from sample_factory.algo.utils.model_sharing import ParameterServer
from sample_factory.algo.utils.multiprocessing_utils import get_mp_ctx
from sample_factory.algo.utils.poll_loop import PollingEventLoop
from sample_factory.algo.utils.shared_buffers import BufferMgr
from sample_factory.cfg.configurable import Configurable
from sample_factory.utils.typing import Config, InitModelData, PolicyID
from sample_factory.utils.utils import log

Worker = TypeVar("Worker", InferenceWorker, RolloutWorker)


class AbstractSampler(EventLoopObject, Configurable):
    def __init__(
        self,
        event_loop: EventLoop,
        buffer_mgr: BufferMgr,
        param_servers: dict[PolicyID, ParameterServer],
        cfg: Config,
        env_info: EnvInfo,
    ):
        EventLoopObject.__init__(self, event_loop, "Sampler")
        Configurable.__init__(self, cfg)
        self.buffer_mgr, self.param_servers, self.env_info = buffer_mgr, param_servers, env_info

    @signal
    def started(self) -> None:
        """Processes are launched."""

    @signal
    def initialized(self) -> None:
        """Emitted once per inference worker that is ready."""

    def init(self) -> None:
        raise NotImplementedError


class Sampler(AbstractSampler):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.inference_workers: dict[PolicyID, list[InferenceWorker]] = {p: [] for p in range(self.cfg.num_policies)}
        self.rollout_workers: list[RolloutWorker] = []
        self._ready_inference_workers: set[tuple[PolicyID, int]] = set()
        self._init_model_data: dict[PolicyID, InitModelData] = {}
        self._make_inference_workers()
        self._make_rollout_workers()
        for inference_worker in self._all_inference_workers():
            inference_worker.initialized.connect(self._inference_worker_ready)
            self._model_initialized.connect(inference_worker.init)
        for rollout_worker in self.rollout_workers:
            self._inference_workers_initialized.connect(rollout_worker.init)

    @signal
    def _model_initialized(self) -> None:
        """A learner has published its first weights (passed on), or inference workers have been replaced."""

    @signal
    def _inference_workers_initialized(self) -> None:
        """All inference workers of all policies are ready: rollout workers may ask for actions."""

    def _make_inference_workers(self) -> None:
        for policy_id in range(self.cfg.num_policies):
            for i in range(self.buffer_mgr.topology.inference_workers_per_policy):
                self.inference_workers[policy_id].append(self._make_inference_worker(policy_id, i))

    def _make_rollout_workers(self) -> None:
        for worker_idx in range(self.cfg.num_workers):
            self.rollout_workers.append(self._make_rollout_worker(worker_idx))

    def _make_inference_worker(self, policy_id: PolicyID, i: int) -> InferenceWorker:
        """Create it on the loop it will run on: that is where the assemblies differ."""
        raise NotImplementedError

    def _make_rollout_worker(self, worker_idx: int) -> RolloutWorker:
        raise NotImplementedError

    def _inference_worker_on(self, loop: PollingEventLoop, policy_id: PolicyID, i: int) -> InferenceWorker:
        param_server = self.param_servers[policy_id]
        return InferenceWorker(loop, policy_id, i, self.buffer_mgr, param_server, self.cfg, self.env_info)

    def _rollout_worker_on(self, loop: PollingEventLoop, worker_idx: int) -> RolloutWorker:
        return RolloutWorker(loop, worker_idx, self.buffer_mgr, self.cfg, self.env_info)

    @property
    def processes(self) -> list[ChildProcess]:
        """Worker processes of this assembly, to be supervised."""
        return []

    # --- connections with the rest of the system ---

    def _all_inference_workers(self) -> Iterable[InferenceWorker]:
        return (worker for workers in self.inference_workers.values() for worker in workers)

    def stoppable_components(self) -> list[HeartbeatStoppableEventLoopObject]:
        return [*self._all_inference_workers(), *self.rollout_workers]

    def connect_model_initialized(self, policy_id: PolicyID, model_initialized_signal: Any) -> None:
        """Through the sampler, which is where the queues of all workers are known anyway: a learner's process can be
        given only so many.
        """
        model_initialized_signal.connect(self._pass_on_model_initialized)

    def _pass_on_model_initialized(self, init_model_data: InitModelData) -> None:
        self._init_model_data[init_model_data[0]] = init_model_data
        self._model_initialized.emit(init_model_data)

    def connect_on_new_trajectories(self, policy_id: PolicyID, on_new_trajectories: Callable[..., None]) -> None:
        for rollout_worker in self.rollout_workers:
            rollout_worker.connect(new_trajectories_signal(policy_id), on_new_trajectories)

    def connect_report_msg(self, on_msg: Callable[..., None]) -> None:
        for inference_worker in self._all_inference_workers():
            inference_worker.report_msg.connect(on_msg)
        for rollout_worker in self.rollout_workers:
            rollout_worker.report_msg.connect(on_msg)

    def connect_update_training_info(self, update_training_info: Any) -> None:
        for rollout_worker in self.rollout_workers:
            update_training_info.connect(rollout_worker.on_update_training_info)

    def _inference_worker_ready(self, policy_id: PolicyID, worker_idx: int) -> None:
        self._ready_inference_workers.add((policy_id, worker_idx))
        self.initialized.emit()
        self._announce_inference_workers()

    def _announce_inference_workers(self) -> None:
        if len(self._ready_inference_workers) == sum(len(workers) for workers in self.inference_workers.values()):
            log.info("All inference workers are ready! Signal rollout workers to start!")
            self._inference_workers_initialized.emit()


class SerialSampler(Sampler):
    """Everything on the loop of the caller, which must be a PollingEventLoop."""

    def _make_inference_worker(self, policy_id: PolicyID, i: int) -> InferenceWorker:
        return self._inference_worker_on(self.event_loop, policy_id, i)

    def _make_rollout_worker(self, worker_idx: int) -> RolloutWorker:
        return self._rollout_worker_on(self.event_loop, worker_idx)

    def init(self) -> None:
        self.started.emit()


class ParallelSampler(Sampler):
    """One process per rollout worker, and one per inference worker unless it lives in that of its rollout worker."""

    def __init__(self, *args: Any) -> None:
        self._rollout_processes: list[ChildProcess] = []
        self._inference_processes: list[ChildProcess] = []
        super().__init__(*args)

    @property
    def processes(self) -> list[ChildProcess]:
        return [*self._inference_processes, *self._rollout_processes]

    def _make_inference_worker(self, policy_id: PolicyID, i: int) -> InferenceWorker:
        if self.buffer_mgr.topology.inference_in_rollout_workers:
            return self._inference_worker_on(self._rollout_process(i).event_loop, policy_id, i)
        process = self._make_process(f"inference_proc{policy_id}-{i}", init_inference_process)
        self._inference_processes.append(process)
        worker = self._inference_worker_on(process.event_loop, policy_id, i)
        return self._inhabit(process, worker)

    def _make_rollout_worker(self, worker_idx: int) -> RolloutWorker:
        process = self._rollout_process(worker_idx)
        return self._inhabit(process, self._rollout_worker_on(process.event_loop, worker_idx))

    def _rollout_process(self, worker_idx: int) -> ChildProcess:
        """The process of a rollout worker; whoever moves in first creates it, in the order of workers."""
        if worker_idx == len(self._rollout_processes):
            process = self._make_process(f"rollout_proc{worker_idx}", init_rollout_worker_process)
            self._rollout_processes.append(process)
        return self._rollout_processes[worker_idx]

    def _make_process(self, name: str, init_func: Callable[..., None]) -> ChildProcess:
        mp_ctx = get_mp_ctx(self.cfg.serial_mode)
        assert mp_ctx is not None
        return ChildProcess(name, mp_ctx, init_func)

    def _inhabit(self, process: ChildProcess, worker: Worker) -> Worker:
        """The component the process is named after decides when it ends."""
        process.event_loop.owner = worker
        process.set_init_func_args((sf_global_context(), worker))
        return worker

    def workers_in(self, process: ChildProcess) -> list[InferenceWorker | RolloutWorker]:
        """The components that live in a process of this sampler."""
        workers: list[InferenceWorker | RolloutWorker] = [*self._all_inference_workers(), *self.rollout_workers]
        return [worker for worker in workers if worker.event_loop is process.event_loop]

    def restart(self, process: ChildProcess) -> None:
        """Replace a process that died by a new one with the same components. Their words in shared memory must be in
        order (see ``policy_channel``); they find out about weights and iterations from there.
        """
        process.renew()
        process.start()
        # Who has been told before does not listen; the new ones find these messages in their queue.
        for init_model_data in self._init_model_data.values():
            self._model_initialized.emit(init_model_data)
        if not self.buffer_mgr.topology.inference_in_rollout_workers:
            self._announce_inference_workers()

    def init(self) -> None:
        topology = self.buffer_mgr.topology
        if topology.inference_in_rollout_workers:
            log.info("Inference runs inside the rollout workers (change with --inference_placement)")
        for process in self.processes:
            log.debug(f"Starting process {process.name}")
            process.start()
        self.started.emit()
