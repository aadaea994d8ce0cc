"""Reading checkpoint files: names, order, safe loading, side files.

Nothing stored in a file is ever run: only tensors, plain containers, and numbers in NumPy's format are accepted, unless
a caller states its trust with :func:`trusting_files`. A side file ``.<name>.sum`` holds size and hash of the checkpoint
beside it. It is written last, so it may be absent.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import time
import zipfile
from collections.abc import Iterator
from contextvars import ContextVar
from fnmatch import fnmatch
from typing import Any, NamedTuple

import numpy as np
import torch

from sample_factory.utils.logging import log

CheckpointDict = dict[str, Any]

LATEST_PREFIX = "checkpoint"
BEST_PREFIX = "best"
MILESTONES_DIR = "milestones"

# Beyond what the original saves. One key for the whole state of a run, one for its configuration as JSON.
RUN_STATE_KEY = "run_state"
CURRICULUM_KEY = "curriculum"
CONFIG_KEY = "cfg"

_FILE_NAME = re.compile(r"(?P<prefix>checkpoint|best)_(?P<train_step>\d+)_(?P<env_steps>\d+)(?P<metric>_.+)?\.pth")
_SIDE_NAME = re.compile(r"\.(?P<of>.+\.pth)\.sum")
_NUM_READ_ATTEMPTS = 3
_READ_RETRY_SEC = 0.1
_MAX_KNOWN = 1000


class CheckpointError(RuntimeError):
    """A checkpoint cannot be loaded or must not be written."""


class CorruptCheckpointError(CheckpointError):
    """The bytes of the file are damaged: incomplete archive, wrong size, hash or check sums."""


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


# --- side files ---


class SideFile(NamedTuple):
    """What was written into a checkpoint: its size in bytes and SHA-256 in hex."""

    size: int
    sha256: str

    @classmethod
    def of(cls, data: bytes) -> SideFile:
        return cls(len(data), hashlib.sha256(data).hexdigest())

    def to_bytes(self) -> bytes:
        return json.dumps(self._asdict()).encode()


def side_path(path: str) -> str:
    directory, name = os.path.split(path)
    return os.path.join(directory, f".{name}.sum")


def checkpoint_of_side_file(name: str) -> str | None:
    """Name of the checkpoint that a side file belongs to; None if it is no name of a side file."""
    match = _SIDE_NAME.fullmatch(name)
    return None if match is None or parse_checkpoint_name(match["of"]) is None else match["of"]


def read_side_file(path: str) -> SideFile | None:
    """The side file of the checkpoint ``path``; None if there is none that can be used."""
    try:
        with open(side_path(path), encoding="utf-8") as file:
            side = SideFile(**json.load(file))
    except (OSError, ValueError, TypeError):
        return None
    return side if isinstance(side.size, int) and isinstance(side.sha256, str) else None


# --- content ---


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

_trusts_files: ContextVar[bool] = ContextVar("trusts_files", default=False)


@contextlib.contextmanager
def trusting_files(trust: bool = True) -> Iterator[None]:
    """``--unsafe_load``: within the context checkpoints may hold any pickled object, and so run any code."""
    token = _trusts_files.set(trust)
    try:
        yield
    finally:
        _trusts_files.reset(token)


def deserialize(source: str | io.BytesIO, device: torch.device | str, mmap: bool = False) -> CheckpointDict:
    """Read a checkpoint; the tensors are placed on ``device``, with ``mmap`` read from the file when they are used."""
    weights_only = not _trusts_files.get()
    with torch.serialization.safe_globals(_SAFE_GLOBALS):
        checkpoint = torch.load(source, map_location=device, weights_only=weights_only, mmap=mmap or None)
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
    _verify_bytes(path)
    try:
        return deserialize(path, device)
    except OSError:
        raise
    except CheckpointError as exc:
        raise CheckpointError(f"{path} was not loaded: {exc}") from exc
    except Exception as exc:
        is_refused = "weights_only" in str(exc)
        reason = str(exc).strip().splitlines()[0] if is_refused else exc
        hint = "; if you trust whoever wrote it: --unsafe_load=True" if is_refused else ""
        raise CheckpointError(f"{path} was not loaded: {reason}{hint}") from exc


def _verify_bytes(path: str) -> None:
    """torch does not verify the check sums of the archive, so a flipped bit in a weight would go unnoticed.

    A file that differs from its side file may have been replaced on purpose, by hand or by Sample Factory 2: whether it
    is damaged is decided by the check sums inside it.
    """
    side = read_side_file(path)
    if side is not None:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size == side.size and hashlib.file_digest(file, "sha256").hexdigest() == side.sha256:
                return
        log.debug(f"{path} is not the file its side file describes")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except OSError:
        raise
    except Exception as exc:
        raise CorruptCheckpointError(f"{path} is damaged: {exc}") from exc
    if damaged is not None:
        raise CorruptCheckpointError(f"{path} is damaged: wrong check sum of {damaged}")


def peek(path: str) -> CheckpointDict | None:
    """The checkpoint with tensors that are not read yet, unverified: for small entries. None if that fails."""
    try:
        return deserialize(path, "cpu", mmap=True)
    except Exception as exc:
        log.debug(f"Could not look into {path}: {exc}")
        return None


# By path: modification time, size, progress. Every file is read only once for this.
_known_progress: dict[str, tuple[int, int, tuple[int, int]]] = {}


def progress_of(path: str) -> tuple[int, int]:
    """``(train_step, env_steps)`` by content, by name if the file cannot be read."""
    try:
        status = os.stat(path)
    except OSError:
        return _progress_in(path)
    known = _known_progress.get(path)
    if known is not None and known[:2] == (status.st_mtime_ns, status.st_size):
        return known[2]
    return remember_progress(path, _progress_in(path))


def remember_progress(path: str, progress: tuple[int, int]) -> tuple[int, int]:
    """For those who know the content of a file, because they have just written it."""
    with contextlib.suppress(OSError):
        status = os.stat(path)
        if len(_known_progress) >= _MAX_KNOWN:
            _known_progress.clear()
        _known_progress[path] = (status.st_mtime_ns, status.st_size, progress)
    return progress


def _progress_in(path: str) -> tuple[int, int]:
    content = peek(path) or {}
    try:
        return int(content["train_step"]), int(content["env_steps"])
    except (KeyError, TypeError, ValueError):
        name = parse_checkpoint_name(path)
        return (name.train_step, name.env_steps) if name is not None else (-1, -1)


def by_progress(paths: list[str]) -> list[str]:
    """Least progress first. A file that was renamed or copied by hand counts as what it holds, not as it is called."""
    return sorted(paths, key=lambda path: (progress_of(path), os.path.basename(path)))


def saved_configuration(experiment_dir: str) -> tuple[dict[str, Any], str] | None:
    """Copy of ``config.json`` in the newest checkpoint that has one, and the path of that checkpoint."""
    for path in _newest_of_every_policy(experiment_dir):
        text = (peek(path) or {}).get(CONFIG_KEY)
        with contextlib.suppress(ValueError, TypeError):
            saved = json.loads(text)  # type: ignore[arg-type]
            if isinstance(saved, dict):
                return saved, path
    return None


def _newest_of_every_policy(experiment_dir: str) -> Iterator[str]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for name in sorted(os.listdir(experiment_dir)):
            folder = os.path.join(experiment_dir, name)
            if name.startswith("checkpoint_p"):
                yield from by_progress(list_checkpoints(folder, f"{LATEST_PREFIX}_*"))[::-1]
                yield from by_progress(list_checkpoints(folder, f"{BEST_PREFIX}_*"))[::-1]
                yield from list_checkpoints(os.path.join(folder, MILESTONES_DIR))[::-1]
