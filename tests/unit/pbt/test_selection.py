from __future__ import annotations

import math
from collections import defaultdict, deque

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sample_factory.pbt.selection import (
    SelectionSettings,
    best_and_worst,
    choose_source,
    mean_objectives,
    rank_policies,
)

SETTINGS = SelectionSettings(replace_fraction=0.3, reward_gap=0.1, reward_gap_absolute=1e-6)


def choose(
    policy_id: int, objectives: list[float], settings: SelectionSettings = SETTINGS, seed: int = 0
) -> int | None:
    return choose_source(policy_id, objectives, settings, np.random.default_rng(seed))


def test_objectives_are_window_means_and_need_every_policy():
    stats = {"score": [deque([1.0, 3.0]), deque([5.0])], "late": [deque([1.0]), deque()]}
    assert mean_objectives(stats, "score", 2) == [2.0, 5.0]
    assert mean_objectives(stats, "late", 2) is None
    assert mean_objectives(stats, "score", 3) is None


def test_asking_for_an_unknown_objective_does_not_create_it():
    stats: defaultdict[str, list[deque[float]]] = defaultdict(list)
    assert mean_objectives(stats, "score", 2) is None
    assert not stats


def test_ranking_prefers_the_higher_index_among_equals():
    assert rank_policies([1.0, 3.0, 1.0, 2.0]) == [1, 3, 2, 0]


def test_a_diverged_policy_is_the_worst():
    assert rank_policies([math.nan, -1e9, 3.0]) == [2, 1, 0]
    assert choose(0, [math.nan, 1.0, 3.0]) == 2


def test_sets_have_the_rounded_up_size():
    objectives = [float(i) for i in range(8)]
    assert best_and_worst(objectives, 0.3) == ([7, 6, 5], [2, 1, 0])
    assert best_and_worst([1.0, 2.0], 0.3) == ([1], [0])


def test_best_stay_middle_mutates_worst_is_replaced_by_one_of_the_best():
    objectives = [0.0, 1.0, 5.0, 6.0, 10.0, 11.0]
    assert choose(5, objectives) is None and choose(4, objectives) is None
    assert choose(3, objectives) == 3 and choose(2, objectives) == 2
    assert {choose(1, objectives, seed=s) for s in range(20)} == {4, 5}


def test_small_relative_or_absolute_gap_keeps_the_weights():
    assert choose(0, [95.0, 100.0]) == 0  # 5 % below 10 %
    assert choose(0, [89.0, 100.0]) == 1
    wide = SelectionSettings(replace_fraction=0.3, reward_gap=0.1, reward_gap_absolute=50.0)
    assert choose(0, [60.0, 100.0], wide) == 0
    assert choose(0, [0.0, 0.0]) == 0


def test_gap_is_relative_to_the_magnitude_of_the_candidate():
    assert choose(0, [-200.0, -100.0]) == 1
    assert choose(0, [-105.0, -100.0]) == 0
    assert choose(0, [-1.0, -1e-8]) == 1  # a scale of exactly zero must not divide


@given(
    st.lists(st.floats(allow_nan=True), min_size=2, max_size=12),
    st.floats(0.0, 1.0),
    st.integers(0, 99),
)
def test_source_is_always_a_best_policy_itself_or_none(objectives: list[float], fraction: float, seed: int):
    settings = SelectionSettings(fraction, 0.1, 1e-6)
    best, _ = best_and_worst(objectives, fraction)
    for policy_id in range(len(objectives)):
        source = choose(policy_id, objectives, settings, seed)
        assert (source is None) == (policy_id in best)
        assert source in (None, policy_id) or source in best
