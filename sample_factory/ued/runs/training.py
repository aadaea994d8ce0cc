"""The main loop of a training, and what surrounds it: folder, resume, logs, checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from sample_factory.algo.learning.checkpoints import NonFiniteStateError
from sample_factory.algo.runners.termination import TerminationSignals
from sample_factory.algo.utils.misc import ExperimentStatus
from sample_factory.cfg.errors import ConfigError
from sample_factory.ued.config.nested import Config
from sample_factory.ued.curricula.common import CycleReport
from sample_factory.ued.runs import checkpoint, console, csv_log, level_grids, run_directory, state
from sample_factory.ued.runs.assembly import Parts
from sample_factory.ued.runs.csv_log import CsvLog
from sample_factory.ued.runs.meta import MetaFile, masked
from sample_factory.ued.runs.progress import Progress
from sample_factory.ued.runs.ranks import Ranks
from sample_factory.ued.runs.wandb_log import WandbLog
from sample_factory.utils.checkpoint_files import CheckpointError
from sample_factory.utils.logging import log
from sample_factory.utils.typing import StatusCode

Row = dict[str, Any]


class RowWriter(Protocol):
    """Takes logged rows."""

    def write(self, tick: int, row: Mapping[str, Any]) -> None: ...


def is_due(tick: int, interval: int) -> bool:
    """Whether something that is done every ``interval`` cycles is due after ``tick`` of them; 0: never."""
    return interval > 0 and tick % interval == 0


class Training:
    """Runs cycles until every student has had its updates, or a signal asks for the end. One object per rank."""

    def __init__(
        self, config: Config, parts: Parts, ranks: Ranks, directory: Path, signals: TerminationSignals
    ) -> None:
        self.config = config
        self.parts = parts
        self.ranks = ranks
        self.directory = directory
        self.signals = signals
        self.counters = state.Counters()
        self.pending: dict[str, float] = {}  # results of an evaluation that wait for the next row
        self._writers: list[RowWriter] = []
        self._saved_tick: int | None = None
        self._progress: Progress | None = None  # on rank 0

    @property
    def columns(self) -> list[str]:
        """Columns of ``logs.csv``."""
        curriculum = self.parts.curriculum
        evaluation = self.parts.evaluator.columns(len(curriculum.students)) if self.config.test_interval else []
        return csv_log.columns_of(curriculum.stat_names, evaluation)

    def run(self) -> StatusCode:
        """The whole training; returns the exit code."""
        resumed = self._resume()
        self.ranks.any(False)  # nobody touches the folder before all have read the checkpoint
        if not self.ranks.is_main:
            return self._cycles(resumed)
        if not resumed:
            run_directory.set_previous_run_aside(self.directory)
        meta = MetaFile(self.directory, self.config)
        meta.start()
        wandb = WandbLog(self.config, self.directory)
        self._writers = [CsvLog(self.directory / csv_log.FILE_NAME, self.columns, resume=resumed), wandb]
        self._progress = Progress(self.directory, self.parts.curriculum, self.counters, self.config.n_total_updates)
        finished = False
        try:
            status = self._cycles(resumed)
            self._progress.end()
            finished = status == ExperimentStatus.SUCCESS
            return status
        finally:
            meta.end(successful=finished)
            wandb.close()

    def _resume(self) -> bool:
        """Go on from the checkpoint if that is wanted and there is one."""
        path = checkpoint.latest_path(self.directory)
        if not self.config.from_last_checkpoint or not path.exists():
            if self.config.from_last_checkpoint and self.ranks.is_main:
                log.info("There is no checkpoint %s yet: the run starts from the beginning", path)
            return False
        csv_log.check_columns(self.directory / csv_log.FILE_NAME, self.columns)
        stored = checkpoint.load(path, self.parts.curriculum.generator.device)
        try:
            self.counters, self.pending = state.restore(path, stored, self.parts, self.ranks)
        except CheckpointError as exc:  # the file is fine: it is the flags that differ
            raise ConfigError([str(exc)]) from exc
        self._saved_tick = self.counters.tick
        if self.ranks.is_main:
            log.info("Going on from %s after %d cycles", path, self.counters.tick)
            for change in changes(stored["config"], masked(self.config)):
                log.warning("Other than in the checkpoint: %s", change)
        return True

    def _cycles(self, resumed: bool) -> StatusCode:
        if self.config.archive_init_checkpoint and not resumed:
            self._save(archive=True)
        stop = self.ranks.any(self.signals.stop_requested())
        while not stop and self._has_updates_left():
            self._cycle()
            stop = self.ranks.any(self.signals.stop_requested())
        if self._saved_tick != self.counters.tick:
            self._save(archive=False)
        if not stop:
            return ExperimentStatus.SUCCESS
        if self.signals.stop_requested():
            log.info("%s: the run was saved after %d cycles", self.signals.describe(), self.counters.tick)
            return self.signals.status()
        return ExperimentStatus.INTERRUPTED

    def _has_updates_left(self) -> bool:
        return any(student.n_updates < self.config.n_total_updates for student in self.parts.curriculum.students)

    def _cycle(self) -> None:
        config = self.config
        start = time.perf_counter()
        report = self.parts.curriculum.run_cycle()
        duration = time.perf_counter() - start
        self.counters.add(report, self.ranks.size)
        self._check_finite(report.stats)
        tick = self.counters.tick
        if config.log_interval and is_due(tick, config.test_interval) and self.ranks.is_main:
            students = self.parts.curriculum.students
            self.pending = self.parts.evaluator.run(students, self.parts.evaluation_generator)
        if is_due(tick, config.log_interval):
            stats = self.ranks.average_stats(report.stats)
            self._log(self._row(stats, report, duration))
        if is_due(tick, config.level_grid_interval) and self.ranks.is_main:
            folder = self.directory / run_directory.LEVELS
            level_grids.save_level_grids(self.parts.curriculum, folder, tick, config.level_grid_size)
        archive = is_due(tick, config.archive_interval)
        if archive or is_due(tick, config.checkpoint_interval):
            self._save(archive=archive)
        if self._progress is not None:
            self._progress.after_cycle()

    def _check_finite(self, stats: Mapping[str, float | None]) -> None:
        """NonFiniteStateError as soon as a loss shows that the weights are lost."""
        for name, value in stats.items():
            if value is not None and not math.isfinite(value) and ("_loss" in name or "grad_norm" in name):
                raise self._diverged(f"{name} is {value}")

    def _diverged(self, reason: str) -> NonFiniteStateError:
        return NonFiniteStateError(
            f"the training has diverged after {self.counters.tick} cycles: {reason}; lower --lr or --max_grad_norm"
        )

    def _row(self, stats: Mapping[str, float | None], report: CycleReport, duration: float) -> Row:
        counters, num_students = self.counters, len(self.parts.curriculum.students)
        speed = report.env_steps * self.ranks.size / duration
        return {
            csv_log.TICK: counters.tick,
            csv_log.TIME: time.time(),
            **stats,
            **self.pending,
            "steps": counters.steps,
            "sps": round(speed),
            "real_steps": counters.steps // num_students,
            "real_sps": round(speed / num_students),
            "mutation_steps": counters.mutation_steps,
            "teacher_steps": counters.teacher_steps,
            "scan_steps": counters.scan_steps,
            "n_grad_updates": self.parts.curriculum.students[0].n_grad_updates,
        }

    def _log(self, row: Row) -> None:
        self.pending = {}
        for writer in self._writers:
            writer.write(self.counters.tick, row)
        if self.config.verbose and self.ranks.is_main:
            print(console.row_box(row), flush=True)

    def _save(self, *, archive: bool) -> None:
        captured = state.capture(self.parts, self.counters, self.ranks, masked(self.config), self.pending)
        self._saved_tick = self.counters.tick
        if captured is None:
            return
        try:
            checkpoint.save(self.directory, captured, archive_tick=self.counters.tick if archive else None)
        except NonFiniteStateError as exc:
            raise self._diverged(str(exc)) from exc


def changes(stored: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Flags whose values differ, with both values."""
    found: list[str] = []
    for name in sorted(stored.keys() | now.keys()):
        before, after = stored.get(name), now.get(name)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += changes(before, after, f"{prefix}{name}.")
        elif before != after and name != "from_last_checkpoint":
            found.append(f"{prefix}{name} was {before}, is {after}")
    return found
