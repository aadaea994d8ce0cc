"""Message handlers for what samplers report; shared by the runner and the sampling APIs."""

from __future__ import annotations

from typing import Any

from sample_factory.algo.utils.misc import SAMPLES_COLLECTED, STATS_KEY, TIME_SHARES, TIMING_STATS
from sample_factory.utils.typing import PolicyID


def timing_msg_handler(observer: Any, msg: dict[str, Any]) -> None:
    observer.metrics.add_timing(msg[TIMING_STATS])


def time_shares_msg_handler(observer: Any, msg: dict[str, Any]) -> None:
    observer.metrics.add_time_shares(msg[TIME_SHARES])


def stats_msg_handler(observer: Any, msg: dict[str, Any]) -> None:
    observer.metrics.stats.update(msg[STATS_KEY])


def samples_stats_handler(observer: Any, msg: dict[str, Any], policy_id: PolicyID) -> None:
    observer.metrics.add_samples(policy_id, msg[SAMPLES_COLLECTED])
