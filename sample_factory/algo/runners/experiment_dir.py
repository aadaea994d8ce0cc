"""The folder of one experiment: who may use it, and what happens to an existing one."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
from pathlib import Path
from typing import IO

import psutil

from sample_factory.algo.runners.result import RunResult, read_result
from sample_factory.cfg.errors import ConfigError
from sample_factory.utils.logging import LOG_FILE_NAME
from sample_factory.utils.paths import (
    CONFIG_FILE_NAME,
    LEGACY_CONFIG_FILE_NAME,
    SUMMARIES_DIR_NAME,
    is_made_by_this_process,
)
from sample_factory.utils.typing import Config
from sample_factory.utils.utils import experiment_dir, log

LOCK_FILE = ".lock"
# What flock answers when somebody else holds the lock; everything else means that this file system has no locks.
_HELD_BY_ANOTHER = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
# What only runs write, as patterns. A configuration has to be read: other programs have a config.json, too.
_FILES_OF_RUNS = (LOCK_FILE, LOG_FILE_NAME)
_FOLDERS_OF_RUNS = (SUMMARIES_DIR_NAME, "checkpoint_p[0-9]*")
_ASIDE_SUFFIX = {"restart": "_old", "overwrite": "_overwritten"}


class ExperimentInUseError(RuntimeError):
    """Another run trains in the same folder."""


class ExperimentLock:
    """Exclusive use of a folder, held through ``flock`` on a file in it; the kernel gives it back when the holder
    dies. On a file system without locks the process named in the file decides: a dead one of this host holds nothing.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / LOCK_FILE
        self._file: IO[str] | None = None

    def acquire(self) -> None:
        """:raises ExperimentInUseError: another process holds the lock; the message names it."""
        file = open(self.path, "a+", encoding="utf-8")  # noqa: SIM115 - stays open as long as the lock is held
        file.seek(0)
        holder = file.read().strip()
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_free = True
        except OSError as exc:
            is_free = exc.errno not in _HELD_BY_ANOTHER and not _may_be_alive(holder)
        if not is_free:
            file.close()
            raise ExperimentInUseError(
                f"{self.path.parent} is in use by another run ({holder or 'unknown process'}); "
                "wait for it, stop it, or choose another --experiment"
            )
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
    nothing is ever deleted.

    :raises ExperimentInUseError: another run uses the folder; it is not touched.
    :raises ConfigError: the folder is to be moved, but is no experiment's; or it cannot be made or written to.
    """
    directory = Path(experiment_dir(cfg, mkdir=False))
    behavior = cfg.restart_behavior
    if behavior not in ("resume", *_ASIDE_SUFFIX):
        raise ValueError(f"--restart_behavior={behavior!r}: choose resume, restart or overwrite")

    if behavior != "resume" and directory.exists() and any(directory.iterdir()):
        if not is_experiment(directory):
            raise ConfigError(
                [
                    f"--restart_behavior={behavior}: no run has left a trace in {directory} (log, summaries, "
                    f"checkpoints or {CONFIG_FILE_NAME}), so it is not moved; choose another --experiment, or "
                    "--restart_behavior=resume to use it as it is"
                ]
            )
        lock = _locked(directory)
        aside = first_free(directory, _ASIDE_SUFFIX[behavior])
        log.warning(f"Moving the existing experiment {directory} to {aside}")
        directory.rename(aside)
        lock.release()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = _locked(directory)
    except OSError as exc:
        raise ConfigError(
            [
                f"--train_dir={cfg.train_dir}: the folder {directory} cannot be made, or not be written to ({exc}); "
                "choose another --train_dir, or change its permissions"
            ]
        ) from exc
    _announce_run(directory)
    return lock


def is_experiment(directory: Path) -> bool:
    """True if a run has left a trace in this folder, or this process made it.

    Any other folder is somebody's work, and its name was a mistake.
    """
    if is_made_by_this_process(directory) or any((directory / name).is_file() for name in _FILES_OF_RUNS):
        return True
    if any(path.is_dir() for pattern in _FOLDERS_OF_RUNS for path in directory.glob(pattern)):
        return True
    for name in (CONFIG_FILE_NAME, LEGACY_CONFIG_FILE_NAME):
        try:
            config = json.loads((directory / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(config, dict) and {"env", "experiment"} <= config.keys():
            return True
    return False


def is_held_by_this_process(directory: Path) -> bool:
    """True if this process has locked the folder."""
    try:
        holder = json.loads((directory / LOCK_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return holder == {"host": socket.gethostname(), "pid": os.getpid()}


def _announce_run(directory: Path) -> None:
    previous = read_result(directory)
    if previous is not None and previous.get("exit_code") is None:
        log.warning(f"The previous run in {directory} was killed: it left no result ({previous.get('cause')})")
    RunResult.of_active_run().write(directory)


def _may_be_alive(holder: str) -> bool:
    """Whether the process that a lock file names may still be there; only processes of this host can be asked."""
    try:
        process = json.loads(holder)
        return process["host"] != socket.gethostname() or psutil.pid_exists(process["pid"])
    except (ValueError, KeyError, TypeError):
        return False  # no name, no holder: the file was cut off when its writer died


def _locked(directory: Path) -> ExperimentLock:
    lock = ExperimentLock(directory)
    lock.acquire()
    return lock


def first_free(directory: Path, suffix: str) -> Path:
    """``<directory><suffix>0001``, or with the first higher number that nothing has yet."""
    index = 1
    while (candidate := directory.with_name(f"{directory.name}{suffix}{index:04d}")).exists():
        index += 1
    return candidate
