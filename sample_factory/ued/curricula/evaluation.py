"""Evaluation on known environments, during training and after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Generator

from sample_factory.ued.config.lists import student_indices
from sample_factory.ued.curricula.playing import EpisodeTally, play_episodes
from sample_factory.ued.envs.interfaces import UedEnv
from sample_factory.ued.envs.registration import env_options, make_ued_env
from sample_factory.ued.models.actor_critic import ActorCritic
from sample_factory.ued.ppo.agent import PPOAgent


def return_column(student: int, env_name: str) -> str:
    return f"eval/a{student}:test_return:{env_name}"


def solved_rate_column(student: int, env_name: str) -> str:
    return f"eval/a{student}:test_solved_rate:{env_name}"


def play_first_episodes(env: UedEnv[Any, Any], model: ActorCritic, count: int, generator: Generator) -> EpisodeTally:
    """One episode in each of ``count`` copies of the environment, with sampled actions."""
    levels = env.sample_levels(count, generator)
    return play_episodes(env, levels, model, num_episodes=1, max_steps=env.max_episode_steps, generator=generator)


class Evaluator:
    """``envs``: name -> environment; without any nothing is evaluated. ``students``: see :func:`student_indices`."""

    def __init__(self, envs: Mapping[str, UedEnv[Any, Any]], num_episodes: int, students: str | None = None) -> None:
        if num_episodes < 1:
            raise ValueError(f"--test_n_episodes={num_episodes} must be at least 1")
        self._envs = dict(envs)
        self._num_episodes = num_episodes
        self._students = students

    def columns(self, num_students: int) -> list[str]:
        """Names of all results, in alphabetical order."""
        indices = student_indices(self._students, num_students)
        kinds = (return_column, solved_rate_column)
        return sorted(column(index, name) for index in indices for name in self._envs for column in kinds)

    def run(self, students: Sequence[PPOAgent], generator: Generator) -> dict[str, float]:
        """Mean return and rate of solved episodes, by column."""
        results: dict[str, float] = {}
        for index in student_indices(self._students, len(students)):
            for name, env in self._envs.items():
                tally = play_first_episodes(env, students[index].model, self._num_episodes, generator)
                results[return_column(index, name)] = float(tally.mean_return.mean())
                results[solved_rate_column(index, name)] = float(tally.solved_rate.mean())
        return results


def make_test_env(name: str, config: Any) -> UedEnv[Any, Any]:
    """A test environment with those options of the configuration, and its device, that it has."""
    known = env_options(name)
    options = {key: value for key, value in (config.eval_env_args or {}).items() if key in known}
    if "device" in known and config.device is not None:
        options["device"] = config.device
    if "compat" in known and config.ued_compat is not None:
        options["compat"] = config.ued_compat
    return make_ued_env(name, **options)
