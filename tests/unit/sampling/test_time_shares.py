"""Fractions of time from cumulative timings."""

from __future__ import annotations

import pytest

from sample_factory.algo.utils.time_shares import TimeShares
from sample_factory.utils.timing import Timing


def test_shares_are_fractions_of_the_time_since_the_last_report():
    timing = Timing()
    shares = TimeShares(timing, {"worker: step": "step", "worker: wait": "wait"})
    assert shares.report(now=0.0) == {}
    timing["step"] = 2.0
    assert shares.report(now=4.0) == pytest.approx({"worker: step": 0.5, "worker: wait": 0.0})
    timing["step"], timing["wait"] = 3.0, 6.0
    assert shares.report(now=14.0) == pytest.approx({"worker: step": 0.1, "worker: wait": 0.6})
