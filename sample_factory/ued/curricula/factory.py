"""The curriculum a configuration asks for."""

from __future__ import annotations

from typing import Any

from torch import Generator

from sample_factory.ued.curricula.common import Agents, Curriculum, RunnerSettings
from sample_factory.ued.curricula.dr import DomainRandomisation
from sample_factory.ued.curricula.paired import TeacherCurriculum
from sample_factory.ued.curricula.parallel_plr import ParallelReplay
from sample_factory.ued.curricula.plr import LevelReplay, SequentialReplay
from sample_factory.ued.curricula.settings import LearnabilitySettings, ReplaySettings
from sample_factory.ued.curricula.sfl import LearnabilitySampling
from sample_factory.ued.envs.interfaces import Comparator, Mutator, TeacherEnv, UedEnv
from sample_factory.ued.envs.registration import get_comparator, get_entry, get_mutator

IGNORE_DIRECTION = "ignore_direction"
RUNNERS = ("dr", "plr", "paired", "sfl")


def make_curriculum(
    config: Any, env: UedEnv[Any, Any], teacher_env: TeacherEnv[Any, Any] | None, agents: Agents, generator: Generator
) -> Curriculum[Any, Any]:
    """``config``: the parsed configuration, with attribute access and its groups. ``teacher_env``: for paired only.

    ``generator`` draws all random numbers of the curriculum. Raises ValueError where settings contradict each other.
    """
    settings = RunnerSettings.of(config)
    runner = config.train_runner
    if runner == "dr":
        return DomainRandomisation(settings, env, agents, generator)
    if runner == "plr":
        return _make_replay(config, settings, env, agents, generator)
    if runner == "paired":
        if teacher_env is None:
            raise ValueError("--train_runner=paired needs the teacher's environment")
        return TeacherCurriculum(settings, config.train_runner_args.ued_score, env, teacher_env, agents, generator)
    if runner == "sfl":
        return LearnabilitySampling(settings, LearnabilitySettings.of(config), env, agents, generator)
    raise ValueError(f"--train_runner={runner}: choose one of {', '.join(RUNNERS)}")


def _make_replay(
    config: Any, settings: RunnerSettings, env: UedEnv[Any, Any], agents: Agents, generator: Generator
) -> LevelReplay[Any, Any]:
    replay = ReplaySettings.of(config, settings)
    kind: type[LevelReplay[Any, Any]] = ParallelReplay if replay.parallel else SequentialReplay
    mutator = None if replay.mutation is None else _mutator(config.env_name, replay.mutation.operator)
    comparator = _comparator(config.env_name, settings.minimax_compat) if replay.unique else None
    return kind(settings, replay, env, agents, generator, mutator=mutator, comparator=comparator)


def _mutator(env_name: str, operator: str) -> Mutator[Any]:
    try:
        return get_mutator(env_name, operator)
    except ValueError as exc:
        raise ValueError(f"--plr_mutation_fn={operator}: {exc}") from exc


def _comparator(env_name: str, minimax_compat: bool) -> Comparator[Any]:
    """The published minimax does not look at the direction in which an agent starts."""
    if minimax_compat and IGNORE_DIRECTION in get_entry(env_name).comparators:
        return get_comparator(env_name, IGNORE_DIRECTION)
    return get_comparator(env_name)
