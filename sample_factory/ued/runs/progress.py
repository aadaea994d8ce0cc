"""What a run says while it trains: where its files are, now and then how far it is, and what it has reached."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sample_factory.ued.curricula.common import Curriculum
from sample_factory.ued.runs.state import Counters
from sample_factory.utils.logging import log

FIRST_SEC, EVERY_SEC = 10.0, 60.0
"""When the first line comes, and how far apart the others are, at least."""


class Progress:
    """Lines of the log about a run that begins, or goes on, now. ``clock``: seconds."""

    def __init__(
        self,
        directory: Path,
        curriculum: Curriculum[Any, Any],
        counters: Counters,
        total_updates: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory, self._curriculum, self._counters = directory.absolute(), curriculum, counters
        self._total, self._clock = total_updates, clock
        self._told_at = clock()
        self._next_at = self._told_at + FIRST_SEC
        self._told_steps, self._told_updates = counters.steps, self._updates
        log.info("Training until there are %d updates; the files of the run are in %s", total_updates, self._directory)

    @property
    def _updates(self) -> int:
        """Of the student that has had the fewest: the others wait for it."""
        return min(student.n_updates for student in self._curriculum.students)

    def after_cycle(self) -> None:
        """Say how far the run is, if that is due."""
        now = self._clock()
        if now < self._next_at:
            return
        seconds, steps, updates = now - self._told_at, self._counters.steps, self._updates
        parts = [self._reached(), f"{(steps - self._told_steps) / seconds:.0f} steps/s"]
        if updates > self._told_updates:
            left = (self._total - updates) * seconds / (updates - self._told_updates)
            parts.append(f"about {_duration(left)} left")
        log.info("%s", ", ".join(parts) + self._filling())
        self._told_at, self._told_steps, self._told_updates = now, steps, updates
        self._next_at = now + EVERY_SEC

    def end(self) -> None:
        """Say what was reached."""
        more = "" if self._updates >= self._total else "; --from_last_checkpoint=True goes on"
        log.info("The run has %s; its files are in %s%s", self._reached(), self._directory, more)

    def _reached(self) -> str:
        counters = self._counters
        return f"{self._updates} of {self._total} updates, {counters.tick} cycles, {counters.steps} steps"

    def _filling(self) -> str:
        """Why nothing is replayed yet: the buffer that is the emptiest."""
        cold = [buffer for buffer in self._curriculum.buffers if not buffer.is_warm]
        if not cold:
            return ""
        buffer = min(cold, key=lambda b: b.size)
        needed = max(1, math.ceil(buffer.settings.capacity * buffer.settings.min_fill_ratio))
        return f"; the level buffer is being filled: {buffer.size} of the {needed} levels that replay needs"


def _duration(seconds: float) -> str:
    minutes = max(round(seconds / 60), 1)
    return f"{minutes} min" if minutes < 120 else f"{seconds / 3600:.1f} h"
