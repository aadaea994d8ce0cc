"""Every runner on real mazes: what is counted, what is reported, who learns, and exact continuation."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch

from sample_factory.ued.curricula.common import Curriculum, CycleReport, check_carries
from sample_factory.ued.curricula.scores import ScoredRollout, population_scores
from sample_factory.ued.envs.maze.comparator import same_levels
from tests.unit.ued.curricula.maze_runs import ACCEL, PAIRED, REPLAY, RUNS, SFL, configure, make_run

PPO_NAMES = ["actor_loss", "entropy", "grad_norm", "mean_gae", "mean_target", "mean_value", "total_loss", "value_loss"]
LEVEL_NAMES = ["n_walls", "passable_ratio", "shortest_path_length"]
BATCH_STEPS = 4 * 24


def run_cycles(run: Curriculum[Any, Any], count: int) -> list[CycleReport]:
    return [run.run_cycle() for _ in range(count)]


def weights(run: Curriculum[Any, Any]) -> list[torch.Tensor]:
    agents = [*run.students, *([run.agents.teacher] if run.agents.teacher else [])]
    return [parameter.detach().clone() for agent in agents for parameter in agent.model.parameters()]


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


@pytest.mark.parametrize("name", RUNS)
def test_three_cycles_a_checkpoint_and_three_more_equal_six(name: str) -> None:
    whole = make_run(**RUNS[name])
    expected = [report.stats for report in run_cycles(whole, 6)]

    first = make_run(**RUNS[name])
    stats = [report.stats for report in run_cycles(first, 3)]
    resumed = make_run(seed=99, **RUNS[name])
    resumed.load_state_dict(through_a_file(first.state_dict()))
    stats += [report.stats for report in run_cycles(resumed, 3)]

    assert stats == expected
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("name", RUNS)
def test_reports_have_the_announced_columns_and_finite_numbers(name: str) -> None:
    run = make_run(**RUNS[name])
    names = run.stat_names
    assert names == sorted(names) and len(set(names)) == len(names)
    for report in run_cycles(run, 3):
        assert list(report.stats) == names
        values = torch.tensor([value for value in report.stats.values() if value is not None])
        assert values.isfinite().all()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"track_env_metrics": False}, [*PPO_NAMES, "n_updates", "return"]),
        ({}, [*PPO_NAMES, "n_updates", "return", *(f"env/{n}" for n in LEVEL_NAMES)]),
        (
            {"n_students": 2},
            [
                "n_updates",
                *(f"a{i}/{n}" for i in (0, 1) for n in [*PPO_NAMES, "return"]),
                *(f"env/{n}_a{i}" for n in LEVEL_NAMES for i in (0, 1)),
            ],
        ),
        (
            REPLAY,
            [
                *PPO_NAMES,
                "n_updates",
                "return",
                *(f"{group}/{n}" for group in ("env", "plr") for n in LEVEL_NAMES),
                *(f"plr/weighted_{n}" for n in ("age", "n_mutations", "ued_score")),
            ],
        ),
        (
            PAIRED,
            [
                "n_updates",
                *(f"{n}_{who}" for n in [*PPO_NAMES, "mean_return"] for who in ("a0", "a1", "tch")),
                *(f"env/{n}" for n in LEVEL_NAMES),
            ],
        ),
        (
            SFL | {"track_env_metrics": False},
            [*PPO_NAMES, "n_updates", "return", "sfl/learnability", "sfl/solved_rate"],
        ),
    ],
)
def test_names_of_columns(flags: dict[str, Any], expected: list[str]) -> None:
    assert make_run(**flags).stat_names == sorted(expected)


@pytest.mark.parametrize(
    ("flags", "env_steps", "teacher_steps"),
    [
        ({}, BATCH_STEPS, 0),
        ({"n_students": 2, "n_eval": 3}, 6 * BATCH_STEPS, 0),
        (REPLAY | {"n_eval": 2}, 2 * BATCH_STEPS, 0),
        (REPLAY | {"plr_use_parallel_eval": True}, 2 * BATCH_STEPS, 0),
        (ACCEL | {"plr_use_parallel_eval": True}, 3 * BATCH_STEPS, 0),
        (PAIRED | {"n_eval": 2}, 4 * BATCH_STEPS, 4 * 6),
        (SFL, BATCH_STEPS, 0),
    ],
)
def test_steps_are_counted_by_purpose(flags: dict[str, Any], env_steps: int, teacher_steps: int) -> None:
    for report in run_cycles(make_run(**flags), 3):
        assert report.env_steps == env_steps
        assert report.teacher_steps == teacher_steps


@pytest.mark.parametrize("name", ["dr", "plr", "paired", "sfl"])
def test_every_cycle_updates_everyone_once(name: str) -> None:
    run = make_run(**RUNS[name])
    before = weights(run)
    reports = run_cycles(run, 2)
    assert [report.stats["n_updates"] for report in reports] == [1, 2]
    assert all(agent.n_updates == 2 for agent in run.students)
    assert run.agents.teacher is None or run.agents.teacher.n_updates == 2
    assert all(not torch.equal(a, b) for a, b in zip(before, weights(run), strict=True) if a.requires_grad)


def test_robust_replay_learns_on_replay_cycles_only() -> None:
    run = make_run(**REPLAY)
    previous = 0
    kinds = set()
    for report in run_cycles(run, 12):
        is_replay = report.stats["plr/n_walls"] is not None
        kinds.add(is_replay)
        assert (report.stats["env/n_walls"] is None) == is_replay
        assert (report.stats["total_loss"] is not None) == is_replay
        assert report.stats["n_updates"] == previous + is_replay
        previous += is_replay
        assert report.stats["return"] is not None
    assert kinds == {True, False}


def test_replay_waits_for_a_filled_buffer() -> None:
    run = make_run(**REPLAY | {"plr_replay_prob": 1.0, "plr_buffer_size": 8, "plr_min_fill_ratio": 1.0})
    updates = [report.stats["n_updates"] for report in run_cycles(run, 4)]
    assert run.buffers[0].size == 8
    assert updates == [0, 0, 1, 2], "two cycles of four levels fill the buffer"


def test_parallel_replay_reports_new_and_replayed_levels_in_every_cycle() -> None:
    run = make_run(**REPLAY | {"plr_use_parallel_eval": True})
    reports = run_cycles(run, 3)
    assert all(r.stats["env/n_walls"] is not None and r.stats["plr/n_walls"] is not None for r in reports)
    assert [r.stats["n_updates"] for r in reports] == [0, 1, 2]


def test_mutation_steps_follow_replay_cycles() -> None:
    run = make_run(**ACCEL)
    reports = run_cycles(run, 12)
    for report in reports:
        is_replay = report.stats["plr/n_walls"] is not None
        assert report.mutation_steps == (BATCH_STEPS if is_replay else 0)
    assert any(report.mutation_steps for report in reports)
    assert run.buffers[0].num_mutations.max() > 0


def test_mutants_are_played_by_the_updated_student() -> None:
    run: Any = make_run(**ACCEL | {"plr_replay_prob": 1.0, "plr_buffer_size": 4, "plr_min_fill_ratio": 0.3})
    run_cycles(run, 2)
    assert run.buffers[0].is_warm
    events = []
    play, update = run._play, run.students[0].update
    run._play = lambda *args: (events.append("play"), play(*args))[1]
    run.students[0].update = lambda *args: (events.append("update"), update(*args))[1]
    run.run_cycle()
    assert events == ["play", "update", "play"]


@pytest.mark.parametrize("more", [{}, {"plr_use_parallel_eval": True}, {"n_eval": 2, "plr_use_parallel_eval": True}])
def test_students_learn_from_stored_levels_only_and_start_where_those_start(more: dict[str, Any]) -> None:
    run: Any = make_run(**ACCEL | more | {"plr_replay_prob": 1.0})
    seen = []
    update = run.students[0].update
    run.students[0].update = lambda rollout, *rest: (seen.append(rollout), update(rollout, *rest))[1]
    while not run.buffers[0].is_warm:
        run.run_cycle()
    stored = run.buffers[0].stored().clone()
    seen.clear()
    run.run_cycle()
    (rollout,) = seen
    copies = more.get("n_eval", 1)
    assert rollout.num_envs == 4 * copies
    assert same_levels(rollout.start_levels, stored).any(1).all()
    first, second = rollout.start_levels[0], rollout.start_levels[1]
    assert copies == 1 or torch.equal(first.wall_map, second.wall_map)


def test_minimax_settings_of_the_buffer() -> None:
    plain: Any = make_run(**REPLAY)
    minimax: Any = make_run(**REPLAY | {"ued_compat": "minimax"})
    assert (plain.replay.buffer.refresh_age, plain.replay.buffer.uniform_fallback) == (True, True)
    assert (minimax.replay.buffer.refresh_age, minimax.replay.buffer.uniform_fallback) == (False, False)


def test_parallel_runs_mutate_the_whole_batch() -> None:
    flags = ACCEL | {"plr_mutation_criterion": "easy", "plr_mutation_subsample_size": 2}
    sequential: Any = make_run(**flags)
    parallel: Any = make_run(**flags | {"plr_use_parallel_eval": True})
    assert (sequential.replay.mutation.criterion, parallel.replay.mutation.criterion) == ("easy", "batch")
    assert parallel.replay.replay_prob == 1.0


@pytest.mark.parametrize("flags", [ACCEL, ACCEL | {"plr_use_parallel_eval": True}])
def test_unique_buffers_hold_every_level_once(flags: dict[str, Any]) -> None:
    run = make_run(**flags | {"maze_n_walls": 0, "plr_buffer_size": 30, "plr_min_fill_ratio": 0.1})
    run_cycles(run, 12)
    levels = run.buffers[0].stored()
    rows = torch.cat([tensor.reshape(len(levels), -1).long() for tensor in levels.as_dict().values()], dim=1)
    assert len(rows.unique(dim=0)) == len(rows) > 10


def test_students_of_a_population_have_buffers_of_their_own() -> None:
    run = make_run(**REPLAY | {"n_students": 2})
    run_cycles(run, 8)
    one, two = run.buffers
    assert one.size and two.size
    assert not torch.equal(one.stored().wall_map[:4], two.stored().wall_map[:4])
    assert {student.n_updates for student in run.students} != {0}


def test_all_processes_can_agree_on_replay() -> None:
    run: Any = make_run(**REPLAY | {"plr_replay_prob": 1.0})
    asked = []

    def never(wanted: list[bool], warm: list[bool]) -> list[bool]:
        asked.append((wanted, warm))
        return [False for _ in wanted]

    run.agree_on_replay = never
    reports = run_cycles(run, 3)
    assert [report.stats["n_updates"] for report in reports] == [0, 0, 0]
    assert asked[0] == ([True], [False]) and asked[2] == ([True], [True])


@pytest.mark.parametrize(("more", "num_stored"), [({}, 4), ({"n_eval": 2}, 4), ({"plr_use_parallel_eval": True}, 8)])
def test_stored_levels_age_by_the_levels_of_a_cycle_without_replay(more: dict[str, Any], num_stored: int) -> None:
    run: Any = make_run(**REPLAY | more | {"plr_buffer_size": 24})
    run.agree_on_replay = lambda wanted, warm: [False]
    buffer = run.buffers[0]
    for ages in ([0], [4, 0], [8, 4, 0]):
        run.run_cycle()
        assert buffer.ages[: buffer.size].tolist() == [age for age in ages for _ in range(num_stored)]


@pytest.mark.parametrize("name", ["paired", "paired with copies", "population paired", "minimax adversary"])
def test_the_teacher_earns_the_scores_of_its_levels_at_the_end(name: str) -> None:
    run: Any = make_run(**RUNS[name] | {"n_parallel": 16})
    played: list[ScoredRollout] = []
    earned: list[torch.Tensor] = []
    train_student, advantages = run._train_student, run._teacher.advantages

    def record_played(*args: Any) -> Any:
        scored, stats = train_student(*args)
        played.append(scored)
        return scored, stats

    run._train_student = record_played
    run._teacher.advantages = lambda built: (earned.append(built.rewards.clone()), advantages(built))[1]
    scores = []
    for _ in range(3):
        played.clear()
        earned.clear()
        report = run.run_cycle()
        assert len(played) == len(run.students)
        (rewards,) = earned
        scores.append(population_scores(run.score, played))
        assert torch.equal(rewards[-1], scores[-1])
        assert not rewards[:-1].any()
        assert report.stats["mean_return_tch"] == pytest.approx(scores[-1].mean().item())
    assert len(torch.cat(scores).unique()) > 3, "equal scores would prove nothing"


@pytest.mark.parametrize("minimax", [False, True])
@pytest.mark.parametrize("flags", [{}, PAIRED])
def test_carries_survive_a_cycle_only_for_minimax(flags: dict[str, Any], minimax: bool) -> None:
    run: Any = make_run(**flags | {"ued_compat": "minimax" if minimax else "none"})
    run.run_cycle()
    state = run.state_dict()["curriculum"]
    carries = [*state["carries"], *([state["teacher_carry"]] if "teacher_carry" in state else [])]
    assert len(carries) == (4 - 1 if flags else 1)
    for carry in carries:
        assert (carry is not None) == minimax
        assert carry is None or any(part.abs().sum() > 0 for part in carry)


def test_saved_carries_have_to_fit_the_batch() -> None:
    carry = (torch.zeros(4, 8), torch.zeros(4, 8))
    check_carries([], 4)
    check_carries([None, (), carry], 4)
    with pytest.raises(ValueError, match="those of 4 environments, this run has 3; resume with the same --n_parallel"):
        check_carries([None, (), carry], 3)


def test_kept_levels_are_renewed_by_number_of_updates() -> None:
    run = make_run(**SFL | {"sfl_refresh_interval": 2})
    reports = run_cycles(run, 5)
    assert [report.scan_steps > 0 for report in reports] == [True, False, True, False, True]


def test_the_level_metrics_of_a_teacher_report_the_longest_path() -> None:
    run = make_run(**PAIRED)
    for report in run_cycles(run, 3):
        longest = report.stats["env/shortest_path_length"]
        assert longest is not None and longest == int(longest)


def test_checkpoints_of_other_runs_are_refused() -> None:
    state = make_run().state_dict()
    with pytest.raises(ValueError, match="n_students"):
        make_run(n_students=2).load_state_dict(state)
    with pytest.raises(ValueError, match="train_runner"):
        make_run(**REPLAY).load_state_dict(state)
    for flags in (REPLAY, SFL):
        run = make_run(**flags)
        run.run_cycle()
        with pytest.raises(ValueError, match="resume with the same sizes"):
            make_run(**flags, maze_height=7).load_state_dict(run.state_dict())


@pytest.mark.parametrize(
    ("saved", "flags", "message"),
    [
        ({}, {"n_parallel": 2}, "of 4 environments, this run has 2"),
        ({}, {"n_eval": 2}, "of 4 environments, this run has 8"),
        (PAIRED, {"n_parallel": 2}, "of 4 environments, this run has 2"),
        # As many environments of students, but half as many of the teacher.
        (PAIRED, {"n_parallel": 2, "n_eval": 2}, "of 4 environments, this run has 2"),
    ],
)
def test_carries_of_other_batches_are_refused(saved: dict[str, Any], flags: dict[str, Any], message: str) -> None:
    minimax = saved | {"ued_compat": "minimax"}
    run = make_run(**minimax)
    run.run_cycle()
    with pytest.raises(ValueError, match=message):
        make_run(**minimax | flags).load_state_dict(run.state_dict())


@pytest.mark.parametrize("flags", [{}, PAIRED])
def test_without_carries_the_batch_may_change(flags: dict[str, Any]) -> None:
    run, resumed = make_run(**flags), make_run(**flags | {"n_parallel": 2})
    run.run_cycle()
    resumed.load_state_dict(run.state_dict())
    assert resumed.run_cycle().stats["n_updates"] == 2


@pytest.mark.parametrize("flags", [{}, PAIRED])
def test_carries_of_minimax_end_with_its_settings(flags: dict[str, Any]) -> None:
    run, resumed = make_run(**flags | {"ued_compat": "minimax"}), make_run(**flags)
    run.run_cycle()
    resumed.load_state_dict(run.state_dict())
    assert resumed.state_dict()["curriculum"] == make_run(**flags).state_dict()["curriculum"]


@pytest.mark.parametrize(
    ("flags", "flag"),
    [
        (REPLAY | {"ued_score": "relative_regret"}, "ued_score"),
        (REPLAY | {"plr_use_score_ranks": False}, "plr_use_score_ranks"),
        (ACCEL | {"plr_n_mutations": 0}, "plr_n_mutations"),
        (ACCEL | {"plr_mutation_criterion": "easy", "plr_mutation_subsample_size": 3}, "plr_mutation_subsample_size"),
        (PAIRED | {"n_students": 3}, "n_students"),
        (PAIRED | {"ued_score": "max_mc"}, "ued_score"),
        (SFL | {"sfl_buffer_size": 41}, "sfl_buffer_size"),
    ],
)
def test_contradictions_are_refused(flags: dict[str, Any], flag: str) -> None:
    with pytest.raises(ValueError, match=flag):
        make_run(**flags)


def test_levels_are_split_over_processes() -> None:
    run = make_run(n_devices=2)
    assert run.settings.num_levels == 2
    assert configure(n_devices=2).train_runner_args.n_parallel == 4
