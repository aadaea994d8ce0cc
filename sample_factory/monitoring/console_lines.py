"""The progress lines that a run prints: pure functions from numbers to text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sample_factory.monitoring.snapshot import PolicyLag


def fps_line(
    fps: Sequence[tuple[float, float]],
    total_frames: int,
    throughput: Mapping[int, float],
    samples: int,
    policy_lag: PolicyLag,
) -> str:
    """Speed of the run.

    `fps` holds (window in seconds, frames per second or nan), `throughput` samples per second by policy, `policy_lag`
    belongs to policy 0.
    """
    windows = ", ".join(f"{window:.0f} sec: {value:.1f}" for window, value in fps)
    rates = ", ".join(f"{policy_id}: {rate:.1f}" for policy_id, rate in throughput.items())
    lag = f"min: {policy_lag.min:.1f}, avg: {policy_lag.avg:.1f}, max: {policy_lag.max:.1f}"
    return (
        f"Fps is ({windows}). Total num frames: {total_frames}. Throughput: {rates}. Samples: {samples}. "
        f"Policy #0 lag: ({lag})"
    )


def reward_line(rewards: Mapping[int, float]) -> str:
    """Mean episode reward of each policy that has finished episodes."""
    return f"Avg episode reward: {[(policy_id, f'{reward:.3f}') for policy_id, reward in rewards.items()]}"


def duration(seconds: float) -> str:
    """`1:02:03`, or `2d 01:02:03` above a day; negative durations count as zero."""
    total = max(0, round(seconds))
    days, rest = divmod(total, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, secs = divmod(rest, 60)
    return f"{days}d {hours:02d}:{minutes:02d}:{secs:02d}" if days else f"{hours}:{minutes:02d}:{secs:02d}"
