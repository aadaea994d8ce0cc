"""Process shell around the forward pass of one policy.

What it waits for: requests of its rollout workers (they ring its doorbell) and, while its policy is paused by
back-pressure, its batcher. It takes whatever is ready; requests that arrive during a forward pass form the next batch.
It has a process of its own, or lives in that of the only rollout worker it serves (see ``topology``).
"""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
from signal_slot.signal_slot import signal

from sample_factory.algo.sampling.actors import Actor, make_actor
from sample_factory.algo.utils.context import SampleFactoryContext, set_global_context
from sample_factory.algo.utils.env_info import EnvInfo
from sample_factory.algo.utils.heartbeat import HeartbeatStoppableEventLoopObject
from sample_factory.algo.utils.life_signs import PHASE, RUNNING
from sample_factory.algo.utils.misc import (
    POLICY_ID_KEY,
    SAMPLES_COLLECTED,
    STATS_KEY,
    TIME_SHARES,
    TIMING_STATS,
    memory_stats,
)
from sample_factory.algo.utils.model_sharing import ParameterServer, make_parameter_client
from sample_factory.algo.utils.periodic_timer import PeriodicTimer
from sample_factory.algo.utils.poll_loop import PollingEventLoop
from sample_factory.algo.utils.seeding import seed_process
from sample_factory.algo.utils.shared_buffers import BufferMgr, policy_device
from sample_factory.algo.utils.time_shares import TimeShares
from sample_factory.algo.utils.torch_utils import init_torch_runtime
from sample_factory.cfg.configurable import Configurable
from sample_factory.utils.gpu_utils import cuda_envvars_for_policy
from sample_factory.utils.timing import Timing
from sample_factory.utils.typing import Config, PolicyID
from sample_factory.utils.utils import init_file_logger, log, set_process_niceness

_NICENESS_OFFSET = 2
_REPORT_INTERVAL_SEC = 3.0
_REQUEST_COUNT_WINDOW = 50
_TIME_SHARES = {"inference: wait": "wait_policy_total", "inference: act": "handle_policy_step"}


def init_inference_process(sf_context: SampleFactoryContext, worker: InferenceWorker) -> None:
    """First thing an inference process does: registries, logging, scheduling, GPU visibility, threads."""
    cfg = worker.cfg
    set_global_context(sf_context)
    init_file_logger(cfg)
    log.info(f"{worker.object_id} started, process {worker.event_loop.process.pid}")
    signs = worker.buffer_mgr.life_signs
    worker.event_loop.show_life_signs(signs.writer(signs.inference_row(worker.policy_id, worker.worker_idx)))
    seed_process(cfg, "inference_worker", worker.policy_id, worker.worker_idx, *filter(None, [worker.num_restarts]))
    if cfg.num_workers > 1:
        set_process_niceness(min(cfg.default_niceness + _NICENESS_OFFSET, 20))
    if cfg.device == "gpu":
        cuda_envvars_for_policy(worker.policy_id, "inference")
    init_torch_runtime(cfg)


class InferenceWorker(HeartbeatStoppableEventLoopObject, Configurable):
    def __init__(
        self,
        event_loop: PollingEventLoop,
        policy_id: PolicyID,
        worker_idx: int,
        buffer_mgr: BufferMgr,
        param_server: ParameterServer,
        cfg: Config,
        env_info: EnvInfo,
    ):
        Configurable.__init__(self, cfg)
        HeartbeatStoppableEventLoopObject.__init__(
            self, event_loop, f"{InferenceWorker.__name__}_p{policy_id}-w{worker_idx}", cfg.heartbeat_interval
        )
        self.timing = Timing(name=f"{self.object_id} profile")
        self.policy_id, self.worker_idx = policy_id, worker_idx
        self.buffer_mgr, self.env_info = buffer_mgr, env_info
        self.channel = buffer_mgr.channel
        self.param_client = make_parameter_client(cfg.serial_mode, param_server, cfg, env_info, self.timing)
        self.device: torch.device | None = None
        self._actor: Actor | None = None
        self.is_ready = False
        self._time_shares = TimeShares(self.timing, _TIME_SHARES)
        self._samples_since_report = 0
        self._request_counts: deque[int] = deque(maxlen=_REQUEST_COUNT_WINDOW)
        self._report_timer: PeriodicTimer | None = None

    @signal
    def initialized(self) -> None: ...

    @signal
    def report_msg(self) -> None: ...

    def init(self, init_model_data: tuple[PolicyID, Any, Any, int] | None) -> None:
        """Attach to the weights once the learner published them (``None``: sample without a learner)."""
        if self.is_ready or (init_model_data is not None and init_model_data[0] != self.policy_id):
            return
        self.device = policy_device(self.cfg, self.policy_id)
        self.param_client.init(self.device)
        self._actor = make_actor(
            self.cfg,
            self.buffer_mgr,
            self.policy_id,
            self.worker_idx,
            self.param_client,
            self.device,
            self.num_restarts,
        )
        # Contexts are reusable: looking them up by name would cost as much as measuring.
        self._time_update = self.timing.add_time("update_model")
        self._time_step_avg = self.timing.time_avg("step_policy", 50)
        self._time_step = self.timing.add_time("handle_policy_step")
        self._time_wait_avg = self.timing.time_avg("wait_policy", 50)
        self._time_wait = self.timing.add_time("wait_policy_total")
        self.is_ready = True
        if self.event_loop.owner is self:  # else the rollout worker says when its process is ready
            self.event_loop.life_signs[PHASE] = RUNNING
        self.event_loop.add_poller(self)
        self._report_timer = PeriodicTimer(self.event_loop, _REPORT_INTERVAL_SEC)
        self._report_timer.timeout.connect(self._report_stats)
        self.start_heartbeat()
        self.initialized.emit(self.policy_id, self.worker_idx)

    def wait(self, timeout_sec: float) -> None:
        with self._time_wait_avg, self._time_wait:
            self.channel.wait_for_requests(self.policy_id, self.worker_idx, timeout_sec)

    def poll(self) -> bool:
        requests = self.channel.pending_requests(self.policy_id, self.worker_idx)
        if not requests:
            return False
        assert self._actor is not None
        with self._time_update:
            if self.param_client.ensure_weights_updated():
                self._actor.refresh()
        with self._time_step_avg, self._time_step:
            self._samples_since_report += self._actor.serve(requests)
        self.channel.answer(self.policy_id, requests)
        self._request_counts.append(len(requests))
        return True

    def _report_stats(self) -> None:
        if "step_policy" not in self.timing:
            return
        stats: dict[str, float] = memory_stats("policy_worker", self.device or torch.device("cpu"))
        if self._request_counts:
            stats["avg_request_count"] = sum(self._request_counts) / len(self._request_counts)
        timing = {key: float(self.timing[key]) for key in ("wait_policy", "step_policy") if key in self.timing}
        self.report_msg.emit(
            {
                TIMING_STATS: timing,
                SAMPLES_COLLECTED: self._samples_since_report,
                POLICY_ID_KEY: self.policy_id,
                STATS_KEY: stats,
                TIME_SHARES: self._time_shares.report(),
            }
        )
        self._samples_since_report = 0

    def profile(self) -> dict[Any, Any]:
        return {self.object_id: self.timing}

    def on_stop(self, *args: Any) -> None:
        if self.is_stopped:
            return
        self._report_stats()
        self.event_loop.remove_poller(self)
        if self._report_timer is not None:
            self._report_timer.stop()
        super().on_stop(*args)
