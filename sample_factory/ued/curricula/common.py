"""What all curricula share: settings, reports, saving."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic

import torch
from torch import Generator

from sample_factory.ued.curricula.level_buffer import LevelBuffer
from sample_factory.ued.envs.interfaces import Levels, State, UedEnv
from sample_factory.ued.envs.registration import is_minimax_compat
from sample_factory.ued.models.cores import Carry
from sample_factory.ued.ppo.agent import STAT_NAMES, PPOAgent
from sample_factory.ued.random_state import restore_generator

PPO_STATS = tuple(sorted(STAT_NAMES))
"""What an update reports."""

Stats = dict[str, float | None]


@dataclass(frozen=True)
class RunnerSettings:
    """Sizes of a cycle, per process.

    ``num_levels``: different levels P. ``copies``: environments per level E. ``num_steps``: T per environment.
    ``minimax_compat``: behave like the published minimax where that is known to change results.
    """

    num_students: int
    num_levels: int
    copies: int
    num_steps: int
    track_metrics: bool = False
    bootstrap_time_limits: bool = False
    minimax_compat: bool = False

    @classmethod
    def of(cls, config: Any) -> RunnerSettings:
        """From the parsed configuration. Levels are split over the processes."""
        args = config.train_runner_args
        num_processes = config.n_devices or 1
        if args.n_parallel % num_processes:
            raise ValueError(
                f"--n_parallel={args.n_parallel} must be divisible by --n_devices={num_processes}, because levels are "
                f"split over the processes"
            )
        return cls(
            num_students=args.n_students,
            num_levels=args.n_parallel // num_processes,
            copies=args.n_eval,
            num_steps=args.n_rollout_steps,
            track_metrics=bool(args.track_env_metrics),
            bootstrap_time_limits=bool(args.bootstrap_time_limits),
            minimax_compat=is_minimax_compat(config.ued_compat),
        )

    @property
    def batch_size(self) -> int:
        """Environments of one student."""
        return self.num_levels * self.copies


@dataclass
class Agents:
    """Everyone who learns. ``teacher``: only where one builds the levels."""

    students: list[PPOAgent]
    teacher: PPOAgent | None = None


@dataclass(frozen=True)
class CycleReport:
    """Of one cycle of this process.

    ``stats``: a value for every name of the curriculum's ``stat_names``, None where the cycle has none. Steps are
    counted by purpose, each as (environments) * (steps): ``env_steps`` of all students in the main rollout,
    ``mutation_steps`` in the rollout of mutated levels, ``scan_steps`` in the search for levels to keep, and
    ``teacher_steps`` of the teacher.
    """

    stats: Stats
    env_steps: int
    mutation_steps: int = 0
    teacher_steps: int = 0
    scan_steps: int = 0


class Curriculum(ABC, Generic[Levels, State]):
    """Chooses levels, lets students play them, and updates everyone who learns.

    All random numbers come from ``generator``. ``buffers``: level buffers, one per student, where there are any.
    """

    def __init__(
        self, settings: RunnerSettings, env: UedEnv[Levels, State], agents: Agents, generator: Generator
    ) -> None:
        if len(agents.students) != settings.num_students:
            raise ValueError(f"--n_students={settings.num_students}, but there are {len(agents.students)} students")
        self.settings = settings
        self.env = env
        self.agents = agents
        self.generator = generator
        self.buffers: list[LevelBuffer[Levels]] = []

    @property
    def students(self) -> list[PPOAgent]:
        return self.agents.students

    @property
    @abstractmethod
    def stat_names(self) -> list[str]:
        """Names of all statistics, in alphabetical order. They never change."""

    @abstractmethod
    def run_cycle(self) -> CycleReport:
        """One rollout, with everything that belongs to it."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that a cycle changes: a curriculum that loads it goes on in exactly the same way."""
        teacher = self.agents.teacher
        return {
            "generator": self.generator.get_state(),
            "students": [student.state_dict() for student in self.students],
            "teacher": None if teacher is None else teacher.state_dict(),
            "buffers": [buffer.state_dict() for buffer in self.buffers],
            "curriculum": self._own_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`, for a curriculum of the same configuration."""
        self._check_counts(state)
        restore_generator(self.generator, state["generator"])
        for student, saved in zip(self.students, state["students"], strict=True):
            student.load_state_dict(saved)
        if self.agents.teacher is not None:
            self.agents.teacher.load_state_dict(state["teacher"])
        for buffer, saved in zip(self.buffers, state["buffers"], strict=True):
            buffer.load_state_dict(saved)
        self._load_own_state(state["curriculum"])

    def _own_state(self) -> dict[str, Any]:
        """What a kind of curriculum keeps from cycle to cycle besides agents and buffers."""
        return {}

    def _load_own_state(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`_own_state`."""

    def _check_counts(self, state: dict[str, Any]) -> None:
        saved, mine = len(state["students"]), len(self.students)
        if saved != mine:
            raise ValueError(f"the checkpoint holds {saved} students, --n_students={mine}; resume with the same number")
        if (state["teacher"] is None) != (self.agents.teacher is None) or len(state["buffers"]) != len(self.buffers):
            raise ValueError("the checkpoint was written with another --train_runner; resume with the same one")


def check_carries(carries: Sequence[Carry | None], batch_size: int) -> None:
    """ValueError if saved carries ``[B, ...]`` are not those of a batch of this size."""
    for part in (part for carry in carries for part in carry or ()):
        if len(part) != batch_size:
            raise ValueError(
                f"the saved recurrent states are those of {len(part)} environments, this run has {batch_size}; resume "
                "with the same --n_parallel and --n_eval"
            )


def uniform_numbers(count: int, generator: Generator) -> torch.Tensor:
    """float64 [count] in [0, 1), on the CPU."""
    return torch.rand(count, generator=generator, dtype=torch.float64, device=generator.device).cpu()


def student_prefix(index: int, num_students: int) -> str:
    """Of the statistics of one student: nothing if it is the only one."""
    return f"a{index}/" if num_students > 1 else ""


def student_suffix(index: int, num_students: int) -> str:
    """Of the names of level statistics of one student: nothing if it is the only one."""
    return f"_a{index}" if num_students > 1 else ""


def learning_stat_names(num_students: int) -> list[str]:
    """Statistics of the runners in which students learn on levels of their own."""
    prefixes = [student_prefix(i, num_students) for i in range(num_students)]
    return ["n_updates", *(prefix + name for prefix in prefixes for name in (*PPO_STATS, "return"))]


def complete(stats: Stats, names: Sequence[str]) -> Stats:
    """``stats`` with None for every other name. Raises KeyError for a statistic nobody has announced."""
    unknown = stats.keys() - set(names)
    if unknown:
        raise KeyError(f"statistics without a column: {sorted(unknown)}")
    return {name: stats.get(name) for name in names}
