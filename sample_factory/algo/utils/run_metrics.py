"""Numbers the runner collects about a run: progress, rates, episode statistics, policy lag."""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from sample_factory.utils.dicts import iterate_recursively
from sample_factory.utils.typing import PolicyID

# Rates are taken over this many reports (10, 60 and 300 seconds at one report in 5 seconds).
FPS_WINDOWS_REPORTS = (2, 12, 60)
_THROUGHPUT_WINDOW_REPORTS = 10
_TIMING_WINDOW = 50
_TIME_SHARE_WINDOW = 8
_LAG_KEYS = ("version_diff_min", "version_diff_avg", "version_diff_max")


_PLAIN_NUMBERS = frozenset((int, float, np.float32, np.float64))


@dataclass(frozen=True)
class Rates:
    """Frames per second over each window (nan before there are two reports) and samples per second of each policy."""

    fps: tuple[float, ...]
    throughput: dict[PolicyID, float]


class RunMetrics:
    """Accumulates messages of the components; knows nothing of processes, files or terminals."""

    def __init__(self, num_policies: int, stats_window: int) -> None:
        self.num_policies, self.stats_window = num_policies, stats_window
        self.env_steps: dict[PolicyID, int] = {}
        self.env_steps_since_resume: dict[PolicyID, int] = {}
        self.samples_collected = [0] * num_policies
        self.policy_avg_stats: dict[str, list[deque[Any]]] = {}
        self.policy_lag: list[dict[str, float]] = [{} for _ in range(num_policies)]
        self.stats: dict[str, float] = {}
        self.avg_stats: dict[str, deque[float]] = {}
        self.time_shares: dict[str, deque[float]] = {}  # "learner: train" -> fraction of its component's time
        self.best_reward: float | None = None
        # (time, number so far) at each report, of all policies together and of each policy.
        self.frames_history: deque[tuple[float, int]] = deque(maxlen=max(FPS_WINDOWS_REPORTS))
        self.samples_history: list[deque[tuple[float, int]]] = [
            deque(maxlen=_THROUGHPUT_WINDOW_REPORTS) for _ in range(num_policies)
        ]

    # --- messages ---

    def add_env_steps(self, policy_id: PolicyID, env_steps: int) -> None:
        """The learner's counter; the first report of a run tells where it resumed."""
        if policy_id in self.env_steps:
            since_resume = self.env_steps_since_resume.get(policy_id, 0)
            self.env_steps_since_resume[policy_id] = since_resume + env_steps - self.env_steps[policy_id]
        else:
            self.env_steps_since_resume[policy_id] = 0
        self.env_steps[policy_id] = env_steps

    def add_samples(self, policy_id: PolicyID, num_samples: int) -> None:
        self.samples_collected[policy_id] += num_samples

    def add_episodic_stats(self, policy_id: PolicyID, stats: dict[str, Any]) -> None:
        """Numbers or arrays (several episodes at once), filed by leaf key."""
        nested: dict[str, Any] = {}
        for key, value in stats.items():
            windows = self.policy_avg_stats.get(key)
            if windows is not None and type(value) in _PLAIN_NUMBERS:
                windows[policy_id].append(value)  # thousands of times a second
            else:
                nested[key] = value
        for _, key, value in iterate_recursively(nested):
            if key not in self.policy_avg_stats:
                self.policy_avg_stats[key] = [deque(maxlen=self.stats_window) for _ in range(self.num_policies)]
            values = np.asarray(value)
            if values.ndim == 0:
                self.policy_avg_stats[key][policy_id].append(value)
            else:
                self._extend(self.policy_avg_stats[key], policy_id, values.reshape(-1).tolist())

    def _extend(self, windows: list[deque[Any]], policy_id: PolicyID, values: list[Any]) -> None:
        window = windows[policy_id]
        if window.maxlen is not None and len(values) > window.maxlen:
            # A vectorised environment finished more episodes at once than the window holds: average them all.
            window = windows[policy_id] = deque(window, maxlen=len(values))
        window.extend(values)

    def add_train_stats(self, policy_id: PolicyID, train_stats: dict[str, float]) -> None:
        for key in _LAG_KEYS:
            if key in train_stats:
                self.policy_lag[policy_id][key] = train_stats[key]

    def add_timing(self, timing: dict[str, float]) -> None:
        for key, value in timing.items():
            self.avg_stats.setdefault(key, deque(maxlen=_TIMING_WINDOW)).append(value)

    def add_time_shares(self, shares: dict[str, float]) -> None:
        """What fraction of its time a component spent on what, since it reported last."""
        for key, value in shares.items():
            self.time_shares.setdefault(key, deque(maxlen=_TIME_SHARE_WINDOW)).append(value)

    # --- derived numbers ---

    def mean(self, key: str, policy_id: PolicyID) -> float | None:
        """Mean of an episodic statistic over the window, None without data."""
        windows = self.policy_avg_stats.get(key)
        if windows is None or not windows[policy_id]:
            return None
        return float(np.mean(windows[policy_id]))

    def total_frames(self) -> int:
        return sum(self.env_steps.values())

    def frames_since_resume(self) -> int:
        return sum(self.env_steps_since_resume.values())

    def tick(self, now: float | None = None) -> Rates:
        """Record one report interval and compute the rates."""
        now = time.time() if now is None else now
        self.frames_history.append((now, self.frames_since_resume()))
        fps = tuple(_rate(self.frames_history, window) for window in FPS_WINDOWS_REPORTS)
        throughput = {}
        for policy_id in range(self.num_policies):
            history = self.samples_history[policy_id]
            history.append((now, self.samples_collected[policy_id]))
            throughput[policy_id] = _rate(history, _THROUGHPUT_WINDOW_REPORTS)
        rewards = [mean for p in range(self.num_policies) if (mean := self.mean("reward", p)) is not None]
        if rewards:
            self.best_reward = max([*rewards, -math.inf if self.best_reward is None else self.best_reward])
        return Rates(fps, throughput)


def _rate(history: deque[tuple[float, int]], num_reports: int) -> float:
    if len(history) < 2:
        return math.nan
    (past_time, past), (now, current) = history[max(0, len(history) - 1 - num_reports)], history[-1]
    return (current - past) / max(now - past_time, 1e-8)
