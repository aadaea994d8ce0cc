"""Checkpoint files: names, atomic writing, safe loading, pruning.

A file with a checkpoint name is always complete: it is written under a hidden temporary name, flushed to the disk,
read back and only then renamed. Older files are deleted after that, never before. Loading goes from the newest file to
the oldest, never runs code stored in a file, and never ends in a silent fresh start.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import time
import zipfile
from collections.abc import Callable
from fnmatch import fnmatch
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sample_factory.utils.utils import log

CheckpointDict = dict[str, Any]

LATEST_PREFIX = "checkpoint"
BEST_PREFIX = "best"
MILESTONES_DIR = "milestones"
CORRUPT_SUFFIX = ".corrupt"
SUPERSEDED_SUFFIX = ".superseded"

_FILE_NAME = re.compile(r"(?P<prefix>checkpoint|best)_(?P<train_step>\d+)_(?P<env_steps>\d+)(?P<metric>_.+)?\.pth")
_OWN_TEMP_NAME = re.compile(r"\.(checkpoint|best)_\d+_.*\.pth\.\d+\.tmp")
_ORIGINAL_TEMP_NAMES = ("checkpoint_temp", "best_temp")

_NUM_READ_ATTEMPTS = 3
_READ_RETRY_SEC = 0.1


class CheckpointError(RuntimeError):
    """A checkpoint cannot be loaded or must not be written."""


class CorruptCheckpointError(CheckpointError):
    """The bytes of the file are damaged: incomplete archive or wrong check sums."""


class NonFiniteWeightsError(CheckpointError):
    """The weights contain NaN or infinity; saving them would destroy the run."""


class CheckpointName(NamedTuple):
    """What a file name says; ordered by training progress."""

    train_step: int
    env_steps: int
    prefix: str


def parse_checkpoint_name(path: str) -> CheckpointName | None:
    """Progress and kind encoded in a file name, ``None`` for every name that is not exactly a checkpoint's."""
    match = _FILE_NAME.fullmatch(os.path.basename(path))
    if match is None or (match["prefix"] == BEST_PREFIX) != (match["metric"] is not None):
        return None
    return CheckpointName(int(match["train_step"]), int(match["env_steps"]), match["prefix"])


def list_checkpoints(directory: str, pattern: str = "checkpoint_*") -> list[str]:
    """Paths of the checkpoints whose name matches the shell pattern; least progress first, compared as numbers."""
    found: list[tuple[CheckpointName, str]] = []
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for entry in os.scandir(directory):
            name = parse_checkpoint_name(entry.name)
            if name is not None and fnmatch(entry.name, pattern) and entry.is_file():
                found.append((name, os.path.join(directory, entry.name)))
    return [path for _, path in sorted(found)]


# --- reading ---


def _numeric_scalar(dtype: Any, data: Any) -> float | int | bool:
    """Stands in for NumPy's scalar constructor: numbers only, as plain Python values."""
    if not isinstance(dtype, np.dtype) or dtype.kind not in "fiub" or not isinstance(data, bytes):
        raise CheckpointError(f"unexpected NumPy scalar of type {dtype!r} in a checkpoint")
    return np.frombuffer(data, dtype=dtype)[0].item()


_reconstruct = np.zeros(0).__reduce__()[0]
# Checkpoints of Sample Factory 2 hold `best_performance` as a NumPy scalar, pickled under the names of NumPy 1 or 2.
_SAFE_GLOBALS: list[Any] = [
    (_numeric_scalar, "numpy.core.multiarray.scalar"),
    (_numeric_scalar, "numpy._core.multiarray.scalar"),
    (np.dtype, "numpy.dtype"),
    # Arrays, for subclasses that add some to the checkpoint.
    (_reconstruct, "numpy.core.multiarray._reconstruct"),
    (_reconstruct, "numpy._core.multiarray._reconstruct"),
    np.ndarray,
    *{type(np.dtype(code)) for code in ("f8", "f4", "f2", "i8", "i4", "u8", "u4", "?")},
]


def deserialize(source: str | io.BytesIO, device: torch.device | str) -> CheckpointDict:
    """Read a checkpoint without running any code stored in it; the tensors are placed on ``device``."""
    with torch.serialization.safe_globals(_SAFE_GLOBALS):
        checkpoint = torch.load(source, map_location=device, weights_only=True)
    if not isinstance(checkpoint, dict) or "model" not in checkpoint:
        raise CheckpointError('not a checkpoint: expected a dictionary with the key "model"')
    return checkpoint


def read_checkpoint(path: str, device: torch.device | str) -> CheckpointDict:
    """Load one file.

    Raises CorruptCheckpointError if its bytes are damaged, CheckpointError if they are intact but hold something else
    than a checkpoint (for example objects that would run code), OSError if the file cannot be read at the moment.
    """
    for attempt in range(1, _NUM_READ_ATTEMPTS + 1):
        try:
            return _read_once(path, device)
        except OSError:
            # Network file systems have short failures; a missing file will not come back.
            if attempt == _NUM_READ_ATTEMPTS or not os.path.exists(path):
                raise
            time.sleep(_READ_RETRY_SEC)
    raise AssertionError("unreachable")


def _read_once(path: str, device: torch.device | str) -> CheckpointDict:
    # torch does not verify the check sums of the archive, so a flipped bit in a weight would go unnoticed.
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except OSError:
        raise
    except Exception as exc:
        raise CorruptCheckpointError(f"{path} is damaged: {exc}") from exc
    if damaged is not None:
        raise CorruptCheckpointError(f"{path} is damaged: wrong check sum of {damaged}")

    try:
        return deserialize(path, device)
    except (OSError, CheckpointError):
        raise
    except Exception as exc:
        raise CheckpointError(f"{path} was not loaded: {exc}") from exc


def read_newest(checkpoints: list[str], device: torch.device | str) -> CheckpointDict | None:
    """The last of the files that can be loaded; ``None`` for an empty list, CheckpointError if none of them loads."""
    return load_first(list(reversed(checkpoints)), lambda path: read_checkpoint(path, device))


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


def non_finite_tensors(state_dict: dict[str, Any]) -> list[str]:
    """Names of the floating-point tensors that contain NaN or infinity."""
    named = [(k, t) for k, t in state_dict.items() if isinstance(t, Tensor) and t.is_floating_point()]
    if not named:
        return []
    finite = torch.stack([torch.isfinite(t).all() for _, t in named]).tolist()
    return [name for (name, _), is_finite in zip(named, finite, strict=True) if not is_finite]


def serialize(checkpoint: CheckpointDict) -> bytes:
    """Bytes of the checkpoint, proven to be loadable again; refuses weights that are not finite."""
    bad = non_finite_tensors(checkpoint["model"])
    if bad:
        raise NonFiniteWeightsError(f"weights are not finite and were not saved: {', '.join(bad)}")
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    data = buffer.getvalue()
    try:
        deserialize(io.BytesIO(data), "cpu")
    except Exception as exc:
        raise CheckpointError(f"save plain numbers, strings, arrays and tensors only: {exc}") from exc
    return data


def write_atomically(path: str, data: bytes) -> None:
    """Put ``data`` at ``path``: afterwards the file is complete and on the disk, or (OSError) nothing has changed."""
    directory, name = os.path.split(path)
    temp_path = os.path.join(directory, f".{name}.{os.getpid()}.tmp")
    try:
        with open(temp_path, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        with open(temp_path, "rb") as file:
            if file.read() != data:
                raise OSError(errno.EIO, "read back differs from what was written", path)
        os.replace(temp_path, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(temp_path)
        raise
    _sync_directory(directory)


def _sync_directory(directory: str) -> None:
    """Make a rename durable. Some file systems cannot sync folders; the data itself is safe already."""
    with contextlib.suppress(OSError):
        fd = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


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
        safe_metric = re.sub(r"[^\w.+-]+", "_", metric, flags=re.ASCII)
        name = f"{file_name_of(checkpoint, BEST_PREFIX)}_{safe_metric}_{metric_value:.3f}"
        path = self._write(self.directory, name, checkpoint)
        self._prune(BEST_PREFIX, 1, path)
        return path

    def save_milestone(self, checkpoint: CheckpointDict) -> str:
        """Write into ``milestones/``, where nothing is ever deleted."""
        return self._write(os.path.join(self.directory, MILESTONES_DIR), file_name_of(checkpoint), checkpoint)

    def candidates(self, kind: str) -> list[str]:
        """Files to try when loading, most wanted first. ``kind``: ``latest`` or ``best``, the others are fallbacks."""
        latest = list_checkpoints(self.directory, f"{LATEST_PREFIX}_*")[::-1]
        best = list_checkpoints(self.directory, f"{BEST_PREFIX}_*")[::-1]
        milestones = list_checkpoints(os.path.join(self.directory, MILESTONES_DIR))[::-1]
        return [*best, *latest, *milestones] if kind == "best" else [*latest, *best, *milestones]

    def set_aside(self, path: str, suffix: str = CORRUPT_SUFFIX) -> None:
        """Rename a file so that it is no checkpoint any more; its content is kept."""
        target, attempt = path + suffix, 0
        while os.path.exists(target):
            attempt += 1
            target = f"{path}{suffix}{attempt}"
        try:
            os.rename(path, target)
            log.warning(f"Renamed {path} to {os.path.basename(target)}")
        except OSError as exc:
            log.warning(f"Could not rename {path} to {os.path.basename(target)}: {exc}")

    def _write(self, directory: str, name: str, checkpoint: CheckpointDict) -> str:
        data = serialize(checkpoint)
        os.makedirs(directory, exist_ok=True)
        path = os.path.join(directory, f"{name}.pth")
        write_atomically(path, data)
        self._remove_left_overs(directory)
        return path

    def _set_aside_later_than(self, path: str) -> None:
        """The file just written is the newest by definition.

        After going back to an older or to the best checkpoint the numbers restart lower. Files with higher numbers
        belong to the abandoned continuation; left in place they would win at the next start.
        """
        written = parse_checkpoint_name(path)
        assert written is not None
        for other in list_checkpoints(self.directory, f"{LATEST_PREFIX}_*"):
            name = parse_checkpoint_name(other)
            if name is not None and name > written:
                self.set_aside(other, SUPERSEDED_SUFFIX)

    def _prune(self, prefix: str, keep: int, newest: str) -> None:
        others = [path for path in list_checkpoints(self.directory, f"{prefix}_*") if path != newest]
        for path in others[: max(0, len(others) - (keep - 1))]:
            try:
                os.remove(path)
                log.debug(f"Removed old checkpoint {path}")
            except OSError as exc:
                log.warning(f"Could not remove old checkpoint {path}: {exc}")

    def _remove_left_overs(self, directory: str) -> None:
        """Temporary files of killed processes; called only after a complete checkpoint was written."""
        with contextlib.suppress(OSError):
            for entry in os.scandir(directory):
                if _OWN_TEMP_NAME.fullmatch(entry.name) or (entry.name in _ORIGINAL_TEMP_NAMES and entry.is_file()):
                    with contextlib.suppress(OSError):
                        os.remove(entry.path)
