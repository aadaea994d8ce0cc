"""Sampling for learnability: half of the levels are ones that the student solves sometimes.

Rutherford et al. 2024, "No Regrets: Investigating and Improving Regret Approximations for Curriculum Discovery".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Generic

import torch
from torch import Generator, Tensor

from sample_factory.ued.curricula.common import (
    Agents,
    Curriculum,
    CycleReport,
    RunnerSettings,
    Stats,
    complete,
    learning_stat_names,
    student_prefix,
    student_suffix,
)
from sample_factory.ued.curricula.episodes import FinishedEpisodes, recent_return
from sample_factory.ued.curricula.level_metrics import check_same_kind, example_level, metric_names, summarise
from sample_factory.ued.curricula.playing import begin, play_episodes
from sample_factory.ued.curricula.settings import LearnabilitySettings
from sample_factory.ued.envs.interfaces import Levels, State, UedEnv
from sample_factory.ued.models.actor_critic import ActorCritic
from sample_factory.ued.rollouts import collect_rollout

_DIGITS = 9  # 0.55 * 100 is a little more than 55
KEPT_STATS = ("sfl/learnability", "sfl/solved_rate")


@dataclass(frozen=True)
class KeptLevels(Generic[Levels]):
    """N levels, those with the highest learnability first. ``solved_rate``: float64 [N]."""

    levels: Levels
    solved_rate: Tensor

    @property
    def learnability(self) -> Tensor:
        return learnability(self.solved_rate)


def learnability(solved_rate: Tensor) -> Tensor:
    """``p (1 - p)``: the variance of success; 0 for levels that are always or never solved."""
    return solved_rate * (1.0 - solved_rate)


def search(
    env: UedEnv[Levels, State], model: ActorCritic, settings: LearnabilitySettings, generator: Generator
) -> tuple[KeptLevels[Levels], int]:
    """The most learnable of many random levels, and how many environment steps it took to find them."""
    kept: KeptLevels[Levels] | None = None
    steps = 0
    for _ in range(settings.num_batches):
        levels = env.sample_levels(settings.batch_size, generator)
        tally = play_episodes(
            env,
            levels,
            model,
            num_episodes=settings.max_episodes,
            max_steps=settings.num_steps,
            generator=generator,
        )
        steps += tally.env_steps
        rates = tally.solved_rate
        if kept is not None:
            levels, rates = type(levels).cat([kept.levels, levels]), torch.cat([kept.solved_rate, rates])
        best = learnability(rates).argsort(descending=True, stable=True)[: settings.num_kept]
        kept = KeptLevels(levels[best], rates[best])
    assert kept is not None
    return kept, steps


class LearnabilitySampling(Curriculum[Levels, State]):
    """A batch consists of new random levels and of uniform draws from the kept ones; episodes begin again on the same
    level. Every student has kept levels of its own, renewed before the first update and after every ``interval``.
    """

    def __init__(
        self,
        settings: RunnerSettings,
        learnability: LearnabilitySettings,
        env: UedEnv[Levels, State],
        agents: Agents,
        generator: Generator,
    ) -> None:
        super().__init__(settings, env, agents, generator)
        self.learnability = learnability
        self.kept: list[KeptLevels[Levels] | None] = [None] * settings.num_students
        self._updates_at_search = [0] * settings.num_students
        # Rounded up: a search whose levels nobody plays would be in vain.
        self._num_kept_levels = math.ceil(round(settings.num_levels * learnability.kept_share, _DIGITS))
        self._names = sorted(learning_stat_names(settings.num_students) + self._more_stat_names())

    @property
    def stat_names(self) -> list[str]:
        return self._names

    def run_cycle(self) -> CycleReport:
        stats: Stats = {}
        scan_steps = 0
        for index in range(self.settings.num_students):
            kept, steps = self._kept_levels(index)
            scan_steps += steps
            stats |= self._train(index, kept)
        stats["n_updates"] = self.students[0].n_updates
        steps = self.settings.num_students * self.settings.batch_size * self.settings.num_steps
        return CycleReport(complete(stats, self._names), env_steps=steps, scan_steps=scan_steps)

    def _kept_levels(self, index: int) -> tuple[KeptLevels[Levels], int]:
        """The kept levels of a student, found anew if it is time, and the steps that took."""
        student = self.students[index]
        kept = self.kept[index]
        if kept is not None and student.n_updates - self._updates_at_search[index] < self.learnability.interval:
            return kept, 0
        found, steps = search(self.env, student.model, self.learnability, self.generator)
        self.kept[index] = found
        self._updates_at_search[index] = student.n_updates
        return found, steps

    def _train(self, index: int, kept: KeptLevels[Levels]) -> Stats:
        settings, student, generator = self.settings, self.students[index], self.generator
        num_fresh = settings.num_levels - self._num_kept_levels
        fresh = self.env.sample_levels(num_fresh, generator)
        chosen = torch.randint(len(kept.levels), [self._num_kept_levels], generator=generator, device=generator.device)
        drawn = kept.levels[chosen]
        copied = type(fresh).cat([fresh, drawn]).repeat_interleave(settings.copies)
        state, restart = begin(self.env, copied, generator)
        rollout = collect_rollout(
            self.env,
            state,
            student.model,
            settings.num_steps,
            restart,
            generator,
            bootstrap_time_limits=settings.bootstrap_time_limits,
        )
        update = student.update(rollout, *student.advantages(rollout), generator)
        prefix = student_prefix(index, settings.num_students)
        suffix = student_suffix(index, settings.num_students)
        stats: Stats = {prefix + name: value for name, value in update.items()}
        stats[prefix + "return"] = recent_return(rollout.rewards, FinishedEpisodes.of(rollout.dones))
        stats[f"sfl/learnability{suffix}"] = float(kept.learnability.mean())
        stats[f"sfl/solved_rate{suffix}"] = float(kept.solved_rate.mean())
        if settings.track_metrics:
            for group, levels in (("env", fresh), ("sfl", drawn)):
                if len(levels):
                    metrics = summarise(self.env.level_metrics(levels))
                    stats |= {f"{group}/{name}{suffix}": value for name, value in metrics.items()}
        return stats

    def _more_stat_names(self) -> list[str]:
        names = list(KEPT_STATS)
        if self.settings.track_metrics:
            names += [f"{group}/{name}" for group in ("env", "sfl") for name in metric_names(self.env)]
        count = self.settings.num_students
        return [name + student_suffix(i, count) for name in names for i in range(count)]

    def _own_state(self) -> dict[str, Any]:
        kept = [None if k is None else {"levels": k.levels.as_dict(), "solved_rate": k.solved_rate} for k in self.kept]
        return {"kept": kept, "updates_at_search": list(self._updates_at_search)}

    def _load_own_state(self, state: dict[str, Any]) -> None:
        example = example_level(self.env)
        kind = type(example)
        for saved in filter(None, state["kept"]):
            check_same_kind(example.as_dict(), saved["levels"])
        self.kept = [
            None if saved is None else KeptLevels(kind.from_dict(saved["levels"]), saved["solved_rate"])
            for saved in state["kept"]
        ]
        self._updates_at_search = list(state["updates_at_search"])
