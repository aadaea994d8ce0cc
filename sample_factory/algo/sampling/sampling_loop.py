"""A sampler without a learner: what evaluation and custom training loops are built on.

The loop runs in a thread of the calling process; workers are processes, or live on the loop in serial mode. It waits
for trajectories and for :meth:`SamplingLoop.stop_sampling`. A dead worker ends it with status FAILURE, so callers
that ask
:attr:`SamplingLoop.is_running` never wait for ever.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from signal_slot.signal_slot import EventLoopObject, signal

from sample_factory.algo.sampling.sampler import ParallelSampler, Sampler, SerialSampler
from sample_factory.algo.sampling.sampling_utils import FinishedRollouts
from sample_factory.algo.sampling.stats import samples_stats_handler
from sample_factory.algo.utils.child_process import ChildProcess
from sample_factory.algo.utils.env_info import EnvInfo
from sample_factory.algo.utils.misc import EPISODIC, POLICY_ID_KEY, SAMPLES_COLLECTED, ExperimentStatus
from sample_factory.algo.utils.model_sharing import ParameterServer, SharedWeights
from sample_factory.algo.utils.poll_loop import PollingEventLoop
from sample_factory.algo.utils.run_metrics import RunMetrics
from sample_factory.algo.utils.shared_buffers import BufferMgr
from sample_factory.algo.utils.supervisor import ProcessExit, Supervisor
from sample_factory.algo.utils.tensor_dict import TensorDict
from sample_factory.cfg.arguments import cfg_dict
from sample_factory.cfg.configurable import Configurable
from sample_factory.cfg.shadowing import flag_value
from sample_factory.model.actor_critic import create_actor_critic
from sample_factory.utils.typing import Config, Device, InitModelData, PolicyID, StatusCode
from sample_factory.utils.utils import log

TrajectoryBuffers = list[FinishedRollouts]
NewTrajectoryCallback = Callable[[TensorDict, TrajectoryBuffers, Device], None]

_READY_POLL_SEC = 0.05


class SamplingLoop(EventLoopObject, Configurable):
    def __init__(self, cfg: Config, env_info: EnvInfo, print_episode_info: bool = True):
        Configurable.__init__(self, cfg_dict(cfg))
        self.cfg.async_rl = True  # there is no learner to synchronise with
        loop = PollingEventLoop("SamplingLoop_EvtLoop", serial_mode=self.cfg.serial_mode)
        EventLoopObject.__init__(self, loop, "SamplingLoop")
        loop.owner = self
        self.env_info = env_info
        self.print_episode_info = print_episode_info
        self.metrics = RunMetrics(self.cfg.num_policies, self.cfg.stats_avg)
        self.status: StatusCode = ExperimentStatus.SUCCESS
        self.buffer_mgr: BufferMgr | None = None
        self.param_servers: dict[PolicyID, ParameterServer] = {}
        self.sampler: Sampler | None = None
        self.is_running = True
        self._ready = threading.Event()
        self._stop_requested = threading.Event()
        self._callback: NewTrajectoryCallback | None = None
        self._supervisor: Supervisor | None = None

    @signal
    def model_initialized(self) -> None: ...

    @signal
    def stop(self) -> None: ...

    # --- numbers, at the names scripts use ---

    @property
    def samples_collected(self) -> list[int]:
        return self.metrics.samples_collected

    @property
    def policy_avg_stats(self) -> dict[str, Any]:
        return self.metrics.policy_avg_stats

    # --- set-up, in the caller's thread ---

    def init(
        self, buffer_mgr: BufferMgr | None = None, param_servers: dict[PolicyID, ParameterServer] | None = None
    ) -> None:
        """Allocate buffers and models (randomly initialised) unless given, create and connect the sampler."""
        self.buffer_mgr = buffer_mgr or BufferMgr(self.cfg, self.env_info)
        self.param_servers = param_servers or self._make_param_servers()
        sampler_cls = SerialSampler if self.cfg.serial_mode else ParallelSampler
        sampler = sampler_cls(self.event_loop, self.buffer_mgr, self.param_servers, self.cfg, self.env_info)
        self.sampler = sampler
        self._supervisor = Supervisor(self.event_loop, self._on_process_exit)

        self.event_loop.start.connect(self._on_start)
        sampler.connect_report_msg(self._process_msg)
        for policy_id in range(self.cfg.num_policies):
            sampler.connect_model_initialized(policy_id, self.model_initialized)
            sampler.connect_on_new_trajectories(policy_id, self._on_new_trajectories)
        for component in sampler.stoppable_components():
            self.stop.connect(component.on_stop)

    def _make_param_servers(self) -> dict[PolicyID, ParameterServer]:
        assert self.buffer_mgr is not None
        servers = {}
        for policy_id in range(self.cfg.num_policies):
            model = create_actor_critic(self.cfg, self.env_info.obs_space, self.env_info.action_space)
            weights = None if self.cfg.serial_mode else SharedWeights(model)
            server = ParameterServer(policy_id, self.buffer_mgr.policy_versions, self.cfg.serial_mode, weights)
            server.init(model, torch.device("cpu"), 0)
            servers[policy_id] = server
        return servers

    def set_new_trajectory_callback(self, callback: NewTrajectoryCallback) -> None:
        """``callback(trajectories, buffers, device)`` runs in the loop's thread; give the buffers back when done with
        them.
        """
        self._callback = callback

    # --- called from other threads ---

    def wait_until_ready(self) -> None:
        """Until the workers' processes are launched (or the loop has failed)."""
        while self.is_running and not self._ready.wait(_READY_POLL_SEC):
            pass

    def start(self, init_model_data: InitModelData | Iterable[InitModelData] | None = None) -> None:
        """Publish weights, given as ``(policy_id, state_dict or None, device, version)`` for some policies, and
        sample.
        """
        given = [] if init_model_data is None else init_model_data
        for policy_id, state_dict, _, version in [given] if isinstance(given, tuple) else given:
            server = self.param_servers[policy_id]
            if state_dict is not None:
                assert server.actor_critic is not None
                server.actor_critic.load_state_dict(state_dict)
            server.publish(version)
        for policy_id in range(self.cfg.num_policies):
            self.model_initialized.emit((policy_id, None, "cpu", self.param_servers[policy_id].policy_version))

    def yield_trajectory_buffers(self, buffers: TrajectoryBuffers, device: Device) -> None:
        """The trajectories in these buffers are not needed any more."""
        assert self.buffer_mgr is not None
        for finished in buffers:
            self.buffer_mgr.release(finished.policy_id, finished.block_idx)

    def stop_sampling(self) -> None:
        self._stop_requested.set()

    # --- in the loop's thread ---

    def run(self) -> StatusCode:
        """Sample until stopped; body of the thread."""
        try:
            self.event_loop.exec(self._stop_requested.is_set)
        except Exception as exc:
            log.exception(f"Sampling failed: {exc}")
            self.status = ExperimentStatus.FAILURE
        finally:
            self._end()
        return self.status

    def _on_start(self) -> None:
        assert self.sampler is not None and self._supervisor is not None
        self.sampler.init()
        self._supervisor.watch(self.sampler.processes)
        self._ready.set()

    def _on_new_trajectories(self, finished: TrajectoryBuffers, device: Device) -> None:
        assert self.buffer_mgr is not None
        for rollouts in finished:
            if self._callback is None:
                self.yield_trajectory_buffers([rollouts], device)
            else:
                self._callback(self.buffer_mgr.traj_tensors_torch[device][rollouts.rows], [rollouts], device)

    def _process_msg(self, msgs: dict[str, Any] | list[dict[str, Any]]) -> None:
        for msg in [msgs] if isinstance(msgs, dict) else msgs:
            if SAMPLES_COLLECTED in msg:
                samples_stats_handler(self, msg, msg[POLICY_ID_KEY])
            if EPISODIC in msg:
                self.on_episode(msg[POLICY_ID_KEY], msg[EPISODIC])

    def on_episode(self, policy_id: PolicyID, stats: dict[str, Any]) -> None:
        """An episode (in batched mode: some episodes) ended."""
        self.metrics.add_episodic_stats(policy_id, stats)
        if self.print_episode_info:
            log.debug(f"Episode of policy {policy_id}: reward {stats['reward']}, length {stats['len']}")

    def _on_process_exit(self, process: ChildProcess, process_exit: ProcessExit) -> None:
        if process_exit.error:
            log.error(f"Exception in {process_exit.error}")
        log.error(f"Sampling stops: {process_exit}")
        self.status = ExperimentStatus.FAILURE
        self._stop_requested.set()

    def _end(self) -> None:
        assert self.sampler is not None and self._supervisor is not None and self.buffer_mgr is not None
        self.stop.emit(self.object_id)
        self.buffer_mgr.channel.wake_all()
        if self.cfg.serial_mode:
            deadline = time.monotonic() + flag_value(self.cfg, "fault_timeout")
            while any(not c.is_stopped for c in self.sampler.stoppable_components()) and time.monotonic() < deadline:
                self.event_loop.process_events()
        self._supervisor.join_or_kill(float(flag_value(self.cfg, "fault_timeout")))
        self.is_running = False
