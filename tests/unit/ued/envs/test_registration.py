"""Names, and what belongs to them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from sample_factory.ued.envs.maze.env import MazeEnv
from sample_factory.ued.envs.maze.teacher import MazeTeacherEnv
from sample_factory.ued.envs.registration import (
    env_options,
    get_comparator,
    get_mutator,
    make_teacher_env,
    make_ued_env,
    register_ued_env,
    registered_ued_envs,
    teacher_options,
    unregister_ued_env,
)


def make_tiny(*, height: int = 3) -> MazeEnv:
    env = make_ued_env("Maze", height=height, width=3, n_walls=0)
    assert isinstance(env, MazeEnv)
    return env


@pytest.fixture
def own_env() -> Iterator[str]:
    register_ued_env("Tiny", make_tiny)
    yield "Tiny"
    unregister_ued_env("Tiny")


def test_own_environment(own_env: str) -> None:
    assert own_env in registered_ued_envs()
    assert make_ued_env(own_env).observation_spec.image == (5, 5, 3)
    assert list(env_options(own_env)) == ["height"]
    assert env_options(own_env)["height"].default == 3
    with pytest.raises(ValueError, match="registered already"):
        register_ued_env(own_env, make_tiny)
    register_ued_env(own_env, make_tiny, teacher=MazeTeacherEnv, override=True)
    assert isinstance(make_teacher_env(own_env, make_ued_env(own_env), n_walls=2), MazeTeacherEnv)


def test_an_own_environment_is_gone_afterwards() -> None:
    assert "Tiny" not in registered_ued_envs()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: make_ued_env("Maze-Labyrnth"),
            "unknown UED environment 'Maze-Labyrnth': did you mean 'Maze-Labyrinth'",
        ),
        (lambda: make_ued_env("Qxz"), "known are .*Maze-Crossing"),
        (lambda: make_ued_env("Maze", hieght=5), "'Maze' has no option 'hieght': did you mean 'height'"),
        (lambda: make_ued_env("Maze-Labyrinth", height=5), "no option 'height'"),
        (lambda: make_teacher_env("Maze", make_ued_env("Maze"), walls=5), "teacher of .* no option 'walls'.*'n_walls'"),
        (lambda: get_mutator("Maze", "defualt"), "unknown mutation operator 'defualt' .* did you mean 'default'"),
        (lambda: get_comparator("Maze", "x"), "unknown comparator 'x' .* known are default, ignore_direction"),
        (lambda: register_ued_env("", make_tiny), "not empty"),
    ],
)
def test_unknown_names(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_missing_parts_are_named(own_env: str) -> None:
    with pytest.raises(ValueError, match=r"'Tiny' has no teacher environment. Environments with one: .*Maze, "):
        make_teacher_env(own_env, make_ued_env(own_env))
    with pytest.raises(ValueError, match="mutation operator 'default' of UED environment 'Tiny': known are none"):
        get_mutator(own_env)


def test_options_of_the_teacher_do_not_include_the_student() -> None:
    assert set(teacher_options("Maze")) == {
        "n_walls",
        "noise_dim",
        "replace_wall_pos",
        "fixed_n_wall_steps",
        "first_wall_pos_sets_budget",
        "set_agent_dir",
        "normalize_obs",
        "compat",
    }
