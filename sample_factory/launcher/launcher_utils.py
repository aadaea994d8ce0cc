"""Helpers for run descriptions."""

from __future__ import annotations

import random


def seeds(num_seeds: int) -> list[int]:
    """`num_seeds` random seeds in [1000000, 9999999)."""
    return [random.randrange(1000000, 9999999) for _ in range(num_seeds)]
