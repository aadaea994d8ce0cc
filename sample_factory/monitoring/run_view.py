"""Connects a runner to the view of its progress."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from sample_factory.algo.utils.run_metrics import Rates, RunMetrics
from sample_factory.cfg.shadowing import flag_value
from sample_factory.monitoring.dashboard import LiveView, PlainView, make_view
from sample_factory.monitoring.snapshot import PolicyLag, RunSnapshot, sample_system_usage
from sample_factory.utils.typing import Config

if TYPE_CHECKING:
    from sample_factory.algo.runners.runner import Runner

_FPS_WINDOWS_SEC = (10.0, 60.0, 300.0)
_UNLIMITED = 10**10  # default of the two goals


class RunnerView:
    """Implements ``RunView`` of the runner: one snapshot per report."""

    def __init__(self, view: LiveView | PlainView) -> None:
        self._view = view
        self._started_at = time.time()

    def start(self) -> None:
        self._started_at = time.time()
        self._view.start()

    def report(self, runner: Runner, rates: Rates) -> None:
        self._view.update(self._snapshot(runner, rates))

    def finish(self, runner: Runner, rates: Rates) -> None:
        # The workers have ended by now, which is no alarm.
        self._view.finish(replace(self._snapshot(runner, rates), workers_total=0))

    def stop(self) -> None:
        self._view.stop()

    def _snapshot(self, runner: Runner, rates: Rates) -> RunSnapshot:
        cfg, metrics = runner.cfg, runner.metrics
        usage = sample_system_usage()
        elapsed_sec = time.time() - self._started_at
        fraction = _fraction_done(cfg, metrics, elapsed_sec)
        is_complete = len(metrics.env_steps) == cfg.num_policies
        return RunSnapshot(
            experiment=cfg.experiment,
            elapsed_sec=elapsed_sec,
            percent=None if fraction is None else 100 * fraction,
            eta_sec=_eta_sec(cfg, metrics, rates, elapsed_sec),
            fps=tuple(zip(_FPS_WINDOWS_SEC, rates.fps, strict=False)),
            env_steps=dict(metrics.env_steps) if is_complete else {},
            total_frames=metrics.total_frames(),
            target_frames=cfg.train_for_env_steps * cfg.num_policies if cfg.train_for_env_steps < _UNLIMITED else None,
            rewards=_means(metrics, "reward") if "reward" in metrics.policy_avg_stats else None,
            best_reward=metrics.best_reward,
            episode_length=metrics.mean("len", 0),
            policy_lag=_lag(metrics.policy_lag[0]),
            samples=sum(metrics.samples_collected),
            throughput=rates.throughput,
            time_spent=_time_spent(metrics),
            workers_alive=len(runner.supervisor.running),
            workers_total=runner.num_processes,
            cpu_percent=usage.cpu_percent,
            ram_mb=usage.ram_mb,
        )


def _fraction_done(cfg: Config, metrics: RunMetrics, elapsed_sec: float) -> float | None:
    fractions = []
    if cfg.train_for_env_steps < _UNLIMITED and metrics.env_steps:
        fractions.append(min(metrics.env_steps.values()) / cfg.train_for_env_steps)
    if cfg.train_for_seconds < _UNLIMITED:
        fractions.append(elapsed_sec / cfg.train_for_seconds)
    return min(1.0, max(fractions)) if fractions else None


def _eta_sec(cfg: Config, metrics: RunMetrics, rates: Rates, elapsed_sec: float) -> float | None:
    estimates = []
    if cfg.train_for_env_steps < _UNLIMITED and rates.fps and rates.fps[0] > 0:
        missing = sum(max(0, cfg.train_for_env_steps - steps) for steps in metrics.env_steps.values())
        estimates.append(missing / rates.fps[0])
    if cfg.train_for_seconds < _UNLIMITED:
        estimates.append(max(0.0, cfg.train_for_seconds - elapsed_sec))
    return min(estimates) if estimates else None


def _means(metrics: RunMetrics, key: str) -> dict[int, float]:
    means = {policy_id: metrics.mean(key, policy_id) for policy_id in range(metrics.num_policies)}
    return {policy_id: mean for policy_id, mean in means.items() if mean is not None}


def _lag(lag: Mapping[str, float]) -> PolicyLag:
    return PolicyLag(*(lag.get(f"version_diff_{which}", -1.0) for which in ("min", "avg", "max")))


def _time_spent(metrics: RunMetrics) -> dict[str, float]:
    return {key: float(np.mean(window)) for key, window in metrics.time_shares.items() if window}


def make_run_view(cfg: Config) -> RunnerView:
    return RunnerView(make_view(flag_value(cfg, "ui")))
