"""The workloads are valid, their environments follow the conventions, and each program gets its own package."""

from __future__ import annotations

import argparse
import importlib.util
import os

import numpy as np
import pytest
import torch

from benchmarks.compare import Pairs, Side, interpreter, summary
from benchmarks.envs import (
    ENV_NAMES,
    EPISODE_LENGTH,
    LOGNORMAL_BOUNDS_SEC,
    SLEEP_SEC,
    BatchedZeroCost,
    make_env,
    sleep_durations,
)
from benchmarks.limits import Limits, Probe, combine, num_agents_per_process
from benchmarks.measuring import Measurement
from benchmarks.peers import peer_rows
from benchmarks.results_io import REPOSITORY
from benchmarks.scaling import AXES, Point, points
from benchmarks.workloads import EVERY_WORKLOAD, GPU_WORKLOADS, WORKLOADS, workload_names
from sample_factory.cfg.arguments import parse_full_cfg, parse_sf_args
from sample_factory.cfg.validation import collect_problems

# Pong needs ale-py, which is optional.
INSTALLED = [
    name
    for name in ENV_NAMES
    if (name != "bench_pong" or importlib.util.find_spec("ale_py"))
    and ("cuda" not in name or torch.cuda.is_available())
]


def parse(argv):
    parser, _ = parse_sf_args(argv)
    return parse_full_cfg(parser, argv)


@pytest.mark.parametrize("workload", list(EVERY_WORKLOAD.values()), ids=lambda workload: workload.name)
def test_flags_are_valid_and_the_environment_exists(workload, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # as on the machine that GPU workloads are for
    cfg = parse([*workload.arguments, "--experiment=e"])
    assert collect_problems(cfg) == []
    assert workload.env in ENV_NAMES
    assert (REPOSITORY / "benchmarks" / workload.script).is_file()
    assert workload.flag("num_workers", "-") == str(cfg.num_workers)


@pytest.mark.parametrize("point", list(points(["W1", "W1z_vector"])), ids=lambda point: point.label)
def test_flags_of_every_point_of_the_scaling_curves_are_valid(point):
    cfg = parse([*point.changed().arguments, "--experiment=e"])
    assert collect_problems(cfg) == []
    assert getattr(cfg, point.axis) == point.value and point.value in AXES[point.axis]


def test_a_changed_point_leaves_the_workload_alone():
    before = WORKLOADS["W1"].flags
    assert Point("W1", "num_workers", 4).changed().flags != before
    assert WORKLOADS["W1"].flags == before


def test_all_stands_for_every_workload():
    assert workload_names(["all"]) == list(WORKLOADS)
    assert workload_names(["gpu", "W1"]) == [*GPU_WORKLOADS, "W1"]
    assert workload_names(["W9", "W1"]) == ["W9", "W1"]


@pytest.mark.parametrize("name", INSTALLED)
def test_environments_return_what_their_spaces_say(name):
    env = make_env(name)
    obs, _ = env.reset(seed=1)
    num_agents = getattr(env, "num_agents", None)
    if isinstance(env, BatchedZeroCost):
        obs, rewards, terminated, truncated, _ = env.step(torch.zeros(num_agents, dtype=torch.int64))
        assert obs["obs"].shape == (num_agents, 4)
        assert {len(column) for column in (rewards, terminated, truncated)} == {num_agents}
    elif num_agents:
        columns = env.step([0] * num_agents)
        assert [len(column) for column in columns] == [num_agents] * 5
        assert all(env.observation_space.contains(one) for one in columns[0])
    else:
        assert env.observation_space.contains(obs)
        assert env.observation_space.contains(env.step(0)[0])


def test_episodes_have_equal_lengths_and_batched_agents_end_at_different_times():
    env = make_env("bench_zero_vector")
    env.reset()
    assert [env.step(0)[3] for _ in range(EPISODE_LENGTH)] == [False] * (EPISODE_LENGTH - 1) + [True]
    batched = BatchedZeroCost(200)
    batched.reset()
    ends = torch.stack([batched.step(None)[3] for _ in range(EPISODE_LENGTH)])  # [steps, agents]
    assert (ends.sum(0) == 1).all() and (ends.sum(1) == 2).all()


def test_sleeps_are_the_same_for_the_same_environment_and_within_their_bounds():
    assert sleep_durations(False, 3) == [SLEEP_SEC]
    first, second = sleep_durations(True, 1), sleep_durations(True, 2)
    assert first == sleep_durations(True, 1) and first != second
    assert min(first) >= LOGNORMAL_BOUNDS_SEC[0] and max(first) <= LOGNORMAL_BOUNDS_SEC[1]
    assert np.median(first) == pytest.approx(0.002, rel=0.1)
    assert make_env("bench_sleep_lognormal", None, argparse.Namespace(env_id=2))._durations_sec == second


def test_each_side_finds_its_own_package(monkeypatch, tmp_path):
    (tmp_path / "other" / "sample_factory").mkdir(parents=True)
    (tmp_path / "tools").mkdir()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "other"), str(tmp_path / "tools")]))
    assert Side("original", "python").environ("1")["PYTHONPATH"] == str(tmp_path / "tools")
    ours = Side("ours", "python", tmp_path / "mine").environ("unset")
    assert ours["PYTHONPATH"] == os.pathsep.join([str(tmp_path / "mine"), str(tmp_path / "tools")])
    assert "OMP_NUM_THREADS" not in ours
    assert Side("original", "python").environ("3")["OMP_NUM_THREADS"] == "3"


def test_an_interpreter_is_found_from_everywhere(monkeypatch, tmp_path):
    (tmp_path / "python").touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    assert interpreter("./python") == str(tmp_path / "python")
    with pytest.raises(argparse.ArgumentTypeError, match="nowhere/python"):
        interpreter("nowhere/python")


def run(frames_per_sec: float, lag: float | None = 1.0) -> Measurement:
    return Measurement(frames_per_sec, 1e6 / frames_per_sec, 100.0, lag, 50.0, 1.0, 4, 1000)


def test_a_result_compares_neighbours_and_names_the_share_of_the_limit():
    limits = combine([Probe(1e-5, 1e-5, 2e-6, 3e-6), Probe(1e-5, 1e-5)], cores=2, num_epochs=1, env_waits=False)
    pairs = Pairs(WORKLOADS["W1"], [run(4e4), run(6e4)], [run(2e4, None), run(2e4, None)], limits)
    row = pairs.row()
    assert (row.ratio_median, row.ratio_min, row.ratio_max) == (2.5, 2.0, 3.0)
    assert row.asked == "8x" and row.extra["cpu_ratio"] == pytest.approx(2.5)
    assert row.extra["policy_lag_original"] is None and row.extra["policy_lag_ours"] == 1.0
    assert row.extra["fraction_ours"] == pytest.approx(5e4 / (2 / 15e-6), abs=1e-3)
    assert row.extra["simulation_fraction_ours"] == pytest.approx(5e4 / 2e5, abs=1e-3)
    assert row.extra["useful_cpu_ours"] == pytest.approx(15.0 / ((1e6 / 4e4 + 1e6 / 6e4) / 2), abs=1e-3)
    assert "2.50x frames per second (2.00 to 3.00, asked 8x)" in summary(row)


def test_limits_add_the_cpu_time_of_the_parts_of_a_frame():
    probes = [Probe(9e-6, 8e-6, 3e-6, 2e-6), Probe(30e-6, 12e-6)]
    limits = combine(probes, cores=2, num_epochs=3, env_waits=False)
    assert limits.frames_per_sec == pytest.approx(2 / (10e-6 + 3e-6 + 3 * 2e-6))
    assert limits.sampling_frames_per_sec == pytest.approx(2 / 13e-6)
    assert limits.simulation_frames_per_sec == pytest.approx(2 / 10e-6)


def test_one_worker_simulates_on_one_core():
    limits = combine([Probe(1e-5, 1e-5, 1e-6, 1e-6)], cores=2, num_epochs=1, env_waits=False)
    assert limits.simulation_frames_per_sec == limits.frames_per_sec == pytest.approx(1e5)


def test_without_a_learner_another_limit_counts():
    limits = combine([Probe(1e-3, 1e-3, 1e-3, 2e-3), Probe(1e-3, 1e-3)], cores=2, num_epochs=1, env_waits=False)
    assert limits.of(WORKLOADS["Pong"]) == pytest.approx(500.0)
    assert limits.of(WORKLOADS["Pong_sampling"]) == pytest.approx(1000.0)


def test_an_environment_that_waits_costs_its_cpu_time_but_cannot_be_hurried():
    limits = combine([Probe(1e-3, 1e-5, 1e-6, 1e-6), Probe(1e-3, 1e-5)], cores=2, num_epochs=1, env_waits=True)
    assert limits.frames_per_sec == limits.sampling_frames_per_sec == pytest.approx(2000.0)
    busy = combine([Probe(1e-3, 1e-5, 1e-6, 4e-3)], cores=2, num_epochs=1, env_waits=True)
    assert busy.frames_per_sec == pytest.approx(2 / (1e-5 + 1e-6 + 4e-3))


def test_median_of_limits_is_taken_field_by_field():
    values = [combine([Probe(sec, sec, 1e-6, 1e-6)], 1, 1, False) for sec in (1e-6, 5e-6, 3e-6)]
    assert Limits.median(values) == values[2]


def test_agents_are_divided_among_processes():
    cfg = argparse.Namespace(num_workers=2, num_envs_per_worker=32)
    assert num_agents_per_process(cfg, 1, 2) == 32
    assert num_agents_per_process(cfg, 4, 2) == 128
    assert num_agents_per_process(argparse.Namespace(num_workers=1, num_envs_per_worker=1), 1, 16) == 1


def test_the_best_peer_is_the_best_of_each_round():
    ours = {"W1": [run(100.0)] * 3, "W1s": [run(50.0)] * 3}
    peers = {"sb3": [run(50.0), run(20.0), run(25.0)], "plain": [run(25.0), run(40.0), run(20.0)]}
    rows = peer_rows(ours, peers)
    by_label = {row.label: row for row in rows}
    best = by_label["W1 / best peer"]
    assert (best.ratio_median, best.ratio_min, best.ratio_max) == (2.5, 2.0, 4.0)
    assert by_label["W1s / Stable-Baselines3, DummyVecEnv"].asked == "1.5x"
    assert by_label["W1s / plain loop, list of environments"].asked is None
    assert best.extra["cpu_ratio"] == pytest.approx(2.5)  # these runs all use one core
    assert len(rows) == 5
