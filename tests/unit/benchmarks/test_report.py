"""The page of the throughput benchmarks, from results in the common format."""

from __future__ import annotations

import pytest

from benchmarks.learner_step import result_row
from benchmarks.report import main, page
from benchmarks.report_figures import draw_figures
from benchmarks.results_io import REPOSITORY, Row, paired_row, portable, read_results, write_result

WORKLOAD_EXTRA = {
    "workload": "W1",
    "description": "CartPole",
    "cpu_ratio": 4.25,
    "pss_ratio": 1.5,
    "policy_lag_ours": 1.0,
    "policy_lag_original": None,
    "reward_ours": 200.0,
    "reward_original": 190.0,
}
LIMIT_EXTRA = {
    "limit_env_cpu_us": 3.8,
    "limit_forward_us": 1.0,
    "limit_learn_us": 1.0,
    "limit": 300000.0,
    "fraction_ours": 0.4,
    "fraction_original": 0.05,
    "simulation_fraction_ours": 0.3,
    "asked_fraction": 0.4,
    "useful_cpu_ours": 0.55,
}


def write_everything(folder):
    row = paired_row("W1", [160000.0, 170000.0], [20000.0, 20000.0], "frames/s", asked="8x")
    row.extra = WORKLOAD_EXTRA | LIMIT_EXTRA
    write_result("W1", [row], folder)
    without_limit = paired_row("W1s", [50000.0], [20000.0], "frames/s", extra=WORKLOAD_EXTRA)
    write_result("W1s", [without_limit], folder)
    peer = paired_row("W1 / a peer", [160000.0], [80000.0], "frames/s", asked="2.5x", extra={"cpu_ratio": 1.25})
    write_result("peers", [peer], folder)
    points = [
        Row(f"p{n}", 1000.0 * n, "frames/s", extra={"workload": "W1", "axis": "num_workers", "value": n})
        for n in (1, 2)
    ]
    write_result("scaling", points, folder)
    write_result("startup", [Row("16 workers", 12.5, "s", 50.0, 4.0, 3.5, 4.5, "4x")], folder)
    write_result("something_new", [Row("a thing", 7.0, "MiB")], folder)


def test_the_page_shows_every_result(tmp_path):
    write_everything(tmp_path)
    text = page(read_results(tmp_path))
    assert "| W1 | CartPole | 20,000 | 165,000 | **8.25x** (8.00 - 8.50) | 8x | 4.25x | 1.50x |" in text
    assert "| W1 | 3.8 us | 1 us | 1 us | 300,000 | 40% | 5% | 40% |  | 55% |" in text
    assert "| W1 / a peer | 80,000 | 160,000 | **2.00x** (2.00 - 2.00) | 2.5x | 1.25x |" in text
    assert "| 16 workers | 50 | 12.5 | s | **4.00x** (3.50 - 4.50) | 4x |" in text
    assert "| p2 | 2,000 |" in text
    assert "## Something new" in text and "| a thing |  | 7 | MiB |  |  |" in text
    assert "| W1 | 1.0 | - | 200.0 | 190.0 |" in text
    assert "![" not in text


def test_figures_are_shown_where_they_belong(tmp_path):
    write_everything(tmp_path)
    text = page(read_results(tmp_path), ["throughput_ratios.png"])
    assert "## Next to the original\n\n![Next to the original](throughput_ratios.png)" in text
    assert text.count("![") == 1


def test_every_figure_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    write_everything(tmp_path)
    figures = draw_figures(read_results(tmp_path), tmp_path / "docs")
    assert figures == [f"throughput_{kind}.png" for kind in ("ratios", "limits", "peers", "scaling")]
    assert all((tmp_path / "docs" / name).stat().st_size > 1000 for name in figures)
    assert draw_figures({}, tmp_path / "docs") == []


def test_other_numbers_of_threads_stand_with_the_workloads(tmp_path):
    row = paired_row("W1, OMP_NUM_THREADS unset", [3.0], [1.0], "frames/s", extra=WORKLOAD_EXTRA)
    write_result("W1_threads", [row], tmp_path)
    text = page(read_results(tmp_path))
    assert "| W1, OMP_NUM_THREADS unset | CartPole | 1 | 3 | **3.00x**" in text
    assert text.count("OMP_NUM_THREADS unset |") == 2  # speed, and equal work


def test_the_page_without_results(tmp_path):
    assert main([f"--results={tmp_path}", f"--out={tmp_path / 'docs'}", "--no_figures"]) == 0
    assert "No results yet" in (tmp_path / "docs" / "throughput.md").read_text()


def test_learner_steps_become_rows():
    millis = {"ours": {"median": 2.0}, "original": {"median": 5.0}}
    ratio = {"median": 2.5, "min": 2.0, "max": 3.0}
    result = {"workload": "gru_512_vtrace_epochs4", "omp_num_threads": None, "ms_per_step": millis, "ratio": ratio}
    row = result_row(result)
    assert (row.label, row.asked) == ("gru_512_vtrace_epochs4, default threads", "1.3x")
    assert (row.ours, row.original, row.ratio_median, row.ratio_min, row.ratio_max) == (2.0, 5.0, 2.5, 2.0, 3.0)


def test_recorded_commands_do_not_name_folders_of_one_machine():
    assert portable(f"--original={REPOSITORY}/.venv-sf2/bin/python") == "--original=.venv-sf2/bin/python"
    assert portable("--peers_python=/somewhere/else/.venv-x/bin/python") == "--peers_python=.venv-x/bin/python"
    assert [portable(word) for word in ("--pairs=3", "W1", "--save")] == ["--pairs=3", "W1", "--save"]
