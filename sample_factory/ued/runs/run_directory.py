"""The folder of a run: ``<log_dir>/<xpid>``."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from sample_factory.algo.runners.experiment_dir import ExperimentInUseError, ExperimentLock
from sample_factory.ued.config.nested import Config
from sample_factory.ued.runs import checkpoint, csv_log, meta

PREVIOUS = "previous"
LEVELS = "levels"


def expand(path: str) -> Path:
    """A path as users write it, with ``~`` and environment variables."""
    return Path(os.path.expandvars(path)).expanduser()


def run_directory(config: Config) -> Path:
    return expand(config.log_dir) / config.xpid


def lock(directory: Path) -> ExperimentLock:
    """Create the folder if needed and take it for this process; ExperimentInUseError if another run has it, ValueError
    if there can be no such folder.
    """
    taken = ExperimentLock(directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        taken.acquire()
    except ExperimentInUseError as exc:
        raise ExperimentInUseError(str(exc).replace("--experiment", "--xpid")) from None
    except OSError as exc:
        raise ValueError(f"--log_dir, --xpid: {directory} cannot be made, or be written to: {exc}") from exc
    return taken


def set_previous_run_aside(directory: Path) -> None:
    """Move the files of an earlier run to ``previous/``, in place of those that are there.

    A run that starts anew uses the folder from the beginning; the weights of the one before survive a forgotten
    ``--from_last_checkpoint``.
    """
    files = [directory / csv_log.FILE_NAME, directory / meta.FILE_NAME, directory / LEVELS]
    files += [checkpoint.latest_path(directory), *checkpoint.archives(directory)]
    existing = [path for path in files if path.exists()]
    if not existing:
        return
    previous = directory / PREVIOUS
    shutil.rmtree(previous, ignore_errors=True)
    previous.mkdir()
    for path in existing:
        path.rename(previous / path.name)
