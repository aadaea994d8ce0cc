"""``meta.json``: what was run, on which code, when, and whether it came to its end."""

from __future__ import annotations

import json
import os
import platform
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from sample_factory.algo.learning.checkpoints import write_atomically
from sample_factory.ued.config.nested import Config
from sample_factory.utils.provenance import UNKNOWN_HASH, get_git_commit_hash, git_output, git_root

FILE_NAME = "meta.json"
MASK = "***"
_SECRETS = ("api_key",)
_TIME_FORMAT = "%Y-%m-%d %H:%M:%S.%f"


def masked(config: Config) -> dict[str, Any]:
    """The configuration as it may be written down: without secrets."""
    plain = config.plain()
    for group in plain.values():
        if isinstance(group, dict):
            for key in _SECRETS:
                if group.get(key) is not None:
                    group[key] = MASK
    return plain


class MetaFile:
    """The description of a run, kept up to date on the disk."""

    def __init__(self, directory: Path, config: Config) -> None:
        self.path = directory / FILE_NAME
        self._content: dict[str, Any] = {
            "config": masked(config),
            "xpid": config.xpid,
            "date_start": _now(),
            "date_end": None,
            "successful": False,
            "git": git_info(),
            "slurm": slurm_info(),
            "versions": versions(),
        }

    def start(self) -> None:
        self._write()

    def end(self, *, successful: bool) -> None:
        """``successful``: the run reached its number of updates."""
        self._content |= {"date_end": _now(), "successful": successful}
        self._write()

    def _write(self) -> None:
        write_atomically(str(self.path), (json.dumps(self._content, indent=4) + "\n").encode())


def read_meta(directory: Path) -> dict[str, Any]:
    """Content of ``meta.json``. FileNotFoundError if there is none, ValueError if it is damaged."""
    path = directory / FILE_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as exc:
        raise ValueError(f"{path} is damaged: {exc}") from exc
    if not isinstance(content, dict) or not isinstance(content.get("config"), dict):
        raise ValueError(f"{path} does not describe a run")
    return content


def git_info() -> dict[str, Any] | None:
    """Commit, branch, whether there are uncommitted changes, and folder; None outside a repository."""
    root = git_root()
    commit, _ = get_git_commit_hash()
    if root is None or commit == UNKNOWN_HASH:
        return None
    branch, status = git_output("rev-parse", "--abbrev-ref", "HEAD"), git_output("status", "--porcelain")
    return {
        "commit": commit,
        "branch": branch.strip() if branch else None,
        "is_dirty": bool(status.strip()) if status is not None else None,
        "path": root,
    }


def slurm_info() -> dict[str, str] | None:
    """The variables of the Slurm job around this process; None without one."""
    prefix = "SLURM_"
    found = {k.removeprefix(prefix).lower(): v for k, v in sorted(os.environ.items()) if k.startswith(prefix)}
    return found or None


def versions() -> dict[str, str | None]:
    try:
        own: str | None = version("sample-factory")
    except PackageNotFoundError:  # run from a folder
        own = None
    return {"python": platform.python_version(), "torch": torch.__version__, "sample_factory": own}


def _now() -> str:
    return datetime.now().strftime(_TIME_FORMAT)
