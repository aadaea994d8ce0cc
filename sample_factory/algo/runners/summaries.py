"""TensorBoard: one event file per policy under ``.summary/<policy>``."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import psutil

from sample_factory.algo.runners.resilient_writer import open_summary_writer
from sample_factory.algo.utils.run_metrics import Rates, RunMetrics
from sample_factory.utils.typing import Config, PolicyID
from sample_factory.utils.utils import experiment_dir, log, log_every_n, summaries_dir

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_LOG_PROBLEM_EVERY = 100
_WITH_MIN_MAX = ("reward", "true_objective", "len")


def make_writers(cfg: Config) -> dict[PolicyID, SummaryWriter]:
    """Open the writers of all policies."""
    writers = {}
    for policy_id in range(cfg.num_policies):
        directory = os.path.join(summaries_dir(experiment_dir(cfg)), str(policy_id))
        writers[policy_id] = open_summary_writer(directory, flush_secs=cfg.flush_summaries_interval)
    return writers


def episodic_tag(key: str) -> str:
    """Tag of the mean of an episodic statistic."""
    if key in ("reward", "len"):
        return f"{key}/{key}"
    return key if "/" in key else f"policy_stats/avg_{key}"


class SummaryReporter:
    """Writes what :class:`RunMetrics` knows; x is always the policy's env steps."""

    def __init__(self, writers: dict[PolicyID, SummaryWriter], metrics: RunMetrics) -> None:
        self.writers, self.metrics = writers, metrics

    def write(self, rates: Rates, extra: Callable[[PolicyID, SummaryWriter, int], None]) -> None:
        """One report. A statistic is written as soon as it has a value, so short runs have curves, too.

        A full disk or a broken tracker costs reports, not the training; so does ``extra`` on a full disk.
        """
        for policy_id, env_steps in self.metrics.env_steps.items():
            with self._problems_are_logged():
                self._write_policy(policy_id, rates, env_steps)
            with self._problems_are_logged(OSError):
                extra(policy_id, self.writers[policy_id], env_steps)
            with self._problems_are_logged():
                self.writers[policy_id].flush()

    def _write_policy(self, policy_id: PolicyID, rates: Rates, env_steps: int) -> None:
        writer = self.writers[policy_id]
        if policy_id == 0:
            self._write_run_stats(writer, rates, env_steps)
        self._add(writer, "perf/_sample_throughput", rates.throughput.get(policy_id, math.nan), env_steps)
        self._write_episodic_stats(writer, policy_id, env_steps)

    def write_train_stats(self, policy_id: PolicyID, train_stats: dict[str, float]) -> None:
        self.write_stats(policy_id, {f"train/{key}": value for key, value in train_stats.items()})

    def write_stats(self, policy_id: PolicyID, stats: dict[str, float]) -> None:
        """Numbers by tag."""
        env_steps = self.metrics.env_steps.get(policy_id, 0)
        with self._problems_are_logged():
            for tag, value in stats.items():
                self._add(self.writers[policy_id], tag, value, env_steps)

    def close(self) -> None:
        for writer in self.writers.values():
            with self._problems_are_logged():
                writer.close()

    @staticmethod
    @contextmanager
    def _problems_are_logged(kind: type[Exception] = Exception) -> Iterator[None]:
        try:
            yield
        except kind as exc:  # often the same one for hours: it is said now and then
            log_every_n(_LOG_PROBLEM_EVERY, logging.WARNING, f"Could not write summaries: {type(exc).__name__}: {exc}")

    def _write_run_stats(self, writer: SummaryWriter, rates: Rates, env_steps: int) -> None:
        self._add(writer, "perf/_fps", rates.fps[0], env_steps)
        memory_mb = psutil.Process().memory_info().rss / 2**20
        self._add(writer, "stats/master_process_memory_mb", memory_mb, env_steps)
        for key, window in self.metrics.avg_stats.items():
            if window:
                self._add(writer, f"stats/{key}", float(np.mean(window)), env_steps)
        for key, value in self.metrics.stats.items():
            self._add(writer, f"stats/{key}", value, env_steps)

    def _write_episodic_stats(self, writer: SummaryWriter, policy_id: PolicyID, env_steps: int) -> None:
        for key, windows in self.metrics.policy_avg_stats.items():
            values = windows[policy_id]
            if not values:
                continue
            try:
                array = np.asarray(values, dtype=np.float64)
            except (TypeError, ValueError):
                log.debug(f"Episodic statistic {key!r} is not a number, not written to TensorBoard")
                continue
            tag = episodic_tag(key)
            self._add(writer, tag, float(array.mean()), env_steps)
            if key in _WITH_MIN_MAX:
                self._add(writer, f"{tag}_min", float(array.min()), env_steps)
                self._add(writer, f"{tag}_max", float(array.max()), env_steps)

    @staticmethod
    def _add(writer: SummaryWriter, tag: str, value: float, env_steps: int) -> None:
        if not math.isnan(value):
            writer.add_scalar(tag, float(value), env_steps)
