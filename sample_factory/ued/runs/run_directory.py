"""The folder of a run: ``<log_dir>/<xpid>``."""

from __future__ import annotations

import os
from pathlib import Path

from sample_factory.algo.runners.experiment_dir import ExperimentInUseError, ExperimentLock, first_free
from sample_factory.ued.config.nested import Config
from sample_factory.ued.runs import checkpoint, csv_log, meta
from sample_factory.utils.logging import log

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
    """Move the files of an earlier run to ``previous/``, or to the first free of ``previous0001/`` and so on.

    A run that starts anew uses the folder from the beginning; the weights of those before survive a forgotten
    ``--from_last_checkpoint``, however often it was forgotten.
    """
    files = [directory / csv_log.FILE_NAME, directory / meta.FILE_NAME, directory / LEVELS]
    files += [checkpoint.latest_path(directory), *checkpoint.archives(directory)]
    existing = [path for path in files if path.exists()]
    if not existing:
        return
    aside = directory / PREVIOUS
    if aside.exists():
        aside = first_free(aside, "")
    aside.mkdir()
    could_go_on = checkpoint.latest_path(directory) in existing
    for path in existing:
        path.rename(aside / path.name)
    hint = "; --from_last_checkpoint=True would have continued it" if could_go_on else ""
    log.warning("Moved the files of the run before from %s to %s%s", directory, aside, hint)
