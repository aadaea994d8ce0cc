"""The search for levels that are solved sometimes, and training on them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from sample_factory.ued.config.train_args import parse_train_args
from sample_factory.ued.curricula.playing import play_episodes
from sample_factory.ued.curricula.settings import LearnabilitySettings
from sample_factory.ued.curricula.sfl import learnability, search
from sample_factory.ued.envs.maze.comparator import same_levels
from tests.unit.ued.curricula.maze_runs import SFL, make_run
from tests.unit.ued.curricula.scripted import UniformModel
from tests.unit.ued.curricula.test_playing import seeded, small_maze

SETTINGS = LearnabilitySettings(num_batches=3, batch_size=30, num_steps=60, max_episodes=5, num_kept=12)
MODEL: Any = UniformModel()


def test_learnability_is_the_variance_of_success() -> None:
    torch.testing.assert_close(learnability(torch.tensor([0.0, 0.5, 1.0, 0.2])), torch.tensor([0.0, 0.25, 0.0, 0.16]))


def test_defaults_are_those_of_the_published_runs() -> None:
    runner = ("--train_runner=sfl",)
    settings = LearnabilitySettings.of(parse_train_args(runner).config)
    assert (settings.interval, settings.num_batches, settings.batch_size, settings.num_steps) == (100, 5, 5000, 2000)
    assert (settings.max_episodes, settings.num_kept, settings.kept_share) == (10, 1000, 0.5)


def test_the_best_levels_of_all_batches_are_kept() -> None:
    env = small_maze()
    kept, steps = search(env, MODEL, SETTINGS, seeded(0))
    everything, _ = search(env, MODEL, dataclasses.replace(SETTINGS, num_kept=90), seeded(0))
    assert len(kept.levels) == 12 and len(everything.levels) == 90
    torch.testing.assert_close(kept.learnability, everything.learnability[:12])
    assert (everything.learnability.diff() <= 0).all()
    assert kept.learnability.min() > everything.learnability.mean()
    assert 0 < steps <= 90 * 64


def test_rates_belong_to_their_levels() -> None:
    env = small_maze()
    settings = dataclasses.replace(SETTINGS, num_batches=1, num_kept=30)
    kept, _ = search(env, MODEL, settings, seeded(7))
    generator = seeded(7)
    levels = env.sample_levels(30, generator)
    tally = play_episodes(env, levels, MODEL, num_episodes=5, max_steps=60, generator=generator)
    order = learnability(tally.solved_rate).argsort(descending=True, stable=True)
    torch.testing.assert_close(kept.solved_rate, tally.solved_rate[order])
    torch.testing.assert_close(kept.levels.as_dict(), levels[order].as_dict())


@pytest.mark.parametrize(("share", "empty"), [(1.0, "env/n_walls"), (0.0, "sfl/n_walls")])
def test_a_batch_may_be_all_kept_or_all_new(share: float, empty: str) -> None:
    report = make_run(**SFL | {"sfl_replay_fraction": share}).run_cycle()
    filled = {"env/n_walls", "sfl/n_walls"} - {empty}
    assert report.stats[empty] is None
    assert all(report.stats[name] is not None for name in filled)


@pytest.mark.parametrize(
    ("num_levels", "fraction", "expected"), [(1, 0.5, 1), (4, 0.5, 2), (5, 0.5, 3), (25, 0.28, 7), (4, 0.0, 0)]
)
def test_a_fraction_of_the_levels_are_kept_ones_rounded_up(num_levels: int, fraction: float, expected: int) -> None:
    run: Any = make_run(**SFL | {"n_parallel": num_levels, "sfl_replay_fraction": fraction})
    student, seen = run.students[0], []
    update = student.update
    student.update = lambda rollout, *rest: (seen.append(rollout.start_levels), update(rollout, *rest))[1]
    run.run_cycle()
    (played,) = seen
    assert len(played) == num_levels
    assert int(same_levels(played, run.kept[0].levels).any(1).sum()) == expected


def test_levels_of_another_size_are_refused() -> None:
    run: Any = make_run(**SFL)
    state = run.state_dict()
    make_run(**SFL | {"maze_width": 7}).load_state_dict(state)  # nothing was searched yet
    run.run_cycle()
    with pytest.raises(ValueError, match="the saved levels consist of"):
        make_run(**SFL | {"maze_width": 7}).load_state_dict(run.state_dict())


def test_statistics_describe_the_kept_levels() -> None:
    run: Any = make_run(**SFL)
    report = run.run_cycle()
    kept = run.kept[0]
    assert report.stats["sfl/learnability"] == pytest.approx(float(kept.learnability.mean()))
    assert report.stats["sfl/solved_rate"] == pytest.approx(float(kept.solved_rate.mean()))
