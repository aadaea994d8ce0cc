"""Rules for experiment names: everything a run writes or deletes lies inside its folder in the train dir."""

from __future__ import annotations

import os
from typing import Any

MAX_NAME_BYTES = 255  # longest file name on common file systems


def experiment_problems(train_dir: Any, experiment: Any) -> list[str]:
    """Problems of the pair ``--train_dir``, ``--experiment``; empty if the folder can be used.

    Nothing is created. Symbolic links are followed: the folder they lead to has to be inside the train dir as well.
    """
    problems = []
    if not isinstance(train_dir, str | os.PathLike) or not str(train_dir).strip():
        problems.append(f"--train_dir={train_dir}: must name a folder; for example --train_dir=./train_dir")
    reason = _name_reason(experiment)
    if reason is not None:
        problems.append(f"--experiment={experiment}: {reason}")
    return problems or _location_problems(os.fspath(train_dir), experiment)


def leads_outside(name: str) -> bool:
    """True if a file name inside the folder of an experiment could lead out of it."""
    return os.path.isabs(name) or ".." in name.replace(os.sep, "/").split("/") or not name.isprintable()


def _name_reason(experiment: Any) -> str | None:
    if not isinstance(experiment, str) or not experiment.strip():
        return "must not be empty, it names the folder of the run; for example --experiment=my_run"
    if os.path.isabs(experiment):
        folder, name = os.path.split(experiment.rstrip("/"))
        return f"must be relative to --train_dir; for example --train_dir={folder} --experiment={name or 'my_run'}"
    if not experiment.isprintable():
        return "must not contain control characters; for example --experiment=my_run"
    parts = experiment.replace(os.sep, "/").split("/")
    if ".." in parts or os.path.normpath(experiment) == ".":
        return "must name a folder inside --train_dir, without '.' and '..'; for example --experiment=my_run"
    if any(len(os.fsencode(part)) > MAX_NAME_BYTES for part in parts):
        return f"is too long: each part may have {MAX_NAME_BYTES} bytes; choose a shorter name"
    return None


def _location_problems(train_dir: str, experiment: str) -> list[str]:
    root = os.path.realpath(train_dir)
    folder = os.path.realpath(os.path.join(train_dir, experiment))
    if folder != root and os.path.commonpath([root, folder]) == root:
        return _obstacle_problems(root, train_dir, folder, experiment)
    parent, name = os.path.split(folder)
    repair = f"name its real place: --train_dir={parent} --experiment={name}"
    return [f"--experiment={experiment}: leads outside --train_dir through a symbolic link, to {folder}; {repair}"]


def _obstacle_problems(root: str, train_dir: str, folder: str, experiment: str) -> list[str]:
    """The folder, or the nearest parent that exists, must not be a file."""
    existing = folder
    while not os.path.exists(existing):
        existing = os.path.dirname(existing)
    if os.path.isdir(existing):
        return []
    is_inside = existing.startswith(os.path.join(root, ""))
    flag = f"--experiment={experiment}" if is_inside else f"--train_dir={train_dir}"
    return [f"{flag}: {existing} is a file, not a folder; choose another name or remove the file"]
