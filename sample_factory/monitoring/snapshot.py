"""What a view of a running training shows: one immutable record per report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import psutil


class PolicyLag(NamedTuple):
    """How many SGD steps the behaviour policy was behind, over the last training batches; -1 when unknown."""

    min: float = -1.0
    avg: float = -1.0
    max: float = -1.0


class SystemUsage(NamedTuple):
    """Load of the machine by CPU percent (0-100, all cores) and memory of this process tree in MiB."""

    cpu_percent: float
    ram_mb: float


@dataclass(frozen=True, slots=True)
class RunSnapshot:
    """State of a run at one moment. Mappings are keyed by policy id unless stated otherwise."""

    experiment: str
    elapsed_sec: float
    percent: float | None = None  # 0-100, None when the run has no end
    eta_sec: float | None = None
    fps: tuple[tuple[float, float], ...] = ()  # (window in seconds, frames per second or nan)
    env_steps: Mapping[int, int] = field(default_factory=dict)  # empty until every policy has reported
    total_frames: int = 0  # sum of env_steps, earlier runs of the experiment included
    target_frames: int | None = None
    rewards: Mapping[int, float] | None = None  # mean episode reward; None until the statistic exists
    best_reward: float | None = None
    episode_length: float | None = None
    policy_lag: PolicyLag = PolicyLag()  # noqa: RUF009  (immutable)
    samples: int = 0  # observations collected so far, all policies
    throughput: Mapping[int, float] = field(default_factory=dict)  # samples per second
    time_spent: Mapping[str, float] = field(default_factory=dict)  # component -> seconds, or fractions of the whole
    workers_alive: int = 0
    workers_total: int = 0
    cpu_percent: float | None = None
    ram_mb: float | None = None
    message: str = ""  # what the run is doing when it is not simply training, for instance "saving"
    log_lines: tuple[str, ...] = ()  # last lines worth keeping in sight


def sample_system_usage() -> SystemUsage:
    """Usage now. CPU percent counts from the previous call in this process (the first call returns 0)."""
    private_bytes = 0
    shared_bytes = 0
    root = psutil.Process()
    for process in [root, *root.children(recursive=True)]:
        try:
            info = process.memory_info()
        except psutil.Error:
            continue
        # Shared memory is mapped by every worker: count the largest mapping once instead of summing it up.
        shared = getattr(info, "shared", 0)
        private_bytes += max(info.rss - shared, 0)
        shared_bytes = max(shared_bytes, shared)
    return SystemUsage(psutil.cpu_percent(interval=None), (private_bytes + shared_bytes) / 2**20)
