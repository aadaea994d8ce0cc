"""Evaluation on known mazes and on the hardest of many random ones."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sample_factory.ued.config.lists import split_names, student_indices
from sample_factory.ued.curricula.cvar import (
    WorstCaseResult,
    WorstCaseSettings,
    evaluate_worst_case,
    solvable_levels,
    worst_case,
)
from sample_factory.ued.curricula.evaluation import Evaluator, make_test_env, play_first_episodes
from sample_factory.ued.curricula.playing import play_episodes
from sample_factory.ued.envs import registration
from sample_factory.ued.envs.registration import make_ued_env
from tests.unit.ued.curricula.maze_runs import configure, make_run
from tests.unit.ued.curricula.scripted import ScriptedModel, UniformModel
from tests.unit.ued.curricula.test_playing import reference_tally, seeded, small_maze


@pytest.mark.parametrize(
    ("text", "expected"),
    [("*", [0, 1, 2]), ('"*"', [0, 1, 2]), (None, [0, 1, 2]), ("1", [1]), ("2, 0", [2, 0])],
)
def test_indices_of_students(text: str | None, expected: list[int]) -> None:
    assert student_indices(text, 3) == expected


def test_no_student_is_named_twice() -> None:
    with pytest.raises(ValueError, match="--agent_idxs=0,0 names a student twice"):
        student_indices("0,0", 2, "--agent_idxs")


@pytest.mark.parametrize("text", ["3", "0,x", "-1"])
def test_students_that_do_not_exist(text: str) -> None:
    with pytest.raises(ValueError, match="test_agent_idxs"):
        student_indices(text, 3)


def test_split_names() -> None:
    assert split_names("a, b,,c") == ["a", "b", "c"]
    assert split_names(None) == []


def test_results_by_column() -> None:
    config = configure(maze_test_see_agent=False)
    run = make_run(n_students=2)
    envs = {name: make_test_env(name, config) for name in ("Maze-SixteenRooms", "Maze-FourRooms")}
    evaluator = Evaluator(envs, num_episodes=2, students="1")
    results = evaluator.run(run.students, seeded(0))
    assert sorted(results) == evaluator.columns(2)
    assert evaluator.columns(2) == [
        "eval/a1:test_return:Maze-FourRooms",
        "eval/a1:test_return:Maze-SixteenRooms",
        "eval/a1:test_solved_rate:Maze-FourRooms",
        "eval/a1:test_solved_rate:Maze-SixteenRooms",
    ]
    assert all(0 <= value <= 1 for value in results.values())
    assert evaluator.run(run.students, seeded(0)) == results


def test_options_of_test_environments() -> None:
    seen, unseen = (make_test_env("Maze-SixteenRooms", configure(maze_test_see_agent=see)) for see in (True, False))
    (with_agent, without) = (
        env.observe(env.reset(env.sample_levels(1, seeded(0)), seeded(0)))["image"] for env in (seen, unseen)
    )
    assert not torch.equal(with_agent, without)
    with pytest.raises(ValueError, match="Maze-Labyrinth"):
        make_test_env("Maze-Labyrint", configure())
    with pytest.raises(ValueError, match="test_n_episodes"):
        Evaluator({}, 0)


def test_an_environment_of_ones_own_needs_no_options_of_mazes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "_ENTRIES", dict(registration._ENTRIES))
    registration.register_ued_env("MyRooms", lambda device="cpu": make_ued_env("Maze-FourRooms", device=device))
    assert make_test_env("MyRooms", configure()).max_episode_steps == 250


def test_no_test_environments_no_results() -> None:
    evaluator = Evaluator({}, 1)
    assert evaluator.columns(1) == [] and evaluator.run(make_run().students, seeded(0)) == {}


def test_only_the_first_episode_counts() -> None:
    env = small_maze()
    student: Any = SimpleNamespace(model=ScriptedModel())
    results = Evaluator({"Maze": env}, 40).run([student], seeded(4))
    levels = env.sample_levels(40, seeded(4))
    returns, solved, counts = reference_tally(env, levels, student.model, 1, env.max_episode_steps)
    assert counts == [1] * 40 and 0 < sum(solved) < 40
    assert results["eval/a0:test_return:Maze"] == pytest.approx(sum(returns) / 40)
    assert results["eval/a0:test_solved_rate:Maze"] == pytest.approx(sum(solved) / 40)


def test_every_copy_counts_once_however_soon_it_is_solved() -> None:
    env = small_maze(n_walls=0, max_episode_steps=60)
    model: Any = UniformModel()
    tally = play_first_episodes(env, model, 50, seeded(0))
    assert tally.num_episodes.tolist() == [1] * 50
    assert 0 < int(tally.num_solved.sum()) < 50


def test_worst_levels_are_chosen_by_one_rate_and_judged_by_another() -> None:
    choosing = torch.tensor([0.5, 0.0, 1.0, 0.1, 0.9, 0.8, 0.7, 0.6, 0.4, 0.3])
    reporting = torch.arange(10.0) / 10
    assert worst_case(choosing, reporting, 0.1) == pytest.approx(0.1)
    assert worst_case(choosing, reporting, 0.25) == pytest.approx((0.1 + 0.3 + 0.9) / 3), "rounded up"
    assert worst_case(choosing, reporting, 0.3) == pytest.approx((0.1 + 0.3 + 0.9) / 3)
    assert worst_case(choosing, reporting, 1.0) == pytest.approx(0.45)


def test_solvable_levels_are_solvable_and_reproducible() -> None:
    env = small_maze(n_walls=14)
    levels = solvable_levels(env, 200, seeded(0))
    assert len(levels) == 200
    assert env.level_metrics(levels)["passable"].all()
    assert not env.level_metrics(env.sample_levels(200, seeded(0)))["passable"].all()
    torch.testing.assert_close(solvable_levels(env, 200, seeded(0)).as_dict(), levels.as_dict())


def test_worst_case_of_a_random_policy() -> None:
    env = small_maze(n_walls=2, max_episode_steps=100)
    model: Any = UniformModel()
    settings = WorstCaseSettings(num_levels=600, num_episodes=8, fractions=(0.5, 0.1), batch_size=250)
    result = evaluate_worst_case(env, model, settings)
    assert 0 < result.worst[0.1] <= result.worst[0.5] <= result.solved_rate < 1
    assert evaluate_worst_case(env, model, settings) == result
    assert evaluate_worst_case(env, model, settings, reporting_seed=2) != result
    with pytest.raises(ValueError, match="differ"):
        evaluate_worst_case(env, model, settings, reporting_seed=0)


def test_levels_that_had_bad_luck_under_one_seed_are_judged_under_the_other() -> None:
    env = small_maze(max_episode_steps=40)
    model: Any = UniformModel()
    settings = WorstCaseSettings(num_levels=300, num_episodes=4, fractions=(0.1,))
    levels = solvable_levels(env, 300, seeded(0))
    choosing, reporting = (
        play_episodes(env, levels, model, num_episodes=4, max_steps=160, generator=seeded(seed)).solved_rate
        for seed in (0, 1)
    )
    worst = choosing.argsort(stable=True)[:30]
    result = evaluate_worst_case(env, model, settings)
    assert result.worst[0.1] == pytest.approx(float(reporting[worst].mean()))
    assert result.solved_rate == pytest.approx(float(reporting.mean()))
    assert result.worst[0.1] > float(choosing[worst].mean()), "bad luck does not repeat itself"


@pytest.mark.parametrize("batch_size", [100, 30])
def test_a_policy_without_luck_is_judged_by_its_own_rates(batch_size: int) -> None:
    env = small_maze()
    model: Any = ScriptedModel()
    settings = WorstCaseSettings(num_levels=100, num_episodes=1, fractions=(0.2, 1.0), batch_size=batch_size)
    result = evaluate_worst_case(env, model, settings)
    levels = solvable_levels(env, 100, seeded(0))
    _, solved, _ = reference_tally(env, levels, model, 1, env.max_episode_steps)
    assert result.solved_rate == result.worst[1.0] == pytest.approx(sum(solved) / 100)
    assert result.worst[0.2] == 0.0


def test_columns_of_the_worst_case() -> None:
    assert WorstCaseResult(0.9, {0.1: 0.5, 0.001: 0.2}).columns(1, "Maze") == {
        "eval/a1:random_solved_rate:Maze": 0.9,
        "eval/a1:worst_10%_solved_rate:Maze": 0.5,
        "eval/a1:worst_0.1%_solved_rate:Maze": 0.2,
    }


@pytest.mark.parametrize(
    "settings", [{"num_levels": 0}, {"num_episodes": 0}, {"batch_size": 0}, {"fractions": (0.5, 0.0)}]
)
def test_settings_of_the_worst_case(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        WorstCaseSettings(**settings)


def test_levels_nobody_can_solve_are_an_error() -> None:
    env = make_ued_env("Maze", height=3, width=3, n_walls=7)
    impossible = [env.sample_levels(64, seeded(i)) for i in range(3)]
    assert not any(env.level_metrics(levels)["passable"].all() for levels in impossible)

    class Walled(type(env)):  # type: ignore[misc]
        def level_metrics(self, levels: Any) -> dict[str, torch.Tensor]:
            return {"passable": torch.zeros(len(levels), dtype=torch.bool)}

    env.__class__ = Walled
    with pytest.raises(ValueError, match="can be solved"):
        solvable_levels(env, 5, seeded(0))
