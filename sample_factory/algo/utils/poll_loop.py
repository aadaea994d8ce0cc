"""Event loop that also drives components polling shared memory.

Signals and slots carry control messages. Components on the hot path (rollout and inference workers) do not send
themselves messages to keep running; they implement :class:`Poller` and the loop calls them. The same loop drives one
poller in a worker process and all of them in serial mode.

What it waits for: with work at hand, nothing. Idle with pollers in a worker process: the doorbell that they share, at
most ``_IDLE_SEC``, then control messages. Idle otherwise (no poller, serial mode): the signal queue, until the next
timer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from signal_slot.signal_slot import EventLoop, EventLoopStatus, StatusCode, Timer

from sample_factory.algo.utils import message_queue
from sample_factory.algo.utils.life_signs import BEATS, unobserved

# Control messages are looked at this often while there is work on the hot path. In serial mode waiting messages are
# seen after every round: the clock must not decide how much is sampled between two training batches, or equal seeds
# would not give equal runs. Only timers, which go by the clock anyway, wait there.
_CONTROL_PERIOD_SEC = 0.005
# They are looked at at least this often when there is no work.
_IDLE_SEC = 0.01


class Poller(Protocol):
    def poll(self) -> bool:
        """Do the work that is ready, without waiting; returns whether there was any."""
        ...

    def wait(self, timeout_sec: float) -> None:
        """Sleep until there may be work, at most this long."""
        ...


class ControlLoop(EventLoop):
    """Event loop whose queue survives the death of any process that uses it, where the platform has such queues."""

    def __init__(self, unique_loop_name: str, serial_mode: bool = False) -> None:
        super().__init__(unique_loop_name, serial_mode)
        if not serial_mode and message_queue.is_supported():
            self.signal_queue = message_queue.MessageQueue()
            self.receiver_queues[self.object_id] = self.signal_queue  # it is connected to itself already
        self.life_signs = unobserved()  # words of this process, see life_signs.py

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"life_signs": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.life_signs = unobserved()

    def show_life_signs(self, words: memoryview) -> None:
        """Count iterations where the watchdog can see them."""
        self.life_signs = words

    def _loop_iteration(self) -> bool:
        self.life_signs[BEATS] += 1
        message_queue.flush_all()
        return bool(super()._loop_iteration())


class PollingEventLoop(ControlLoop):
    def __init__(self, unique_loop_name: str, serial_mode: bool = False) -> None:
        super().__init__(unique_loop_name, serial_mode)
        self.pollers: list[Poller] = []
        self._is_serial = serial_mode
        self._always_due: Timer | None = None

    def add_poller(self, poller: Poller) -> None:
        self.pollers.append(poller)

    def remove_poller(self, poller: Poller) -> None:
        if poller in self.pollers:
            self.pollers.remove(poller)

    def exec(self, interrupted: Callable[[], bool] | None = None) -> StatusCode:
        """Run until :meth:`stop`. ``interrupted`` is asked between iterations and ends the loop when it returns
        True.
        """
        self.default_timer.start()
        self._always_due = Timer(self, 0.0)  # nobody is connected to it: it only keeps signal processing from waiting
        self.start.emit()
        next_control = 0.0
        while True:
            worked = self._poll_all()
            if worked and time.monotonic() < next_control and not self._has_message_in_serial_mode():
                continue
            has_doorbell = bool(self.pollers) and not self._is_serial
            if not worked and has_doorbell:
                self.pollers[-1].wait(_IDLE_SEC)
            if not self._process_signals(may_wait=not worked and not has_doorbell):
                return EventLoopStatus.NORMAL_TERMINATION
            if interrupted is not None and interrupted():
                return EventLoopStatus.INTERRUPTED
            next_control = time.monotonic() + _CONTROL_PERIOD_SEC

    def _has_message_in_serial_mode(self) -> bool:
        return self._is_serial and not self.signal_queue.empty()

    def _poll_all(self) -> bool:
        worked = False
        for poller in tuple(self.pollers):
            worked = poller.poll() or worked
        return worked

    def _process_signals(self, may_wait: bool) -> bool:
        assert self._always_due is not None
        if may_wait:
            self._always_due.stop()
        else:
            self._always_due.start()
        return bool(self._loop_iteration())
