"""Life cycle shared by every component that lives in a worker process (or on the runner's loop in serial mode)."""

from __future__ import annotations

from typing import Any

from signal_slot.signal_slot import EventLoop, EventLoopObject, process_name, signal

from sample_factory.algo.utils.periodic_timer import PeriodicTimer
from sample_factory.utils.utils import log


class HeartbeatStoppableEventLoopObject(EventLoopObject):
    """Reports that it is alive, stops once when told to, and leaves its loop.

    Subclasses override :meth:`on_stop` (cleaning up, then calling ``super().on_stop()``) and, if they hold something
    worth saving, :meth:`on_crash`.
    """

    def __init__(self, evt_loop: EventLoop, unique_name: str, interval_sec: float = 10):
        super().__init__(evt_loop, unique_name)
        self.heartbeat_interval_sec = interval_sec
        self.heartbeat_timer: PeriodicTimer | None = None
        self.is_stopped = False

    @property
    def num_restarts(self) -> int:
        """How often the process of this component has been replaced, 0 on the runner's loop."""
        process = self.event_loop.process
        return 0 if process is None else process.num_restarts

    @signal
    def heartbeat(self) -> None: ...

    @signal
    def stop(self) -> None: ...

    def start_heartbeat(self) -> None:
        """Called by the component itself once its process runs (timers hold absolute times)."""
        self.heartbeat_timer = PeriodicTimer(self.event_loop, self.heartbeat_interval_sec)
        self.heartbeat_timer.timeout.connect(self._report_heartbeat)
        self._report_heartbeat()

    def _report_heartbeat(self) -> None:
        name = process_name(self.event_loop.process)
        queue_size = self.event_loop.signal_queue.qsize()
        self.heartbeat.emit(type(self), self.object_id, name, queue_size)

    def profile(self) -> dict[Any, Any]:
        """Timing of this component by object id, shown by the runner at the end."""
        return {}

    def on_crash(self) -> None:
        """The process is about to die of an exception raised by any component on this loop."""

    def on_stop(self, *_: Any) -> None:
        if self.is_stopped:
            return
        self.is_stopped = True
        log.debug(f"Stopping {self.object_id}...")
        self.stop.emit(self.object_id, self.profile())
        if self.event_loop.owner is self:
            self.event_loop.stop()
        if self.heartbeat_timer is not None:
            self.heartbeat_timer.stop()
        self.detach()
