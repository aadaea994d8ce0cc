"""Domain randomisation: every episode on a new random level."""

from __future__ import annotations

from typing import Any

from torch import Generator

from sample_factory.ued.curricula.common import (
    Agents,
    Curriculum,
    CycleReport,
    RunnerSettings,
    Stats,
    check_carries,
    complete,
    learning_stat_names,
    student_prefix,
    student_suffix,
)
from sample_factory.ued.curricula.episodes import FinishedEpisodes, recent_return
from sample_factory.ued.curricula.level_metrics import metric_names, summarise
from sample_factory.ued.curricula.playing import FreshLevels
from sample_factory.ued.envs.interfaces import Levels, State, UedEnv
from sample_factory.ued.models.cores import Carry
from sample_factory.ued.rollouts import collect_rollout


class DomainRandomisation(Curriculum[Levels, State]):
    """Tobin et al. 2017. Level statistics describe the levels at the start of the cycle only.

    Episodes do not continue from one cycle to the next. In the published minimax the recurrent carry does.
    """

    def __init__(
        self, settings: RunnerSettings, env: UedEnv[Levels, State], agents: Agents, generator: Generator
    ) -> None:
        super().__init__(settings, env, agents, generator)
        self._carries: list[Carry | None] = [None] * settings.num_students
        self._names = sorted(learning_stat_names(settings.num_students) + self._level_stat_names())

    @property
    def stat_names(self) -> list[str]:
        return self._names

    def run_cycle(self) -> CycleReport:
        stats: Stats = {}
        for index in range(self.settings.num_students):
            stats |= self._train(index)
        stats["n_updates"] = self.students[0].n_updates
        steps = self.settings.num_students * self.settings.batch_size * self.settings.num_steps
        return CycleReport(complete(stats, self._names), env_steps=steps)

    def _train(self, index: int) -> Stats:
        settings, student = self.settings, self.students[index]
        levels = self.env.sample_levels(settings.num_levels, self.generator)
        rollout = collect_rollout(
            self.env,
            self.env.reset(levels.repeat_interleave(settings.copies), self.generator),
            student.model,
            settings.num_steps,
            FreshLevels(self.env, settings.batch_size, self.generator),
            self.generator,
            bootstrap_time_limits=settings.bootstrap_time_limits,
            initial_carry=self._carries[index],
        )
        if settings.minimax_compat:
            self._carries[index] = rollout.final_carry
        update = student.update(rollout, *student.advantages(rollout), self.generator)
        prefix = student_prefix(index, settings.num_students)
        stats: Stats = {prefix + name: value for name, value in update.items()}
        stats[prefix + "return"] = recent_return(rollout.rewards, FinishedEpisodes.of(rollout.dones))
        if settings.track_metrics:
            suffix = student_suffix(index, settings.num_students)
            for name, value in summarise(self.env.level_metrics(levels)).items():
                stats[f"env/{name}{suffix}"] = value
        return stats

    def _level_stat_names(self) -> list[str]:
        if not self.settings.track_metrics:
            return []
        count = self.settings.num_students
        return [f"env/{name}{student_suffix(i, count)}" for name in metric_names(self.env) for i in range(count)]

    def _own_state(self) -> dict[str, Any]:
        return {"carries": list(self._carries)}

    def _load_own_state(self, state: dict[str, Any]) -> None:
        if self.settings.minimax_compat:
            check_carries(state["carries"], self.settings.batch_size)
            self._carries = list(state["carries"])
