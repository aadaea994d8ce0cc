"""Prioritised level replay, and ACCEL on top of it.

Jiang et al. 2021, "Prioritized Level Replay" (learn from all levels) and "Replay-Guided Adversarial Environment Design"
(robust: learn from replayed levels only).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

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
    uniform_numbers,
)
from sample_factory.ued.curricula.episodes import FinishedEpisodes, recent_return
from sample_factory.ued.curricula.level_buffer import LevelBuffer
from sample_factory.ued.curricula.level_metrics import example_level, metric_names, summarise
from sample_factory.ued.curricula.mutation import Mutation
from sample_factory.ued.curricula.playing import begin
from sample_factory.ued.curricula.prioritisation import Floats, Ints
from sample_factory.ued.curricula.settings import ReplaySettings
from sample_factory.ued.curricula.student_replay import StudentReplay
from sample_factory.ued.envs.interfaces import Comparator, Levels, Mutator, State, UedEnv
from sample_factory.ued.rollouts import Rollout, collect_rollout

BUFFER_STATS = ("plr/weighted_age", "plr/weighted_n_mutations", "plr/weighted_ued_score")

ReplayAgreement = Callable[[list[bool], list[bool]], list[bool]]
"""From what every student wants and whether its buffer is warm, to who replays in this cycle."""


def replay_if_warm(wanted: list[bool], warm: list[bool]) -> list[bool]:
    """The agreement of a single process."""
    return [a and b for a, b in zip(wanted, warm, strict=True)]


class LevelReplay(Curriculum[Levels, State]):
    """What sequential and parallel replay share. Every student has a buffer of its own.

    ``agree_on_replay``: replace it where several processes train the same students, because all have to update them in
    the same cycles.
    """

    def __init__(
        self,
        settings: RunnerSettings,
        replay: ReplaySettings,
        env: UedEnv[Levels, State],
        agents: Agents,
        generator: Generator,
        *,
        mutator: Mutator[Levels] | None = None,
        comparator: Comparator[Levels] | None = None,
    ) -> None:
        super().__init__(settings, env, agents, generator)
        if (mutator is None) != (replay.mutation is None):
            raise ValueError("a mutator and settings of mutation need each other")
        if (comparator is None) == replay.unique:
            raise ValueError("unique levels and a comparator need each other")
        self.replay = replay
        self.agree_on_replay: ReplayAgreement = replay_if_warm
        example = example_level(env)
        self.buffers = [LevelBuffer(replay.buffer, example) for _ in self.students]
        self._replays = [
            StudentReplay(buffer, replay.score, settings.copies, comparator, settings.minimax_compat)
            for buffer in self.buffers
        ]
        self._mutation: Mutation[Levels] | None = None
        if mutator is not None and replay.mutation is not None:
            self._mutation = Mutation(replay.mutation, mutator, index_by_slot=settings.minimax_compat)
        self._names = sorted(learning_stat_names(settings.num_students) + self._more_stat_names())

    @property
    def stat_names(self) -> list[str]:
        return self._names

    def run_cycle(self) -> CycleReport:
        count = self.settings.num_students
        numbers = uniform_numbers(count, self.generator).tolist()
        wanted = [number < self.replay.replay_prob for number in numbers]
        decisions = self.agree_on_replay(wanted, [buffer.is_warm for buffer in self.buffers])
        stats: Stats = {}
        env_steps = mutation_steps = 0
        for index, is_replay in enumerate(decisions):
            part = self._run_student(index, is_replay)
            stats |= part.stats
            env_steps += part.env_steps
            mutation_steps += part.mutation_steps
        stats["n_updates"] = self.students[0].n_updates
        return CycleReport(complete(stats, self._names), env_steps=env_steps, mutation_steps=mutation_steps)

    @abstractmethod
    def _run_student(self, index: int, is_replay: bool) -> CycleReport:
        """The cycle of one student."""

    def _play(self, index: int, levels: Levels) -> tuple[Rollout, Tensor, Tensor]:
        """Rollout on copies of the levels, advantages and value targets, by the student as it is now."""
        settings, student = self.settings, self.students[index]
        copied = levels.repeat_interleave(settings.copies)
        state, restart = begin(self.env, copied, self.generator)
        rollout = collect_rollout(
            self.env,
            state,
            student.model,
            settings.num_steps,
            restart,
            self.generator,
            bootstrap_time_limits=settings.bootstrap_time_limits,
        )
        return rollout, *student.advantages(rollout)

    def _mutants(self, levels: Levels, slots: Ints, scores: Floats) -> tuple[Levels, Ints]:
        assert self._mutation is not None
        offspring = self._mutation.of(levels, slots, scores, self.generator)
        return offspring.levels, offspring.parents

    def _learning_stats(self, index: int, update: dict[str, float], rollout: Rollout) -> Stats:
        prefix = student_prefix(index, self.settings.num_students)
        stats: Stats = {prefix + name: value for name, value in update.items()}
        stats[prefix + "return"] = recent_return(rollout.rewards, FinishedEpisodes.of(rollout.dones))
        suffix = student_suffix(index, self.settings.num_students)
        return stats | {f"plr/{name}{suffix}": value for name, value in self.buffers[index].metrics().items()}

    def _level_stats(self, index: int, group: str, levels: Levels) -> Stats:
        if not self.settings.track_metrics:
            return {}
        suffix = student_suffix(index, self.settings.num_students)
        metrics = summarise(self.env.level_metrics(levels))
        return {f"{group}/{name}{suffix}": value for name, value in metrics.items()}

    def _more_stat_names(self) -> list[str]:
        names = list(BUFFER_STATS)
        if self.settings.track_metrics:
            names += [f"{group}/{name}" for group in ("env", "plr") for name in metric_names(self.env)]
        count = self.settings.num_students
        return [name + student_suffix(i, count) for name in names for i in range(count)]


class SequentialReplay(LevelReplay[Levels, State]):
    """A cycle plays new levels or replays stored ones. With mutation, edited copies of the replayed levels are played
    after the update, by the updated student, only to score them.
    """

    def _run_student(self, index: int, is_replay: bool) -> CycleReport:
        settings, replay = self.settings, self._replays[index]
        if is_replay:
            batch = replay.batch(*replay.draw(settings.num_levels, self.generator))
        else:
            replay.buffer.age(settings.num_levels)
            batch = replay.batch(self.env.sample_levels(settings.num_levels, self.generator))
        rollout, advantages, targets = self._play(index, batch.levels)
        scores = replay.record(batch, rollout, advantages)
        update: dict[str, float] = {}
        if is_replay or not self.replay.robust:
            update = self.students[index].update(rollout, advantages, targets, self.generator)
        mutation_steps = 0
        if is_replay and self._mutation is not None:
            mutants, parents = self._mutants(batch.levels, batch.slots, scores)
            mutant_batch = replay.batch(mutants, parents=parents)
            mutant_rollout, mutant_advantages, _ = self._play(index, mutants)
            replay.record(mutant_batch, mutant_rollout, mutant_advantages)
            mutation_steps = settings.batch_size * settings.num_steps
        stats = self._learning_stats(index, update, rollout)
        stats |= self._level_stats(index, "plr" if is_replay else "env", batch.levels)
        return CycleReport(stats, settings.batch_size * settings.num_steps, mutation_steps)
