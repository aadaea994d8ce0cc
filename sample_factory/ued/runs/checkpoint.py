"""Checkpoint files: plain tensors, numbers and containers, which are loaded without running code.

A file with a checkpoint name is always complete: it is written under a hidden temporary name, flushed to the disk, read
back and only then renamed over the previous one.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sample_factory.algo.learning.checkpoints import (
    CheckpointError,
    CorruptCheckpointError,
    NonFiniteStateError,
    write_atomically,
)

LATEST = "checkpoint"
SUFFIX = ".pt"
FORMAT = "sample_factory.ued"
FORMAT_VERSION = 1
_ARCHIVE_NAME = re.compile(rf"{LATEST}_(\d+){re.escape(SUFFIX)}")
_TEMP_NAME = re.compile(rf"\.{LATEST}(_\d+)?{re.escape(SUFFIX)}\.\d+\.tmp")

Checkpoint = dict[str, Any]


def latest_path(directory: Path) -> Path:
    return directory / f"{LATEST}{SUFFIX}"


def archive_path(directory: Path, tick: int) -> Path:
    return directory / f"{LATEST}_{tick}{SUFFIX}"


def archives(directory: Path) -> list[Path]:
    """Kept copies, oldest first."""
    found = [(int(m[1]), path) for path in directory.iterdir() if (m := _ARCHIVE_NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def serialize(checkpoint: Checkpoint) -> bytes:
    """Bytes of the checkpoint, proven to be loadable again.

    NonFiniteStateError if a weight is NaN or infinite, so that a broken run does not replace a good checkpoint.
    """
    bad = [name for name, tensor in _weights(checkpoint) if not torch.isfinite(tensor).all()]
    if bad:
        raise NonFiniteStateError(f"weights are not finite and were not saved: {', '.join(bad[:5])}")
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "version": FORMAT_VERSION, **checkpoint}, buffer)
    data = buffer.getvalue()
    try:
        torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as exc:
        raise CheckpointError(f"state of a run must be plain tensors, numbers and containers: {exc}") from exc
    return data


def save(directory: Path, checkpoint: Checkpoint, *, archive_tick: int | None = None) -> None:
    """Replace ``checkpoint.pt``; with ``archive_tick`` write ``checkpoint_<tick>.pt``, too."""
    data = serialize(checkpoint)
    write_atomically(str(latest_path(directory)), data)
    if archive_tick is not None:
        write_atomically(str(archive_path(directory, archive_tick)), data)
    for path in directory.iterdir():  # of killed processes; the folder is locked, so none is being written
        if _TEMP_NAME.fullmatch(path.name):
            path.unlink(missing_ok=True)


def load(path: Path, device: torch.device | str = "cpu") -> Checkpoint:
    """Read a file. CheckpointError says what is wrong with it; nothing stored in it is run as code."""
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}")
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
        found = torch.load(path, map_location=device, weights_only=True)
    except OSError:
        raise
    except Exception as exc:
        raise CheckpointError(f"{path} was not loaded: {exc}") from exc
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise CheckpointError(f"{path} is no checkpoint of this program")
    if found["version"] != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {found['version']}, this program reads version {FORMAT_VERSION}"
        )
    return found


def check_weights(path: Path, owner: str, stored: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """CheckpointError if ``stored`` weights do not fit a network with ``expected`` ones."""
    shapes, own = ({k: tuple(v.shape) for k, v in d.items() if isinstance(v, Tensor)} for d in (stored, expected))
    for name in sorted(shapes.keys() | own.keys()):
        if shapes.get(name) != own.get(name):
            raise CheckpointError(
                f"{path} holds another network of the {owner}: {name} is {_shape(shapes.get(name))} there and "
                f"{_shape(own.get(name))} here; use the model flags of that run, or another --xpid"
            )


def _shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else "x".join(map(str, shape)) or "a number"


def _weights(checkpoint: Checkpoint) -> Iterator[tuple[str, Tensor]]:
    """Floating-point and complex weights of all agents by name."""
    for index, student in enumerate(checkpoint["agents"]["students"]):
        yield from _named(f"student {index}", student["model"])
    teacher = checkpoint["agents"].get("teacher")
    if teacher is not None:
        yield from _named("teacher", teacher["model"])


def _named(owner: str, weights: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    for name, value in weights.items():
        if isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex()):
            yield f"{owner}: {name}", value
