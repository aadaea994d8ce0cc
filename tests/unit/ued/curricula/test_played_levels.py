"""Which levels the runners play: at the start, when an episode ends, and for whom."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from sample_factory.ued.curricula.common import CycleReport
from sample_factory.ued.curricula.level_metrics import summarise
from sample_factory.ued.curricula.plr import replay_if_warm
from sample_factory.ued.envs.maze.comparator import same_levels
from sample_factory.ued.envs.maze.level import MazeLevels
from tests.unit.ued.curricula.maze_runs import ACCEL, PAIRED, REPLAY, RUNS, SFL, make_run

# Rollouts of 24 steps see the end of one episode, at the latest after 12 steps.


class Played:
    """Start levels of every rollout, and the levels its environments are on after the last step."""

    def __init__(self, runner: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.starts: list[MazeLevels] = []
        self.ends: list[MazeLevels] = []
        module = importlib.import_module(f"sample_factory.ued.curricula.{runner}")
        collect = module.collect_rollout

        def recording(env: Any, state: Any, *args: Any, **kwargs: Any) -> Any:
            rollout = collect(env, state, *args, **kwargs)
            assert rollout.dones.any(0).all()
            self.starts.append(rollout.start_levels)
            self.ends.append(env.levels_of(state))
            return rollout

        monkeypatch.setattr(module, "collect_rollout", recording)


def are_same(levels: MazeLevels, others: MazeLevels) -> list[bool]:
    """Row by row."""
    return same_levels(levels, others).diagonal().tolist()


def test_domain_randomisation_goes_on_with_new_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    played = Played("dr", monkeypatch)
    run: Any = make_run(n_eval=2)
    for _ in range(3):
        run.run_cycle()
    for starts, ends in zip(played.starts, played.ends, strict=True):
        assert not any(are_same(starts, ends))
        # copies start on the same level, and go on with levels of their own
        assert are_same(starts[::2], starts[1::2]) == [True] * 4
        assert not any(are_same(ends[::2], ends[1::2]))


@pytest.mark.parametrize(
    "name", ["robust plr", "parallel accel", "paired with copies", "sfl of two students with copies"]
)
def test_other_runners_begin_again_on_the_same_level(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = RUNS[name]
    played = Played(flags["train_runner"], monkeypatch)
    run = make_run(**flags)
    for _ in range(4):
        run.run_cycle()
    assert len(played.starts) >= 4
    for starts, ends in zip(played.starts, played.ends, strict=True):
        assert all(are_same(starts, ends))


def test_metrics_of_domain_randomisation_are_those_of_the_first_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    played = Played("dr", monkeypatch)
    run = make_run(n_parallel=8, maze_sample_n_walls=True)
    for _ in range(3):
        stats = run.run_cycle().stats
        expected = summarise(run.env.level_metrics(played.starts[-1]))
        assert {name: stats[f"env/{name}"] for name in expected} == expected


@pytest.mark.parametrize("copies", [1, 3])
def test_every_student_plays_copies_of_the_levels_of_the_teacher(copies: int, monkeypatch: pytest.MonkeyPatch) -> None:
    played = Played("paired", monkeypatch)
    run: Any = make_run(**PAIRED | {"n_students": 3, "ued_score": "population_regret", "n_eval": copies})
    built = []
    decode = run.teacher_env.decode
    monkeypatch.setattr(run.teacher_env, "decode", lambda state: (built.append(decode(state)), built[-1])[1])
    run.run_cycle()
    levels = built[-1]
    assert len(levels) == 4 and len(played.starts) == 3
    assert not same_levels(levels, levels).all(), "equal levels would prove nothing"
    for starts in played.starts:
        assert are_same(starts, levels.repeat_interleave(copies)) == [True] * 4 * copies


def test_students_replay_if_they_want_to_and_can() -> None:
    assert replay_if_warm([True, True, False, False], [True, False, True, False]) == [True, False, False, False]


@pytest.mark.parametrize("probability", [0.0, 0.3, 0.8, 1.0])
def test_warm_buffers_are_replayed_with_the_probability(probability: float) -> None:
    run: Any = make_run(**REPLAY | {"plr_replay_prob": probability, "plr_use_robust_plr": False})
    while not run.buffers[0].is_warm:
        run.run_cycle()
    decisions: list[bool] = []
    run._run_student = lambda index, is_replay: (decisions.append(is_replay), CycleReport({}, 0))[1]
    for _ in range(1000):
        run.run_cycle()
    assert sum(decisions) / 1000 == pytest.approx(probability, abs=0.04 if 0 < probability < 1 else 0.0)


@pytest.mark.parametrize(
    ("robust", "parallel", "updates"),
    [
        (True, False, [0, 0, 0]),
        (False, False, [1, 2, 3]),
        (True, True, [0, 0, 0]),
        (False, True, [1, 2, 3]),
    ],
)
def test_only_robust_replay_waits_for_the_buffer(robust: bool, parallel: bool, updates: list[int]) -> None:
    flags = REPLAY | {"plr_use_robust_plr": robust, "plr_use_parallel_eval": parallel, "plr_buffer_size": 100}
    run = make_run(**flags | {"plr_min_fill_ratio": 1.0})
    assert [run.run_cycle().stats["n_updates"] for _ in range(3)] == updates


@pytest.mark.parametrize("parallel", [False, True])
def test_stored_mutants_are_one_edit_away_from_a_stored_level_and_count_it(parallel: bool) -> None:
    flags = ACCEL | {"plr_use_parallel_eval": parallel, "plr_replay_prob": 1.0, "plr_n_mutations": 1}
    run: Any = make_run(**flags | {"plr_buffer_size": 60, "plr_min_fill_ratio": 0.05})
    buffer = run.buffers[0]
    seen_mutants = 0
    for _ in range(6):
        before, counts = buffer.stored().clone(), buffer.num_mutations[: buffer.size].copy()
        run.run_cycle()
        new = slice(len(before), buffer.size)
        mutations = buffer.num_mutations[new].tolist()
        for level, number in zip(range(new.start, new.stop), mutations, strict=True):
            if number == 0:
                continue
            seen_mutants += 1
            mutant = buffer.levels[level : level + 1]
            edits = (mutant.wall_map != before.wall_map).flatten(1).sum(1) + (mutant.goal_pos != before.goal_pos).any(1)
            related = (edits <= 1) & (mutant.agent_pos == before.agent_pos).all(1)
            assert number - 1 in counts[related.numpy()]
    assert seen_mutants > 5


def test_kept_levels_are_drawn_uniformly(monkeypatch: pytest.MonkeyPatch) -> None:
    played = Played("sfl", monkeypatch)
    run: Any = make_run(**SFL | {"n_parallel": 1600, "sfl_replay_fraction": 1.0, "track_env_metrics": False})
    run.run_cycle()
    kept = run.kept[0].levels
    same = same_levels(played.starts[0], kept)
    assert same.any(1).all()
    # equal levels cannot be told apart: the first one stands for all of them
    expected = same_levels(kept, kept).int().argmax(1).bincount(minlength=8) / 8
    drawn = same.int().argmax(1).bincount(minlength=8) / 1600
    assert drawn.tolist() == pytest.approx(expected.tolist(), abs=0.03)
