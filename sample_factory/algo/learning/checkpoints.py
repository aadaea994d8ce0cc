"""The checkpoint folder of one policy: atomic writing, pruning, and the order in which files are tried.

A file with a checkpoint name is always complete: it is written under a hidden temporary name, flushed to the disk,
read back and only then renamed. Older files are deleted after that, never before. Loading goes from the newest file to
the oldest, never runs code stored in a file, and never ends in a silent fresh start.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sample_factory.utils.checkpoint_files import (
    BEST_PREFIX,
    LATEST_PREFIX,
    MILESTONES_DIR,
    CheckpointDict,
    CheckpointError,
    CheckpointName,
    CorruptCheckpointError,
    SideFile,
    by_progress,
    checkpoint_of_side_file,
    deserialize,
    list_checkpoints,
    parse_checkpoint_name,
    peek,
    progress_of,
    read_checkpoint,
    remember_progress,
    side_path,
    trusting_files,
)
from sample_factory.utils.durable_files import is_temporary_name, set_aside, write_atomically
from sample_factory.utils.utils import log

__all__ = [
    "CheckpointDict",
    "CheckpointError",
    "CheckpointName",
    "CheckpointStore",
    "CorruptCheckpointError",
    "NonFiniteStateError",
    "deserialize",
    "list_checkpoints",
    "load_first",
    "non_finite_tensors",
    "parse_checkpoint_name",
    "read_checkpoint",
    "read_newest",
    "serialize",
    "snapshot",
    "trusting_files",
]

CORRUPT_SUFFIX = ".corrupt"
SUPERSEDED_SUFFIX = ".superseded"

# Of a policy whose best version is yet to be found.
NO_SCORE = -1e9

_METRIC_AND_SCORE = re.compile(r"best_\d+_\d+_(?P<metric>.+)_-?\d+\.\d{3}\.pth")
_ORIGINAL_TEMP_NAMES = ("checkpoint_temp", "best_temp")


class NonFiniteStateError(CheckpointError):
    """Weights or moments of the optimiser contain NaN or infinity; saving them would destroy the run."""


# --- reading ---


def read_newest(checkpoints: list[str], device: torch.device | str) -> CheckpointDict | None:
    """The newest of the files that can be loaded; ``None`` for an empty list, CheckpointError if none of them loads."""
    return load_first(by_progress(checkpoints)[::-1], lambda path: read_checkpoint(path, device))


def load_first(
    candidates: list[str],
    load: Callable[[str], CheckpointDict | None],
    on_corrupt: Callable[[str], None] | None = None,
) -> CheckpointDict | None:
    """Result of ``load`` for the first candidate where it succeeds. ``on_corrupt`` is told about damaged files."""
    problems: list[str] = []
    all_corrupt = True
    for path in candidates:
        try:
            checkpoint = load(path)
        except (CheckpointError, OSError) as exc:
            log.error(f"Could not load checkpoint {path}: {exc}")
            problems.append(f"{path}: {exc}")
            is_corrupt = isinstance(exc, CorruptCheckpointError)
            all_corrupt = all_corrupt and is_corrupt
            if is_corrupt and on_corrupt is not None:
                on_corrupt(path)
            continue
        if checkpoint is not None:
            return checkpoint
        problems.append(f"{path}: nothing was loaded")
        all_corrupt = False
    if problems:
        error = CorruptCheckpointError if all_corrupt else CheckpointError
        raise error("none of the existing checkpoints can be loaded:\n  " + "\n  ".join(problems))
    return None


# --- writing ---


def non_finite_tensors(state: Any, name: str = "") -> list[str]:
    """Names of the floating-point tensors in nested containers that contain NaN or infinity."""
    if isinstance(state, Tensor):
        return [] if _is_finite(state) else [name]
    if isinstance(state, dict):
        return [bad for key, value in state.items() for bad in non_finite_tensors(value, f"{name}.{key}".lstrip("."))]
    if isinstance(state, (list, tuple)):
        return [bad for i, value in enumerate(state) for bad in non_finite_tensors(value, f"{name}.{i}")]
    return []


def _is_finite(tensor: Tensor) -> bool:
    # The sum is a third of the work, and not finite if an element is not. It may overflow, which the second look finds.
    if not tensor.is_floating_point() or math.isfinite(float(tensor.sum())):
        return True
    return bool(torch.isfinite(tensor).all())


def snapshot(state: Any) -> Any:
    """Copy of nested containers whose tensors are copies on the CPU: training may go on while it is written."""
    if isinstance(state, Tensor):
        return state.detach().to("cpu", copy=True)
    if isinstance(state, OrderedDict):
        copied = OrderedDict((key, snapshot(value)) for key, value in state.items())
        vars(copied).update(vars(state))  # versions of modules, beside the items
        return copied
    if isinstance(state, dict):
        return {key: snapshot(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(snapshot(value) for value in state)
    return state


def serialize(checkpoint: CheckpointDict) -> bytes:
    """Bytes of the checkpoint, proven to be loadable again; refuses weights and moments that are not finite."""
    bad = non_finite_tensors(checkpoint["model"]) + non_finite_tensors(checkpoint.get("optimizer", {}), "optimizer")
    if bad:
        raise NonFiniteStateError(f"the state is not finite and was not saved: {', '.join(bad)}")
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    data = buffer.getvalue()
    try:
        with trusting_files(False):
            deserialize(io.BytesIO(data), "cpu")
    except Exception as exc:
        raise CheckpointError(f"save plain numbers, strings, arrays and tensors only: {exc}") from exc
    return data


def file_name_of(checkpoint: CheckpointDict, prefix: str = LATEST_PREFIX) -> str:
    """``<prefix>_<train_step, 9 digits>_<env_steps>``, without extension."""
    return f"{prefix}_{checkpoint['train_step']:09d}_{checkpoint['env_steps']}"


class CheckpointStore:
    """The checkpoint folder of one policy; the only writer in it."""

    def __init__(self, directory: str, keep: int) -> None:
        self.directory = directory
        self.keep = max(1, keep)

    def save_latest(self, checkpoint: CheckpointDict) -> str:
        """Write ``checkpoint_*`` and keep the newest ``keep`` of them. Returns the path."""
        path = self._write(self.directory, file_name_of(checkpoint), checkpoint)
        self._set_aside_later_than(path)
        self._prune(LATEST_PREFIX, self.keep, path)
        return path

    def save_best(self, checkpoint: CheckpointDict, metric: str, metric_value: float) -> str:
        """Write ``best_*`` and delete the previous one. In ``metric`` characters unfit for file names are replaced."""
        name = f"{file_name_of(checkpoint, BEST_PREFIX)}_{_safe_name(metric)}_{metric_value:.3f}"
        path = self._write(self.directory, name, checkpoint)
        self._prune(BEST_PREFIX, 1, path)
        return path

    def save_milestone(self, checkpoint: CheckpointDict) -> str:
        """Write into ``milestones/``, where nothing is ever deleted."""
        return self._write(os.path.join(self.directory, MILESTONES_DIR), file_name_of(checkpoint), checkpoint)

    def best_performance(self, metric: str) -> float | None:
        """Score of the best policy that is stored, by content. None if there is none; the lowest score if the best
        one is that by another metric, whose scores say nothing about this one.
        """
        scores: list[float] = []
        for path in list_checkpoints(self.directory, f"{BEST_PREFIX}_*"):
            stored = _METRIC_AND_SCORE.fullmatch(os.path.basename(path))
            if stored is not None and stored["metric"] != _safe_name(metric):
                scores.append(NO_SCORE)
            elif isinstance(value := (peek(path) or {}).get("best_performance"), float):
                scores.append(value)
        return max(scores, default=None)

    def candidates(self, kind: str) -> list[str]:
        """Files to try when loading, most wanted first. ``kind``: ``latest`` or ``best``, the others are fallbacks."""
        latest = by_progress(list_checkpoints(self.directory, f"{LATEST_PREFIX}_*"))[::-1]
        best = by_progress(list_checkpoints(self.directory, f"{BEST_PREFIX}_*"))[::-1]
        # There may be thousands: these go by name.
        milestones = list_checkpoints(os.path.join(self.directory, MILESTONES_DIR))[::-1]
        return [*best, *latest, *milestones] if kind == "best" else [*latest, *best, *milestones]

    def set_aside(self, path: str, suffix: str = CORRUPT_SUFFIX) -> None:
        """Rename a file so that it is no checkpoint any more; its content is kept."""
        if set_aside(path, suffix) is not None:
            _remove(side_path(path))

    def _write(self, directory: str, name: str, checkpoint: CheckpointDict) -> str:
        data = serialize(checkpoint)
        os.makedirs(directory, exist_ok=True)
        path = os.path.join(directory, f"{name}.pth")
        # However this is interrupted, no side file describes another file than its own: it goes first, and comes last.
        _remove(side_path(path))
        write_atomically(path, data)
        remember_progress(path, (int(checkpoint["train_step"]), int(checkpoint["env_steps"])))
        try:
            write_atomically(side_path(path), SideFile.of(data).to_bytes())
        except OSError as exc:
            log.debug(f"No side file of {path}, its own check sums will do: {exc}")
        self._remove_left_overs(directory)
        return path

    def _set_aside_later_than(self, path: str) -> None:
        """The file just written is the newest by definition.

        After going back to an older or to the best checkpoint the numbers restart lower. Files with higher numbers
        belong to the abandoned continuation; left in place they would win at the next start.
        """
        written = progress_of(path)
        for other in list_checkpoints(self.directory, f"{LATEST_PREFIX}_*"):
            if other != path and progress_of(other) > written:
                self.set_aside(other, SUPERSEDED_SUFFIX)

    def _prune(self, prefix: str, keep: int, newest: str) -> None:
        others = [path for path in by_progress(list_checkpoints(self.directory, f"{prefix}_*")) if path != newest]
        for path in others[: max(0, len(others) - (keep - 1))]:
            try:
                os.remove(path)
                log.debug(f"Removed old checkpoint {path}")
            except OSError as exc:
                log.warning(f"Could not remove old checkpoint {path}: {exc}")
                continue
            _remove(side_path(path))

    def _remove_left_overs(self, directory: str) -> None:
        """What killed processes left; called only after a complete checkpoint was written."""
        with contextlib.suppress(OSError):
            names = {entry.name for entry in os.scandir(directory) if entry.is_file()}
            for name in names:
                owner = checkpoint_of_side_file(name)
                is_orphan = owner is not None and owner not in names
                if is_temporary_name(name) or name in _ORIGINAL_TEMP_NAMES or is_orphan:
                    _remove(os.path.join(directory, name))


def _safe_name(metric: str) -> str:
    return re.sub(r"[^\w.+-]+", "_", metric, flags=re.ASCII)


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.remove(path)
