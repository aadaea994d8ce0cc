"""Complexity of the levels of a batch in a few numbers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sample_factory.ued.envs.interfaces import Levels, State, UedEnv

PASSABLE = "passable"
LONGEST = "shortest_path_length"
"""The metric of which a batch built by a teacher reports the maximum."""


def metric_names(env: UedEnv[Levels, State]) -> list[str]:
    """Names of the numbers :func:`summarise` gives for levels of this environment."""
    return sorted(summarise(env.level_metrics(example_level(env))))


def example_level(env: UedEnv[Levels, State]) -> Levels:
    """One level, to see what levels are like. Costs no numbers of a run's generator."""
    return env.sample_levels(1, torch.Generator(device=device_of(env)).manual_seed(0))


def check_same_kind(example: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """ValueError if saved levels have other tensors than those of this environment."""
    shapes, expected = ({name: tuple(x.shape[1:]) for name, x in levels.items()} for levels in (saved, example))
    if shapes != expected:
        raise ValueError(
            f"the saved levels consist of {shapes}, those of this environment of {expected}; resume with the same sizes"
        )


def device_of(env: UedEnv[Levels, State]) -> torch.device:
    """Where the tensors of an environment live; environments that do not say so live on the CPU."""
    return torch.device(getattr(env, "device", "cpu"))


def summarise(metrics: Mapping[str, Tensor], maximum: str | None = None) -> dict[str, float | None]:
    """Means over the levels that can be solved (None if there are none), and ``passable_ratio``.

    ``metrics``: name -> [B]. ``maximum``: a metric that is reported as the largest value of the whole batch instead. An
    environment that cannot tell which levels can be solved gets means over all.
    """
    passable = metrics.get(PASSABLE)
    summary: dict[str, float | None] = {}
    for name, values in metrics.items():
        if name == PASSABLE:
            summary["passable_ratio"] = float(values.double().mean())
        elif name == maximum:
            summary[name] = float(values.max())
        else:
            counted = values if passable is None else values[passable]
            summary[name] = float(counted.double().mean()) if len(counted) else None
    return summary
