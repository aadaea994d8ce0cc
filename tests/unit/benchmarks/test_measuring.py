"""From console lines to frames per second."""

from __future__ import annotations

import fcntl
import math
import sys

import pytest

from benchmarks import compare, scaling
from benchmarks.measuring import MachineLock, Report, TooFewReports, evaluate, measure, parse_frames, parse_reward
from benchmarks.results_io import Row, paired_row, read_results, write_result
from sample_factory.monitoring.console_lines import fps_line, reward_line
from sample_factory.monitoring.snapshot import PolicyLag

# As the original prints them, colours included.
ORIGINAL_LINE = (
    "\x1b[36m[2026-01-01 19:19:02,169][06614] Fps is (10 sec: nan, 60 sec: nan, 300 sec: nan). Total num frames: "
    "54272. Throughput: 0: nan. Samples: 36928. Policy #0 lag: (min: 0.0, avg: 0.4, max: 1.0)\x1b[0m"
)
ORIGINAL_REWARD = "\x1b[36m[2026-01-01 19:19:02,169][06614] Avg episode reward: [(0, '100.000')]\x1b[0m"


def report(time_sec: float, frames: int, lag: float = 1.0, cpu_sec: float = 0.0, pss_mib: float = 10.0) -> Report:
    return Report(time_sec, frames, lag, cpu_sec, pss_mib)


def test_runs_without_a_result_are_refused_before_they_begin(capsys):
    for main in (compare.main, scaling.main):
        with pytest.raises(SystemExit, match="2"):
            main([f"--original={sys.executable}", "--seconds=5"])
        assert (
            "--seconds: 5 is too short: programs report every five seconds; give 20 or more" in capsys.readouterr().err
        )


def test_lines_of_both_programs_are_understood():
    ours = fps_line([(10.0, 100.0)], 2048, {0: 5.0}, 4096, PolicyLag(0.0, 1.5, 3.0))
    assert parse_frames(ours) == (2048, 1.5)
    assert parse_frames(ORIGINAL_LINE) == (54272, 0.4)
    assert parse_frames("Collected {0: 2048}, FPS: 12.0") is None


def test_a_lag_that_is_not_known_yet_does_not_hide_the_frames():
    line = fps_line([(10.0, math.nan)], 1024, {0: math.nan}, 0, PolicyLag(-1.0, math.nan, -1.0))
    parsed = parse_frames(line)
    assert parsed is not None and parsed[0] == 1024 and math.isnan(parsed[1])


def test_rewards_are_averaged_over_policies():
    assert parse_reward(reward_line({0: 23.5, 1: -24.5})) == pytest.approx(-0.5)
    assert parse_reward(ORIGINAL_REWARD) == 100.0
    assert parse_reward("Avg episode reward: []") is None
    assert parse_reward(ORIGINAL_LINE) is None


def test_steady_state_begins_after_a_quarter_of_the_run_counted_from_the_first_frames():
    reports = [
        report(5.0, 0, lag=-1.0),
        report(10.0, 1000, lag=9.0, cpu_sec=7.0),  # the run begins here: a quarter of 20 seconds does not count
        report(15.0, 2000, lag=1.0, cpu_sec=10.0, pss_mib=50.0),
        report(20.0, 7000, lag=2.0, cpu_sec=14.0),
        report(25.0, 12000, lag=3.0, cpu_sec=20.0),
    ]
    run = evaluate(reports, 20.0, 30.0)
    assert run is not None
    assert run.frames_per_sec == pytest.approx(10000 / 10)
    assert run.cpu_sec_per_million == pytest.approx(10.0 / 10000 * 1e6)
    assert run.cores_busy == pytest.approx(1.0)
    assert run.policy_lag == pytest.approx(2.0)
    assert (run.peak_pss_mib, run.reward, run.num_reports, run.num_frames) == (50.0, 30.0, 3, 10000)


def test_lags_that_are_unknown_do_not_count():
    run = evaluate(
        [report(0.0, 1), report(10.0, 2, lag=-1.0), report(15.0, 3, lag=math.nan), report(20.0, 4, 6.0)], 20, 0.0
    )
    assert run is not None and run.policy_lag == 6.0


@pytest.mark.parametrize(
    "reports",
    [
        [],
        [report(5.0, 0), report(10.0, 0)],
        [report(0.0, 5), report(20.0, 9)],
        [report(0.0, 5), report(10.0, 9), report(15.0, 9)],
    ],
    ids=["none", "no frames", "one in steady state", "no progress"],
)
def test_too_little_is_no_measurement(reports):
    assert evaluate(reports, 20.0, None) is None


def test_a_program_that_dies_is_reported_with_its_last_words(tmp_path):
    command = [sys.executable, "-c", "print('the reason'); raise SystemExit(3)"]
    with pytest.raises(TooFewReports, match="the reason"):
        measure(command, 10.0, str(tmp_path), {})


def test_ratios_are_those_of_neighbours_and_larger_is_better():
    row = paired_row("x", [20.0, 90.0, 40.0], [10.0, 30.0, 40.0], "frames/s", asked="2x")
    assert (row.ours, row.original) == (40.0, 30.0)
    assert (row.ratio_median, row.ratio_min, row.ratio_max) == (2.0, 1.0, 3.0)
    cost = paired_row("y", [1.0, 2.0], [4.0, 4.0], "s", lower_is_better=True)
    assert (cost.ratio_median, cost.ratio_min, cost.ratio_max) == (3.0, 2.0, 4.0)
    with pytest.raises(ValueError, match="no pairs"):
        paired_row("z", [1.0], [], "s")


def test_results_are_read_as_they_were_written(tmp_path):
    write_result("some", [Row("a", 1.0, "s", extra={"depth": 3})], tmp_path, command="python -m x", runs=[1, 2])
    result = read_results(tmp_path)["some"]
    assert result["rows"] == [
        {
            "label": "a",
            "ours": 1.0,
            "unit": "s",
            "original": None,
            "ratio_median": None,
            "ratio_min": None,
            "ratio_max": None,
            "asked": None,
            "depth": 3,
        }
    ]
    assert result["command"] == "python -m x" and result["runs"] == [1, 2]
    assert result["machine"]["cores"] >= 1 and "torch" in result["machine"]["versions"]


def is_locked(path) -> bool:
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def test_the_machine_is_kept_between_runs_that_belong_together(tmp_path, monkeypatch):
    path = str(tmp_path / "lock")
    lock = MachineLock(path)
    with lock:
        assert is_locked(path)
    assert is_locked(path)
    monkeypatch.setattr(MachineLock, "KEEP_SEC", -1.0)
    with lock:
        assert is_locked(path)
    assert not is_locked(path)
    with MachineLock(None):
        assert not is_locked(path)
