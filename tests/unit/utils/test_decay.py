from __future__ import annotations

import pytest

from sample_factory.utils.decay import LinearDecay


def test_golden_numbers():
    decay = LinearDecay([(0, 2), (100000, 60), (1000000, 120)])
    assert [decay.at(step) for step in (-1, 0, 50000, 100000, 2 * 10**6)] == [2, 2, 31, 60, 120]


def test_milestones_may_come_unsorted_and_decrease():
    decay = LinearDecay([(100, 2), (0, 12)])
    assert [decay.at(step) for step in (0, 50, 75, 100, 101)] == [12, 7, 4.5, 2, 2]


def test_q43_staircase_decreases():
    decay = LinearDecay([(0, 12), (100, 2)], staircase=5)
    assert [decay.at(step) for step in (0, 1, 30, 75, 100)] == [12, 10, 5, 2, 2]


def test_staircase_increases_within_the_milestones():
    decay = LinearDecay([(0, 2), (100, 12)], staircase=10)
    assert [decay.at(step) for step in (0, 50, 99, 100)] == [2, 2, 10, 12]


def test_one_milestone_is_a_constant():
    assert LinearDecay([(5, 3)]).at(1000) == 3


def test_no_milestones_are_refused():
    with pytest.raises(ValueError, match="milestone"):
        LinearDecay([])
