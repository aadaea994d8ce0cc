"""Piecewise linear schedules."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable


class LinearDecay:
    """Linear interpolation between `(step, value)` milestones, constant before the first and after the last.

    With `staircase`, values are rounded down to a multiple of it; the result never leaves the range of the milestones.
    An empty list of milestones is a ValueError.
    """

    def __init__(self, milestones: Iterable[tuple[float, float]], staircase: float | None = None) -> None:
        ordered = sorted(milestones)
        if not ordered:
            raise ValueError("LinearDecay needs at least one (step, value) milestone, got an empty list")
        self._steps = [step for step, _ in ordered]
        self._values = [value for _, value in ordered]
        self._staircase = staircase

    def at(self, step: float) -> float:
        """Value at `step`."""
        if step <= self._steps[0]:
            return self._values[0]
        if step >= self._steps[-1]:
            return self._values[-1]

        right = bisect_right(self._steps, step)
        left_step, right_step = self._steps[right - 1], self._steps[right]
        fraction = (step - left_step) / (right_step - left_step)
        value = self._values[right - 1] + fraction * (self._values[right] - self._values[right - 1])
        return value if self._staircase is None else self._stair(value, self._staircase)

    def _stair(self, value: float, width: float) -> float:
        stair = math.floor(value / width) * width
        return min(max(stair, min(self._values)), max(self._values))
