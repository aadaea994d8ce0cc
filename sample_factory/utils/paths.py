"""Where things live on disk: experiment folder layout, temporary folder, directory creation."""

from __future__ import annotations

import getpass
import os
import shutil
import stat
import tempfile
from os.path import join
from pathlib import Path

from sample_factory.utils.typing import Config

CONFIG_FILE_NAME = "config.json"
LEGACY_CONFIG_FILE_NAME = "cfg.json"
SUMMARIES_DIR_NAME = ".summary"

# Experiment folders that were not there until this process asked for them.
_made_experiment_dirs: set[str] = set()


def ensure_dir_exists(path: str | os.PathLike[str]) -> str:
    """Create the directory and its parents when absent; returns the path."""
    os.makedirs(path, exist_ok=True)
    return str(path)


def maybe_ensure_dir_exists(path: str | os.PathLike[str], mkdir: bool) -> str:
    """Like `ensure_dir_exists` when `mkdir`, otherwise only returns the path."""
    return ensure_dir_exists(path) if mkdir else str(path)


def safe_ensure_dir_exists(path: str | os.PathLike[str]) -> str:
    """Like `ensure_dir_exists`; a file in the way is left for the caller to stumble over."""
    try:
        return ensure_dir_exists(path)
    except FileExistsError:
        return str(path)


def remove_if_exists(file: str | os.PathLike[str]) -> None:
    """Delete the file; an absent one is fine."""
    Path(file).unlink(missing_ok=True)


def get_username() -> str:
    """Login name, or the numeric user id where no name is known (containers)."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return str(os.getuid())


def project_tmp_dir(mkdir: bool = True) -> str:
    """`<system temporary directory>/sf2_<user name>`."""
    return maybe_ensure_dir_exists(join(tempfile.gettempdir(), f"sf2_{get_username()}"), mkdir)


def private_cache_dir() -> Path:
    """`$XDG_CACHE_HOME/sample_factory` or `~/.cache/sample_factory`: files that only this user may write.

    It may not exist yet; see `ensure_private_dir`.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser(), "sample_factory")


def ensure_private_dir(path: Path) -> None:
    """Create the folder for this user alone.

    PermissionError if it exists and somebody else could have put files there.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = path.stat()
    if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"{path} is not private: it belongs to another user, or others may write to it")


def experiments_dir(cfg: Config, mkdir: bool = True) -> str:
    """The folder that holds all experiments: `cfg.train_dir`."""
    return maybe_ensure_dir_exists(cfg.train_dir, mkdir)


def wandb_dir(cfg: Config, mkdir: bool = True) -> str:
    """Folder for the local files of Weights & Biases: `cfg.wandb_dir`."""
    return maybe_ensure_dir_exists(cfg.wandb_dir, mkdir)


def experiment_dir(cfg: Config, mkdir: bool = True) -> str:
    """`<train_dir>/<experiment>`."""
    path = join(experiments_dir(cfg, mkdir), cfg.experiment)
    if mkdir and not os.path.exists(path):
        ensure_dir_exists(path)
        _made_experiment_dirs.add(os.path.realpath(path))
    return maybe_ensure_dir_exists(path, mkdir)


def is_made_by_this_process(directory: str | os.PathLike[str]) -> bool:
    """Whether the folder is one that `experiment_dir` made in this process."""
    return os.path.realpath(directory) in _made_experiment_dirs


def summaries_dir(experiment_dir_: str, mkdir: bool = True) -> str:
    """`<experiment>/.summary`, parent of one TensorBoard folder per policy."""
    return maybe_ensure_dir_exists(join(experiment_dir_, SUMMARIES_DIR_NAME), mkdir)


def cfg_file(cfg: Config, mkdir: bool = True) -> str:
    """`<experiment>/config.json`; pass `mkdir=False` when only reading."""
    return join(experiment_dir(cfg, mkdir), CONFIG_FILE_NAME)


def cfg_file_old(cfg: Config, mkdir: bool = True) -> str:
    """`<experiment>/cfg.json`, the name used by experiments older than version 2.0.2."""
    return join(experiment_dir(cfg, mkdir), LEGACY_CONFIG_FILE_NAME)


def get_free_disk_space_mb(cfg: Config) -> float:
    """Free space (MiB) on the disk that holds the experiments."""
    existing = Path(experiments_dir(cfg, mkdir=False)).absolute()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free / 2**20
