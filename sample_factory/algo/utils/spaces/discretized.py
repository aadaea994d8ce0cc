"""A continuous action that is chosen from a few evenly spaced values."""

from __future__ import annotations

import numpy as np
from gymnasium.spaces import Discrete


class Discretized(Discrete):
    """``n`` evenly spaced values from ``min_action`` to ``max_action``; for the policy it is a Discrete space."""

    def __init__(self, n: int, min_action: float, max_action: float):
        if n < 2:
            raise ValueError(f"Discretized needs at least 2 values to span an interval, got n={n}")
        super().__init__(n)
        self.min_action = min_action
        self.max_action = max_action

    def to_continuous(self, discrete_action: int | np.ndarray) -> float | np.ndarray:
        """The value of an action index in ``0..n-1``."""
        span = self.max_action - self.min_action
        return self.min_action + discrete_action * span / (int(self.n) - 1)
