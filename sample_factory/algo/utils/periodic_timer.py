"""Timer that does not catch up."""

from __future__ import annotations

import time

from signal_slot.signal_slot import EventLoop, Timer

# What the interval 0 amounts to. A loop with a timer that is always due never sleeps.
AS_OFTEN_AS_POSSIBLE_SEC = 0.1


class PeriodicTimer(Timer):
    """Like ``signal_slot.Timer``, but after a long pause it fires once, not once for every period missed.

    The interval 0 stands for ``AS_OFTEN_AS_POSSIBLE_SEC``.
    """

    def __init__(self, event_loop: EventLoop, interval_sec: float) -> None:
        super().__init__(event_loop, interval_sec or AS_OFTEN_AS_POSSIBLE_SEC)

    def fire(self) -> None:
        super().fire()
        if self._is_active:
            self._next_timeout = time.time() + self._interval_sec
