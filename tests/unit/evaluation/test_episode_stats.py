from __future__ import annotations

import math
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from sample_factory.algo.evaluators.episode_stats import REPORT_WINDOW, EpisodeStats, EvaluationOutcome, agent_info


def step(stats: EpisodeStats, rewards: list[float], dones: list[int], infos=None) -> None:
    stats.add_step(np.array(rewards), np.array(dones, dtype=bool), infos or [{} for _ in rewards])


def test_outcome_unpacks_like_the_tuple_of_the_original():
    outcome = EvaluationOutcome(0, 12.5)
    status, reward = outcome
    assert (status, reward) == (0, 12.5)
    assert outcome[0] == 0 and outcome[1] == 12.5 and len(outcome) == 2
    assert outcome == (0, 12.5) and outcome == 0 and outcome != (1, 12.5)
    assert repr(outcome) == "(0, 12.5)"
    assert pickle.loads(pickle.dumps(outcome)) == (0, 12.5)


@pytest.mark.parametrize("status", [0, 1])
def test_q63_a_script_that_exits_with_the_result_exits_with_the_status(status):
    code = (
        "import sys; from sample_factory.algo.evaluators.episode_stats import EvaluationOutcome; "
        f"sys.exit(EvaluationOutcome({status}, 5.0))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    # A tuple would be printed and the code would be 1. (Libraries may have notices of their own.)
    assert done.returncode == status and "5.0" not in done.stderr


def test_rewards_are_stored_per_agent_episode():
    stats = EpisodeStats(2, use_record_episode_statistics=False)
    step(stats, [1.0, 10.0], [0, 0])
    step(stats, [1.0, 10.0], [1, 0])
    step(stats, [5.0, 10.0], [1, 1])
    assert stats.rewards == [2.0, 5.0, 30.0]
    assert stats.num_episodes == 3
    assert stats.average_reward == pytest.approx(37.0 / 3)


def test_q22_no_finished_episode_gives_nan():
    stats = EpisodeStats(1, use_record_episode_statistics=False)
    step(stats, [1.0], [0])
    assert math.isnan(stats.average_reward)


def test_true_objective_is_the_score():
    stats = EpisodeStats(1, use_record_episode_statistics=False)
    step(stats, [3.0], [1], [{"true_objective": 7}])
    assert stats.scores == [7.0] and stats.rewards == [3.0] and stats.true_objectives == [7.0]


def test_recorded_statistics_count_whole_games_not_lives():
    stats = EpisodeStats(1, use_record_episode_statistics=True)
    step(stats, [1.0], [1], [{}])
    assert stats.num_episodes == 0 and stats.rewards == [1.0]
    step(stats, [1.0], [1], [{"episode": {"r": np.array([42.0]), "l": 9}}])
    assert stats.num_episodes == 1 and stats.scores == [42.0]


def test_report_waits_for_every_agent_and_covers_the_recent_window():
    stats = EpisodeStats(2, use_record_episode_statistics=False)
    step(stats, [11.0, 4.0], [1, 0], [{"true_objective": 1.0}, {}])
    assert stats.pop_report() is None
    step(stats, [0.0, 5.0], [0, 1])
    assert stats.pop_report() == (
        "Avg episode rewards: #0: 11.000, #1: 9.000, true rewards: #0: 1.000, #1: 9.000\n"
        "Avg episode reward: 10.000, avg true_objective: 5.000"
    )
    assert stats.pop_report() is None


def test_average_covers_all_episodes_also_beyond_the_window():
    stats = EpisodeStats(1, use_record_episode_statistics=False)
    for i in range(2 * REPORT_WINDOW):
        step(stats, [float(i)], [1])
    assert stats.average_reward == pytest.approx(np.mean(range(2 * REPORT_WINDOW)))
    assert len(stats.recent_rewards[0]) == REPORT_WINDOW


def test_infos_of_vectorised_environments_are_split_by_agent():
    infos = {"true_objective": torch.tensor([1.0, 2.0]), "episode": {"r": np.array([3.0, 4.0])}, "level": 5}
    info = agent_info(infos, 1, num_agents=2)
    assert float(info["true_objective"]) == 2.0 and info["episode"]["r"] == 4.0 and info["level"] == 5
