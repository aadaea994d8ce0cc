from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks import ued_curves, ued_learning, ued_report
from benchmarks.ued_curves import compare, smallest_p, windows_of
from benchmarks.ued_parity import compare_method, first_value
from benchmarks.ued_paused import Slice
from benchmarks.ued_runs import Row, num_updates, read_log
from benchmarks.ued_settings import METHODS, SIZES, training_flags
from benchmarks.ued_speed import WORKLOADS, describe, speed_row
from sample_factory.ued import parse_train_args


def _rows(updates: list[int], values: list[float | None]) -> list[Row]:
    return [{"n_updates": float(n), "return": value} for n, value in zip(updates, values, strict=True)]


def test_windows_leave_out_cycles_without_an_update() -> None:
    updates = [0, *range(1, 11), 10, *range(11, 21), 21]
    values = [99.0, *[1.0] * 10, 99.0, *[3.0] * 10, 99.0]
    assert windows_of(_rows(updates, list(values)), "return", 20).tolist() == [1.0, 3.0]


def test_windows_without_a_value_are_nan() -> None:
    windows = windows_of(_rows(list(range(1, 21)), [*[2.0] * 10, *[None] * 10]), "return", 20)
    assert windows[0] == 2.0 and math.isnan(windows[1])


def test_clearly_different_curves_are_apart_with_the_smallest_p() -> None:
    rng = np.random.default_rng(0)
    here, other = rng.normal(size=(4, 6)), 50 + rng.normal(size=(4, 6))
    found = compare("return", here, other)
    assert found.p == pytest.approx(smallest_p(4, 4)) == pytest.approx(2 / 70)
    assert found.verdict == "apart" and found.gap is not None and found.gap > 10


def test_p_of_equal_programs_is_uniform() -> None:
    """A test that is valid calls equal programs different in a twentieth of the cases, here 2 of 70 divisions."""
    rng = np.random.default_rng(1)
    found = [
        compare("return", rng.normal(size=(4, 5)).cumsum(1), rng.normal(size=(4, 5)).cumsum(1)) for _ in range(200)
    ]
    p = np.array([comparison.p for comparison in found], dtype=float)
    assert abs(p.mean() - 0.5) < 0.08
    assert (p < 0.05).mean() < 0.08


def test_of_many_divisions_some_are_drawn_the_real_one_among_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ued_curves, "MAX_DIVISIONS", 100)
    drawn = list(ued_curves.divisions(8, 8))
    assert len(drawn) == 100 and list(drawn[0]) == list(range(8))
    assert all(len(set(chosen)) == 8 and max(chosen) < 16 for chosen in drawn)
    rng = np.random.default_rng(2)
    noise = rng.normal(size=(60, 16, 5)).cumsum(2)
    p = np.array([compare("return", curves[:8], curves[8:]).p for curves in noise], dtype=float)
    assert abs(p.mean() - 0.5) < 0.12 and p.min() >= 0.01
    assert compare("return", noise[0, :8], 50 + noise[0, 8:]).p == 0.01


def test_few_seeds_give_no_verdict() -> None:
    curves = np.arange(6.0).reshape(3, 2)
    assert compare("return", curves, curves + 100).verdict == "too few seeds to tell"
    assert compare("return", curves[:1], curves).gap is None


def test_first_value_skips_cycles_without_one() -> None:
    assert first_value([_rows([0, 1], [None, 4.0]), _rows([1], [2.0])], "return") == 3.0


def test_logs_are_read_up_to_the_last_whole_row(tmp_path: Path) -> None:
    path = tmp_path / "logs.csv"
    assert read_log(path) == [] and num_updates([]) == 0
    path.write_text("# _tick,n_updates,return\n1,1,0.5\n2,2,\n3,3")
    assert read_log(path) == [
        {"_tick": 1.0, "n_updates": 1.0, "return": 0.5},
        {"_tick": 2.0, "n_updates": 2.0, "return": None},
    ]
    assert num_updates(read_log(path)) == 2


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("method", METHODS)
def test_flags_of_all_methods_are_accepted(method: str, size: str) -> None:
    config = parse_train_args(training_flags(method, size, 7)).config
    assert config.n_total_updates == 7
    assert config.train_runner_args.n_parallel == SIZES[size].num_levels


@pytest.mark.parametrize("name", WORKLOADS)
def test_flags_of_all_speed_workloads_are_accepted(name: str) -> None:
    workload = WORKLOADS[name]
    config = parse_train_args(training_flags(workload.method, "full", 10**6, **workload.flags)).config
    assert config.train_runner_args.n_students == workload.students


@pytest.mark.parametrize("method", ued_learning.SMALL_METHODS)
def test_methods_of_the_small_setting_differ_in_their_curriculum_alone(method: str) -> None:
    base = parse_train_args(training_flags("dr", "small", 9, **ued_learning.small_flags("dr"))).config
    config = parse_train_args(training_flags(method, "small", 9, **ued_learning.small_flags(method))).config
    for group in ("env_args", "student_model_args", "student_rl_args"):
        assert config[group] == base[group]
    assert config.train_runner_args.discount == base.train_runner_args.discount


def test_held_out_mazes_are_always_the_same_and_can_be_solved() -> None:
    one, other = ued_learning.HeldOut.perfect_mazes(), ued_learning.HeldOut.perfect_mazes()
    assert len(one.levels) == ued_learning.NUM_HELD_OUT
    assert (one.levels.wall_map == other.levels.wall_map).all() and (one.levels.goal_pos == other.levels.goal_pos).all()
    lengths = one.env.level_metrics(one.levels)["shortest_path_length"]
    assert int(lengths.min()) >= ued_learning.LEAST_PATH


def test_ratios_of_speed_are_of_pairs() -> None:
    pairs = [(Slice(10, 1.0, 0.5), Slice(5, 1.0, 1.0)), (Slice(10, 2.0, 0.5), Slice(10, 2.0, 2.0))]
    row = speed_row(WORKLOADS["dr"], "1", pairs, 100, "2x")
    assert (row.ratio_min, row.ratio_max, row.extra["cpu_ratio"]) == (1.0, 2.0, 4.0)
    assert row.ours == 750.0
    assert "ratio 1.50 (1.00 to 2.00)" in describe(row)


def test_the_page_holds_every_curve_and_the_reference() -> None:
    rows = {"here": [_dr_rows(seed) for seed in range(4)], "minimax": [_dr_rows(seed) for seed in range(4, 8)]}
    parity = {"size": "full", "window": 10, "methods": {"dr": compare_method("dr", rows, 150)}}
    page = ued_report.page({"parity_full": {**parity, **_CONDITIONS}})
    for text in ("`grad_norm`", "within the spread of seeds", "| 141-150 |", "0.82 +- 0.02", "not trained"):
        assert text in page


_CONDITIONS = {
    "machine": {"cpu": "x", "cores": 1, "memory_gib": 1.0, "python": "3", "versions": {"torch": "2"}},
    "date": "d",
    "commit": "c",
    "command": "m",
}


def _dr_rows(seed: int) -> list[Row]:
    rng = np.random.default_rng(seed)
    columns = ("return", "entropy", "value_loss", "grad_norm", "mean_value")
    return [{"n_updates": float(n), **{name: float(rng.random()) for name in columns}} for n in range(1, 151)]
