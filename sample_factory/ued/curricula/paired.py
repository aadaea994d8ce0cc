"""A teacher builds the levels: PAIRED, population PAIRED, and the minimax adversary.

Dennis et al. 2020, "Emergent Complexity and Zero-shot Transfer via Unsupervised Environment Design".
"""

from __future__ import annotations

from typing import Any

from torch import Generator, Tensor

from sample_factory.ued.curricula.common import (
    PPO_STATS,
    Agents,
    Curriculum,
    CycleReport,
    RunnerSettings,
    Stats,
    check_carries,
    complete,
)
from sample_factory.ued.curricula.episodes import FinishedEpisodes, recent_return
from sample_factory.ued.curricula.level_metrics import LONGEST, metric_names, summarise
from sample_factory.ued.curricula.playing import begin, to_score
from sample_factory.ued.curricula.scores import (
    NUM_STUDENTS_OF_PAIRS,
    PAIR_SCORES,
    TEACHER_SCORES,
    ScoredRollout,
    population_scores,
)
from sample_factory.ued.envs.interfaces import Levels, State, TeacherEnv, UedEnv
from sample_factory.ued.models.cores import Carry
from sample_factory.ued.ppo.agent import PPOAgent
from sample_factory.ued.rollouts import collect_rollout, collect_teacher_rollout


class TeacherCurriculum(Curriculum[Levels, State]):
    """All students play all levels of the teacher, whose reward is ``score``, given at the end of its episode.

    ``max_mc`` is no reward: it needs the returns of earlier visits.
    """

    def __init__(
        self,
        settings: RunnerSettings,
        score: str,
        env: UedEnv[Levels, State],
        teacher_env: TeacherEnv[Levels, Any],
        agents: Agents,
        generator: Generator,
    ) -> None:
        super().__init__(settings, env, agents, generator)
        if agents.teacher is None:
            raise ValueError("--train_runner=paired needs a teacher: give --teacher_model_name")
        if score not in TEACHER_SCORES:
            raise ValueError(f"--ued_score={score} cannot reward a teacher; choose one of {', '.join(TEACHER_SCORES)}")
        if score in PAIR_SCORES and settings.num_students != NUM_STUDENTS_OF_PAIRS:
            raise ValueError(
                f"--ued_score={score} compares two students, --n_students={settings.num_students}; use --n_students=2 "
                f"or --ued_score=population_regret"
            )
        self.score = score
        self.teacher_env = teacher_env
        self._teacher: PPOAgent = agents.teacher
        self._carries: list[Carry | None] = [None] * settings.num_students
        self._teacher_carry: Carry | None = None
        self._names = sorted(["n_updates", *self._agent_stat_names(), *self._level_stat_names()])

    @property
    def stat_names(self) -> list[str]:
        return self._names

    def run_cycle(self) -> CycleReport:
        settings = self.settings
        built, levels = collect_teacher_rollout(
            self.teacher_env,
            settings.num_levels,
            self._teacher.model,
            self.generator,
            initial_carry=self._teacher_carry,
        )
        stats: Stats = {}
        played: list[ScoredRollout] = []
        copied = levels.repeat_interleave(settings.copies)
        for index in range(settings.num_students):
            scored, student_stats = self._train_student(index, copied)
            played.append(scored)
            stats |= student_stats
        scores = population_scores(self.score, played)
        stats |= self._train_teacher(built, scores)
        if settings.minimax_compat:
            self._teacher_carry = built.final_carry
        if settings.track_metrics:
            metrics = summarise(self.env.level_metrics(levels), maximum=LONGEST)
            stats |= {f"env/{name}": value for name, value in metrics.items()}
        stats["n_updates"] = self.students[0].n_updates
        return CycleReport(
            complete(stats, self._names),
            env_steps=settings.num_students * settings.batch_size * settings.num_steps,
            teacher_steps=settings.num_levels * self.teacher_env.episode_length,
        )

    def _train_student(self, index: int, copied: Levels) -> tuple[ScoredRollout, Stats]:
        settings, student = self.settings, self.students[index]
        state, restart = begin(self.env, copied, self.generator)
        rollout = collect_rollout(
            self.env,
            state,
            student.model,
            settings.num_steps,
            restart,
            self.generator,
            bootstrap_time_limits=settings.bootstrap_time_limits,
            initial_carry=self._carries[index],
        )
        if settings.minimax_compat:
            self._carries[index] = rollout.final_carry
        advantages, targets = student.advantages(rollout)
        update = student.update(rollout, advantages, targets, self.generator)
        stats: Stats = {f"{name}_a{index}": value for name, value in update.items()}
        stats[f"mean_return_a{index}"] = recent_return(rollout.rewards, FinishedEpisodes.of(rollout.dones))
        return to_score(rollout, advantages, settings.copies), stats

    def _train_teacher(self, built: Any, scores: Tensor) -> Stats:
        built.rewards[-1] = scores
        update = self._teacher.update(built, *self._teacher.advantages(built), self.generator)
        stats: Stats = {f"{name}_tch": value for name, value in update.items()}
        stats["mean_return_tch"] = float(scores.double().mean())
        return stats

    def _agent_stat_names(self) -> list[str]:
        suffixes = [*(f"a{i}" for i in range(self.settings.num_students)), "tch"]
        return [f"{name}_{suffix}" for suffix in suffixes for name in (*PPO_STATS, "mean_return")]

    def _level_stat_names(self) -> list[str]:
        return [f"env/{name}" for name in metric_names(self.env)] if self.settings.track_metrics else []

    def _own_state(self) -> dict[str, Any]:
        return {"carries": list(self._carries), "teacher_carry": self._teacher_carry}

    def _load_own_state(self, state: dict[str, Any]) -> None:
        if self.settings.minimax_compat:
            check_carries(state["carries"], self.settings.batch_size)
            check_carries([state["teacher_carry"]], self.settings.num_levels)
            self._carries, self._teacher_carry = list(state["carries"]), state["teacher_carry"]
