"""Worst-case evaluation: how often the hardest of many random levels that can be solved are solved.

Conditional value at risk of the success rate, as in Rutherford et al. 2024, "No Regrets". The levels that look hardest
under one seed are judged by their rate under another one, otherwise bad luck would count as difficulty.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from sample_factory.ued.curricula.level_metrics import PASSABLE, device_of, example_level
from sample_factory.ued.curricula.playing import play_episodes
from sample_factory.ued.envs.interfaces import Levels, State, UedEnv
from sample_factory.ued.models.actor_critic import ActorCritic

_MAX_FRUITLESS_DRAWS = 100


@dataclass(frozen=True)
class WorstCaseSettings:
    """``num_levels``: random levels that can be solved. ``num_episodes``: per level and seed. ``fractions``: of the
    levels, those that are solved the least. ``batch_size``: levels played at a time.
    """

    num_levels: int = 10_000
    num_episodes: int = 10
    fractions: tuple[float, ...] = (0.1, 0.01, 0.001)
    batch_size: int = 2_500

    def __post_init__(self) -> None:
        for name in ("num_levels", "num_episodes", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if not all(0 < fraction <= 1 for fraction in self.fractions):
            raise ValueError(f"fractions={self.fractions} must lie above 0 and not above 1")


@dataclass(frozen=True)
class WorstCaseResult:
    """``solved_rate``: mean over all levels. ``worst``: fraction -> mean over that part of them."""

    solved_rate: float
    worst: dict[float, float]

    def columns(self, student: int, env_name: str) -> dict[str, float]:
        """Named like the results of other evaluations."""
        prefix = f"eval/a{student}:"
        results = {f"{prefix}random_solved_rate:{env_name}": self.solved_rate}
        for fraction, rate in self.worst.items():
            results[f"{prefix}worst_{100 * fraction:g}%_solved_rate:{env_name}"] = rate
        return results


def check_knows_solvable_levels(env: UedEnv[Any, Any]) -> None:
    """ValueError if the environment cannot tell which of its levels can be solved."""
    if PASSABLE not in env.level_metrics(example_level(env)):
        raise ValueError(f"{type(env).__name__} does not tell which levels can be solved (metric {PASSABLE!r})")


def solvable_levels(env: UedEnv[Levels, State], count: int, generator: Generator) -> Levels:
    """Random levels of the environment without those that nobody can solve.

    Raises ValueError if the environment cannot tell them apart, or if there seem to be none.
    """
    check_knows_solvable_levels(env)
    found: list[Levels] = []
    missing, fruitless = count, 0
    while missing > 0:
        levels = env.sample_levels(max(missing, 64), generator)
        good = env.level_metrics(levels)[PASSABLE].nonzero().squeeze(1)[:missing]
        fruitless = 0 if len(good) else fruitless + 1
        if fruitless == _MAX_FRUITLESS_DRAWS:
            raise ValueError(f"{type(env).__name__} draws no levels that can be solved")
        found.append(levels[good])
        missing -= len(good)
    return type(found[0]).cat(found)


def worst_case(choosing: Tensor, reporting: Tensor, fraction: float) -> float:
    """Mean of ``reporting`` over the ``fraction`` of levels (rounded up) that are lowest in ``choosing``; both [N]."""
    count = math.ceil(fraction * len(choosing) - 1e-9)
    worst = choosing.argsort(stable=True)[:count]
    return float(reporting[worst].double().mean())


def evaluate_worst_case(
    env: UedEnv[Any, Any],
    model: ActorCritic,
    settings: WorstCaseSettings,
    *,
    level_seed: int = 0,
    choosing_seed: int = 0,
    reporting_seed: int = 1,
) -> WorstCaseResult:
    """Success rates of a student, with sampled actions. Equal ``level_seed`` means equal levels for all students."""
    if choosing_seed == reporting_seed:
        raise ValueError(f"choosing_seed and reporting_seed are both {choosing_seed}: they must differ")
    device = device_of(env)
    levels = solvable_levels(env, settings.num_levels, torch.Generator(device).manual_seed(level_seed))
    choosing, reporting = (
        _solved_rates(env, model, levels, settings, torch.Generator(device).manual_seed(seed))
        for seed in (choosing_seed, reporting_seed)
    )
    worst = {fraction: worst_case(choosing, reporting, fraction) for fraction in settings.fractions}
    return WorstCaseResult(float(reporting.mean()), worst)


def _solved_rates(
    env: UedEnv[Any, Any], model: ActorCritic, levels: Any, settings: WorstCaseSettings, generator: Generator
) -> Tensor:
    """float64 [N]: rate of solved episodes of every level."""
    rates = [
        play_episodes(
            env,
            levels[first : first + settings.batch_size],
            model,
            num_episodes=settings.num_episodes,
            max_steps=settings.num_episodes * env.max_episode_steps,
            generator=generator,
        ).solved_rate
        for first in range(0, len(levels), settings.batch_size)
    ]
    return torch.cat(rates)
