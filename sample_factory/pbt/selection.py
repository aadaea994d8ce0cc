"""Who replaces whom: ranking of a population by its objective and the replacement rule."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sample_factory.utils.typing import Config, PolicyID


@dataclass(frozen=True)
class SelectionSettings:
    """Fraction of the population that is replaced, and how much better (relative, absolute) a replacement must be."""

    replace_fraction: float
    reward_gap: float
    reward_gap_absolute: float

    @classmethod
    def from_cfg(cls, cfg: Config) -> SelectionSettings:
        return cls(cfg.pbt_replace_fraction, cfg.pbt_replace_reward_gap, cfg.pbt_replace_reward_gap_absolute)


def mean_objectives(
    policy_avg_stats: Mapping[str, Sequence[Any]], target_objective: str, num_policies: int
) -> list[float] | None:
    """Mean of the recent episodes of every policy [P]; None while any policy has no value yet."""
    # `in` before the item access: the statistics may be a defaultdict, which must not grow by our asking.
    if target_objective not in policy_avg_stats:
        return None
    windows = policy_avg_stats[target_objective]
    if len(windows) < num_policies or any(len(windows[p]) == 0 for p in range(num_policies)):
        return None
    return [float(np.mean(windows[p])) for p in range(num_policies)]


def rank_policies(objectives: Sequence[float]) -> list[PolicyID]:
    """Policy ids, best first; of equal policies the one with the higher index is first. NaN ranks last."""
    comparable = _comparable(objectives)
    return sorted(range(len(comparable)), key=lambda p: (comparable[p], p), reverse=True)


def best_and_worst(objectives: Sequence[float], replace_fraction: float) -> tuple[list[PolicyID], list[PolicyID]]:
    """The first and the last `ceil(replace_fraction * P)` policies of the ranking (they may overlap)."""
    ranking = rank_policies(objectives)
    num_replaced = math.ceil(replace_fraction * len(ranking))
    return ranking[:num_replaced], ranking[len(ranking) - num_replaced :]


def choose_source(
    policy_id: PolicyID, objectives: Sequence[float], settings: SelectionSettings, rng: np.random.Generator
) -> PolicyID | None:
    """The policy whose weights and parameters `policy_id` continues from.

    Returns:
        None if the policy is among the best and stays as it is; itself if it keeps its weights and only mutates;
        a random member of the best if it is among the worst and the gap is large enough.
    """
    best, worst = best_and_worst(objectives, settings.replace_fraction)
    if policy_id in best:
        return None
    if policy_id not in worst:
        return policy_id
    candidate = best[int(rng.integers(len(best)))]
    comparable = _comparable(objectives)
    return candidate if _is_gap_large(comparable[candidate], comparable[policy_id], settings) else policy_id


def _comparable(objectives: Sequence[float]) -> list[float]:
    """A diverged policy (NaN) must not scramble the order: it counts as the worst possible one."""
    return [-math.inf if math.isnan(objective) else objective for objective in objectives]


def _is_gap_large(candidate: float, current: float, settings: SelectionSettings) -> bool:
    if candidate == current:
        return False  # also the difference of equal infinities, which is NaN
    delta = abs(candidate - current)
    scale = abs(candidate + 1e-8)
    relative = delta / scale if scale > 0 and math.isfinite(scale) else math.inf
    return delta > settings.reward_gap_absolute and relative > settings.reward_gap
