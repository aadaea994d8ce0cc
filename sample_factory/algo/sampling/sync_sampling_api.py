"""Trajectories on demand, for training loops written by users."""

from __future__ import annotations

import queue
import threading

from sample_factory.algo.sampling.sampling_loop import SamplingLoop, TrajectoryBuffers
from sample_factory.algo.utils.env_info import EnvInfo
from sample_factory.algo.utils.model_sharing import ParameterServer
from sample_factory.algo.utils.shared_buffers import BufferMgr
from sample_factory.algo.utils.tensor_dict import TensorDict, clone_tensordict
from sample_factory.utils.typing import Config, Device, InitModelData, PolicyID, StatusCode

_QUEUE_SIZE = 100
_POLL_SEC = 0.2


class SyncSamplingAPI:
    """``start()``, then :meth:`get_trajectories_sync` as often as wanted, then ``stop()``."""

    def __init__(
        self,
        cfg: Config,
        env_info: EnvInfo,
        buffer_mgr: BufferMgr | None = None,
        param_servers: dict[PolicyID, ParameterServer] | None = None,
    ):
        self._loop = SamplingLoop(cfg, env_info)
        self._loop.init(buffer_mgr, param_servers)
        self._loop.set_new_trajectory_callback(self._on_trajectories)
        self._queue: queue.Queue[TensorDict] = queue.Queue(maxsize=_QUEUE_SIZE)
        self._is_stopping = False
        self._thread = threading.Thread(target=self._loop.run, name="sampling", daemon=True)

    @property
    def sampling_loop(self) -> SamplingLoop:
        return self._loop

    def start(self, init_model_data: InitModelData | None = None) -> None:
        """Start sampling; without ``init_model_data`` with the weights of the parameter servers (random by default)."""
        self._thread.start()
        self._loop.wait_until_ready()
        self._loop.start(init_model_data)

    def get_trajectories_sync(self) -> TensorDict | None:
        """The next trajectories ``[n, T(+1), ...]``; waits for them. None after the end, whatever ended it."""
        while True:
            try:
                return self._queue.get(timeout=_POLL_SEC)
            except queue.Empty:
                if self._is_stopping or not self._loop.is_running:
                    return None

    def stop(self) -> StatusCode:
        self._is_stopping = True
        self._loop.stop_sampling()
        if self._thread.ident is not None:
            self._thread.join()
        return self._loop.status

    def _on_trajectories(self, trajectories: TensorDict, buffers: TrajectoryBuffers, device: Device) -> None:
        copied = clone_tensordict(trajectories)
        self._loop.yield_trajectory_buffers(buffers, device)
        while not self._is_stopping and self._loop.is_running:
            try:
                self._queue.put(copied, timeout=_POLL_SEC)
                return
            except queue.Full:
                continue  # back-pressure: the loop waits until somebody takes trajectories
