"""The example environment with levels, edits and a teacher of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sample_factory.ued import train
from sample_factory.ued.envs.pictures import save_level_grid
from sample_factory.ued.envs.registration import get_comparator, get_mutator, make_teacher_env, make_ued_env
from sf_examples.ued import lava_grid
from sf_examples.ued.lava_env import LavaGridEnv
from sf_examples.ued.lava_levels import LavaLevels
from sf_examples.ued.lava_teacher import LavaTeacherEnv

RIGHT, DOWN, LEFT, UP = range(4)


@pytest.fixture(autouse=True)
def registered() -> None:
    lava_grid.register()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def level(lava: tuple[int, ...] = (), agent: int = 0, goal: int = 8, wind: float = 0.0, copies: int = 1) -> LavaLevels:
    """3x3 tiles."""
    tiles = torch.zeros(1, 9, dtype=torch.bool)
    tiles[0, list(lava)] = True
    one = LavaLevels(tiles.view(1, 3, 3), torch.tensor([agent]), torch.tensor([goal]), torch.tensor([wind]))
    return one.repeat_interleave(copies)


def small_env(**options: Any) -> LavaGridEnv:
    env = make_ued_env("LavaGrid", height=3, width=3, max_lava=4, **options)
    assert isinstance(env, LavaGridEnv)
    return env


def walk(env: LavaGridEnv, levels: LavaLevels, actions: list[int]) -> list[tuple[int, float, bool, bool]]:
    """(tile, reward, done, truncated) after each action."""
    generator = seeded()
    state = env.reset(levels, generator)
    told = []
    for action in actions:
        outcome = env.step(state, torch.tensor([action]), generator)
        flags = bool(outcome.done), bool(outcome.truncated)
        told.append((int(state.agent), round(float(outcome.reward), 4), *flags))
    return told


def test_moves_lava_goal_and_limit() -> None:
    env = small_env(max_episode_steps=5)
    assert walk(env, level(), [UP, LEFT, RIGHT, RIGHT, RIGHT]) == [
        (0, 0.0, False, False),
        (0, 0.0, False, False),
        (1, 0.0, False, False),
        (2, 0.0, False, False),
        (2, 0.0, True, True),
    ]
    assert walk(env, level(lava=(1,)), [RIGHT]) == [(1, 0.0, True, False)]
    assert walk(env, level(goal=4), [DOWN, RIGHT])[-1] == (4, 0.64, True, False)


def test_wind_sends_moves_anywhere() -> None:
    env = small_env()
    generator = seeded()
    state = env.reset(level(agent=4, wind=0.4, copies=20_000), generator)
    env.step(state, torch.full((20_000,), UP), generator)
    shares = (torch.bincount(state.agent, minlength=9) / 20_000).tolist()
    assert shares == pytest.approx([0, 0.7, 0, 0.1, 0, 0.1, 0, 0.1, 0], abs=0.02)


def test_observations_levels_and_metrics() -> None:
    env = small_env()
    levels = level(lava=(3, 4), agent=0, goal=6, wind=0.25)
    state = env.reset(levels, seeded())
    observations = env.observe(state)
    assert observations["image"].flatten(1, 2)[0].argmax(-1)[[0, 3, 4, 6]].tolist() == [2, 0, 0, 1]
    assert float(observations["image"].sum()) == 4
    assert observations["wind"].tolist() == [[0.25]]
    walk(env, levels, [RIGHT])
    for name, value in env.levels_of(state).as_dict().items():
        assert torch.equal(value, getattr(levels, name))
    metrics = {name: value.tolist() for name, value in env.level_metrics(levels).items()}
    assert metrics == {"n_lava": [2], "shortest_path_length": [6], "wind": [0.25], "passable": [True]}


def test_random_and_edited_levels_are_proper() -> None:
    env = make_ued_env("LavaGrid")
    generator = seeded()
    levels = env.sample_levels(2000, generator)
    counts = levels.lava.sum((1, 2))
    assert (int(counts.min()), int(counts.max())) == (0, 12)
    for batch in (levels, get_mutator("LavaGrid")(levels, 10, generator)):
        rows = torch.arange(2000)
        assert not bool((batch.agent == batch.goal).any())
        assert not bool(batch.lava.flatten(1)[rows, batch.agent].any())
        assert not bool(batch.lava.flatten(1)[rows, batch.goal].any())
        assert 0 <= float(batch.wind.min()) <= float(batch.wind.max()) <= 1


def test_single_edits_change_one_thing() -> None:
    levels = level(lava=(1,), wind=0.5, copies=3000)
    edited = get_mutator("LavaGrid")(levels, 1, seeded())
    lava = (edited.lava != levels.lava).flatten(1).sum(1)
    goal, wind = (edited.goal != levels.goal).long(), (edited.wind != levels.wind).long()
    assert torch.equal(lava + goal + wind, torch.ones(3000, dtype=torch.int64))
    shares = [float(changed.double().mean()) for changed in (lava, goal, wind)]
    assert shares == pytest.approx([1 / 3] * 3, abs=0.04)


def test_equality() -> None:
    levels = LavaLevels.cat([level(), level(lava=(1,)), level(agent=1), level(goal=2), level(wind=0.1)])
    assert torch.equal(get_comparator("LavaGrid")(levels, levels), torch.eye(5, dtype=torch.bool))


def test_teacher() -> None:
    env = small_env(max_wind=0.8)
    teacher = make_teacher_env("LavaGrid", env, n_lava=3, noise_dim=4)
    assert isinstance(teacher, LavaTeacherEnv)
    generator = seeded()
    state = teacher.reset(1, generator)
    drawn = []
    for action in (4, 0, 0, 5, 1, 7):
        observations = teacher.observe(state, generator)
        drawn.append(int(observations["image"].sum()))
        assert observations["noise"].shape == (1, 4)
        teacher.step(state, torch.tensor([action]), generator)
    assert teacher.episode_length == 6
    assert drawn == [0, 0, 1, 2, 3, 3]
    levels = teacher.decode(state)
    expected = level(lava=(5, 7), agent=0, goal=1, wind=0.4)
    for name, value in levels.as_dict().items():
        torch.testing.assert_close(value, getattr(expected, name))


def test_pictures(tmp_path: Path) -> None:
    env = small_env()
    image = env.render(env.reset(level(lava=(4,)), seeded()), tile_px=2)[0]
    assert image.shape == (6, 6, 3)
    assert len(np.unique(image.reshape(-1, 3), axis=0)) == 4
    save_level_grid(env, level(copies=3), tmp_path / "levels.png", seeded())
    assert (tmp_path / "levels.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"height": 2}, "at least 3, got 2"),
        ({"max_lava": 48}, "between 0 and 47"),
        ({"max_wind": 1.5}, "between 0 and 1"),
        ({"max_episode_steps": 0}, "max_episode_steps"),
    ],
)
def test_impossible_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_ued_env("LavaGrid", **options)


@pytest.mark.parametrize(
    "flags",
    [
        ["--train_runner=dr"],
        ["--train_runner=plr", "--ued_score=l1_value_loss", "--plr_mutation_fn=default", "--plr_n_mutations=2"],
        [
            "--train_runner=paired",
            "--n_students=2",
            "--teacher_model_name=default_teacher_cnn",
            "--teacher_n_conv_filters=4",
        ],
    ],
)
def test_all_runners_train_on_it(flags: list[str], tmp_path: Path) -> None:
    common = ["--env_module=sf_examples.ued.lava_grid", "--env_name=LavaGrid", f"--log_dir={tmp_path}", "--xpid=lava"]
    sizes = ["--n_parallel=4", "--n_rollout_steps=8", "--n_total_updates=2", "--student_ppo_n_epochs=1"]
    assert train.main([*common, *sizes, *flags, "--track_env_metrics=True"]) == 0
    rows = (tmp_path / "lava" / "logs.csv").read_text().splitlines()
    assert len(rows) >= 3
    assert "n_lava" in rows[0]
