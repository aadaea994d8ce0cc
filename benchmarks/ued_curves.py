"""Do two sets of learning curves differ by more than their seeds do? Pure functions on arrays."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from benchmarks.ued_runs import Row

Array = NDArray[np.float64]

WINDOW = 10
SIGNIFICANCE = 0.05
MAX_DIVISIONS = 20_000  # as many are drawn where there are more: 8 seeds a side have 12,870, 24 have 3e13


def windows_of(rows: Sequence[Row], column: str, num_updates: int) -> Array:
    """Means of ``column`` over ten updates each, ``[num_updates // 10]``; NaN where a window has no value.

    Cycles without an update do not count, nor do rows after the last whole window.
    """
    values: list[list[float]] = [[] for _ in range(num_updates // WINDOW)]
    done = 0
    for row in rows:
        update, value = int(row["n_updates"] or 0), row[column]
        if update > done and value is not None and (update - 1) // WINDOW < len(values):
            values[(update - 1) // WINDOW].append(value)
        done = update
    return np.array([np.mean(window) if window else math.nan for window in values])


def smallest_p(num_a: int, num_b: int) -> float:
    """The smallest p value that a permutation test with so many seeds can give.

    >>> round(smallest_p(5, 5), 4)
    0.0079
    """
    return (2.0 if num_a == num_b else 1.0) / math.comb(num_a + num_b, num_a)


@dataclass(frozen=True)
class CurveComparison:
    """Two sets of curves of one quantity.

    ``gap`` is the mean over windows of the distance between the means of the sides, in standard deviations of a seed
    (pooled over both); ``p`` the share of all ways to divide the same curves into two sets that give a gap as large,
    or of ``MAX_DIVISIONS`` drawn ways if there are more.
    Both are None where one side has a single seed; ``p`` where even the largest gap could not be told from chance.
    """

    column: str
    here: Array
    minimax: Array
    gap: float | None
    p: float | None

    @property
    def verdict(self) -> str:
        """In words."""
        if self.p is None:
            return "too few seeds to tell"
        return "apart" if self.p < SIGNIFICANCE else "within the spread of seeds"


def compare(column: str, here: Array, minimax: Array) -> CurveComparison:
    """Compare curves ``[seeds, windows]`` of both sides by a permutation test over their seeds.

    The test takes whole curves, so it needs no independence of the windows of a run. Windows without a value in some
    run are left out.
    """
    num_here, num_minimax = len(here), len(minimax)
    together = np.concatenate([here, minimax])
    together = together[:, np.isfinite(together).all(axis=0)]
    if min(num_here, num_minimax) < 2 or together.shape[1] == 0:
        return CurveComparison(column, here, minimax, None, None)
    observed = _gap(together, range(num_here))
    if smallest_p(num_here, num_minimax) > SIGNIFICANCE:
        return CurveComparison(column, here, minimax, observed, None)
    gaps = [_gap(together, chosen) for chosen in divisions(num_here, num_minimax)]
    at_least = sum(gap >= observed * (1 - 1e-12) for gap in gaps)
    return CurveComparison(column, here, minimax, observed, at_least / len(gaps))


def divisions(num_a: int, num_b: int) -> Iterator[Sequence[int]]:
    """Ways to choose the first set out of ``num_a + num_b`` curves, the real one among them: all, or drawn ones."""
    everyone = range(num_a + num_b)
    if math.comb(num_a + num_b, num_a) <= MAX_DIVISIONS:
        yield from combinations(everyone, num_a)
        return
    yield everyone[:num_a]
    rng = np.random.default_rng(0)
    for _ in range(MAX_DIVISIONS - 1):
        yield rng.permutation(num_a + num_b)[:num_a].tolist()


def _gap(curves: Array, chosen: Sequence[int] | range) -> float:
    is_chosen = np.zeros(len(curves), dtype=bool)
    is_chosen[list(chosen)] = True
    a, b = curves[is_chosen], curves[~is_chosen]
    degrees = len(curves) - 2
    variance = (a.var(axis=0) * len(a) + b.var(axis=0) * len(b)) / degrees
    # A floor far below every real spread: values that agree to the last digit have no spread to divide by.
    floor = 1e-9 * (1 + np.abs(curves).max(axis=0))
    return float(np.mean(np.abs(a.mean(axis=0) - b.mean(axis=0)) / (np.sqrt(variance) + floor)))
