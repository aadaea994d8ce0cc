"""The folder of one experiment: who may use it, and what happens to an existing one."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from pathlib import Path
from typing import IO

from sample_factory.utils.typing import Config
from sample_factory.utils.utils import experiment_dir, log

LOCK_FILE = ".lock"
_ASIDE_SUFFIX = {"restart": "_old", "overwrite": "_overwritten"}


class ExperimentInUseError(RuntimeError):
    """Another run trains in the same folder."""


class ExperimentLock:
    """Exclusive use of a folder, held through ``flock`` on a file in it; the kernel gives it back when the holder
    dies.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / LOCK_FILE
        self._file: IO[str] | None = None

    def acquire(self) -> None:
        file = open(self.path, "a+")  # noqa: SIM115 - stays open as long as the lock is held
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            holder = file.read().strip() or "unknown process"
            file.close()
            raise ExperimentInUseError(
                f"{self.path.parent} is in use by another run ({holder}); "
                "wait for it, stop it, or choose another --experiment"
            ) from None
        file.seek(0)
        file.truncate()
        file.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
        file.flush()
        self._file = file

    def release(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def prepare_experiment_dir(cfg: Config) -> ExperimentLock:
    """Apply ``restart_behavior`` to an existing folder, create the folder if needed and lock it.

    ``resume`` keeps what is there; ``restart`` and ``overwrite`` move it aside to the first free name, so that
    nothing is ever deleted. A folder another run is using is never touched (:class:`ExperimentInUseError`).
    """
    directory = Path(experiment_dir(cfg, mkdir=False))
    behavior = cfg.restart_behavior
    if behavior not in ("resume", *_ASIDE_SUFFIX):
        raise ValueError(f"--restart_behavior={behavior!r}: choose resume, restart or overwrite")

    if directory.exists():
        lock = _locked(directory)
        if behavior == "resume":
            return lock
        aside = _first_free(directory, _ASIDE_SUFFIX[behavior])
        log.warning(f"Moving the existing experiment {directory} to {aside}")
        directory.rename(aside)
        lock.release()
    directory.mkdir(parents=True, exist_ok=True)
    return _locked(directory)


def _locked(directory: Path) -> ExperimentLock:
    lock = ExperimentLock(directory)
    lock.acquire()
    return lock


def _first_free(directory: Path, suffix: str) -> Path:
    index = 1
    while (candidate := directory.with_name(f"{directory.name}{suffix}{index:04d}")).exists():
        index += 1
    return candidate
