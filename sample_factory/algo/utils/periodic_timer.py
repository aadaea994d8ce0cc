"""Timer that does not catch up."""

from __future__ import annotations

import time

from signal_slot.signal_slot import Timer


class PeriodicTimer(Timer):
    """Like ``signal_slot.Timer``, but after a long pause it fires once, not once for every period missed."""

    def fire(self) -> None:
        super().fire()
        if self._is_active:
            self._next_timeout = time.time() + self._interval_sec
