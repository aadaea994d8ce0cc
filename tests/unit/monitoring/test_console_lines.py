from __future__ import annotations

import math

import pytest

from sample_factory.monitoring.console_lines import duration, fps_line, reward_line
from sample_factory.monitoring.snapshot import PolicyLag


def test_fps_line():
    fps = ((10, 1433.6), (60, 1433.6), (300, math.nan))
    assert fps_line(fps, 9344, {0: 1685.44, 1: 2.0}, 8427, PolicyLag(0, 0.14, 1)) == (
        "Fps is (10 sec: 1433.6, 60 sec: 1433.6, 300 sec: nan). Total num frames: 9344. "
        "Throughput: 0: 1685.4, 1: 2.0. Samples: 8427. Policy #0 lag: (min: 0.0, avg: 0.1, max: 1.0)"
    )


def test_unknown_lag_is_minus_one():
    assert fps_line((), 0, {}, 0, PolicyLag()).endswith("Policy #0 lag: (min: -1.0, avg: -1.0, max: -1.0)")


def test_reward_line():
    assert reward_line({0: 22.6}) == "Avg episode reward: [(0, '22.600')]"
    assert reward_line({0: 1, 2: -0.5}) == "Avg episode reward: [(0, '1.000'), (2, '-0.500')]"


@pytest.mark.parametrize(
    ("seconds", "text"), [(-3, "0:00:00"), (59.6, "0:01:00"), (3723, "1:02:03"), (180000, "2d 02:00:00")]
)
def test_duration(seconds, text):
    assert duration(seconds) == text
