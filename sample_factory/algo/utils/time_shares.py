"""Where the time goes: what fraction of its wall time a component spends on what."""

from __future__ import annotations

import time
from collections.abc import Mapping

from sample_factory.utils.timing import Timing


class TimeShares:
    """Turns cumulative timings into fractions of the time since the last report.

    ``labels`` maps the name shown to a person to the key of a cumulative (``add_time``) timing.
    """

    def __init__(self, timing: Timing, labels: Mapping[str, str]) -> None:
        self._timing, self._labels = timing, labels
        self._reported_at: float | None = None
        self._reported: dict[str, float] = {}

    def report(self, now: float | None = None) -> dict[str, float]:
        """Fractions by label; empty the first time."""
        now = time.monotonic() if now is None else now
        seconds = {label: float(self._timing.get(key, 0.0)) for label, key in self._labels.items()}
        shares = {}
        if self._reported_at is not None and now > self._reported_at:
            passed = now - self._reported_at
            shares = {label: (value - self._reported[label]) / passed for label, value in seconds.items()}
        self._reported_at, self._reported = now, seconds
        return shares
