"""Progress, rates and episode statistics from the messages of the components."""

from __future__ import annotations

import math

import numpy as np
import pytest

from sample_factory.algo.runners.stop_conditions import reason_to_stop
from sample_factory.algo.utils.run_metrics import RunMetrics
from sample_factory.utils.attr_dict import AttrDict


def test_env_steps_since_resume_start_at_the_first_report():
    metrics = RunMetrics(1, 10)
    metrics.add_env_steps(0, 1000)
    assert metrics.frames_since_resume() == 0
    metrics.add_env_steps(0, 1300)
    metrics.add_env_steps(0, 1500)
    assert (metrics.total_frames(), metrics.frames_since_resume()) == (1500, 500)


def test_fps_needs_two_reports_and_uses_its_window():
    metrics = RunMetrics(1, 10)
    metrics.add_env_steps(0, 0)
    assert math.isnan(metrics.tick(now=0.0).fps[0])
    for report in range(1, 5):
        metrics.add_env_steps(0, report * 100 if report < 4 else 1300)
        rates = metrics.tick(now=5.0 * report)
    assert rates.fps[0] == pytest.approx((1300 - 200) / 10)
    assert rates.fps[1] == pytest.approx(1300 / 20)


def test_throughput_is_per_policy():
    metrics = RunMetrics(2, 10)
    metrics.tick(now=0.0)
    metrics.add_samples(1, 50)
    rates = metrics.tick(now=5.0)
    assert rates.throughput == {0: 0.0, 1: 10.0}


def test_episodic_stats_by_leaf_key_scalars_and_arrays():
    metrics = RunMetrics(2, 3)
    metrics.add_episodic_stats(1, {"reward": 1.0, "episode_extra_stats": {"kills": 2, "deep": {"a/b": 4}}})
    metrics.add_episodic_stats(1, {"reward": np.array([2.0, 3.0])})
    assert list(metrics.policy_avg_stats["reward"][1]) == [1.0, 2.0, 3.0]
    assert metrics.mean("reward", 1) == 2.0
    assert metrics.mean("reward", 0) is None
    assert metrics.mean("kills", 1) == 2 and metrics.mean("a/b", 1) == 4


def test_best_reward_is_the_highest_mean_of_any_policy_so_far():
    metrics = RunMetrics(2, 1)
    metrics.tick(now=0.0)
    assert metrics.best_reward is None
    best = []
    for report, rewards in enumerate([(1.0, -2.0), (0.0, 3.0), (2.0, 2.0)], start=1):
        for policy_id, reward in enumerate(rewards):
            metrics.add_episodic_stats(policy_id, {"reward": reward})
        metrics.tick(now=5.0 * report)
        best.append(metrics.best_reward)
    assert best == [1.0, 3.0, 3.0]


def test_window_grows_to_the_number_of_episodes_reported_at_once():
    metrics = RunMetrics(1, 3)
    metrics.add_episodic_stats(0, {"reward": np.arange(10.0)})
    assert metrics.mean("reward", 0) == 4.5


def test_policy_lag_comes_from_train_stats():
    metrics = RunMetrics(1, 3)
    stats = {"loss": 1.0, "version_diff_min": 0.0, "version_diff_avg": 0.5, "version_diff_max": 2.0}
    metrics.add_train_stats(0, stats)
    assert metrics.policy_lag == [{k: v for k, v in stats.items() if k != "loss"}]


def test_training_ends_when_all_policies_have_their_steps():
    cfg = AttrDict(num_policies=2, train_for_env_steps=100, train_for_seconds=10**10)
    assert reason_to_stop(cfg, {0: 101}, 5.0) is None
    assert reason_to_stop(cfg, {0: 101, 1: 100}, 5.0) is None
    assert "train_for_env_steps" in reason_to_stop(cfg, {0: 101, 1: 101}, 5.0)


def test_q02_time_limit_counts_without_any_iteration():
    cfg = AttrDict(num_policies=1, train_for_env_steps=100, train_for_seconds=60)
    assert reason_to_stop(cfg, {}, 59.9) is None
    assert "train_for_seconds" in reason_to_stop(cfg, {}, 60.0)
