"""What a checkpoint may hold, and what is never run or saved."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sample_factory.algo.learning import checkpoints as ckpt
from sample_factory.algo.learning.checkpoints import CheckpointError, CheckpointStore
from sample_factory.utils import checkpoint_files

from .test_checkpoints import make_checkpoint, names, newest


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(str(tmp_path), keep=2)


# --- content ---


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_L3_non_finite_weights_are_never_saved(store: CheckpointStore, tmp_path: Path, bad: float) -> None:
    store.save_latest(make_checkpoint(1))
    poisoned = make_checkpoint(2)
    poisoned["model"]["w"][1, 2] = bad
    with pytest.raises(ckpt.NonFiniteStateError, match="w"):
        store.save_latest(poisoned)
    assert names(tmp_path) == ["checkpoint_000000001_100.pth"]


class _Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.marker),))


def test_C10_malicious_pickle_never_runs(store: CheckpointStore, tmp_path: Path) -> None:
    store.save_latest(make_checkpoint(1))
    marker = tmp_path / "owned"
    evil = make_checkpoint(2, payload=_Malicious(marker))
    torch.save(evil, tmp_path / "checkpoint_000000002_200.pth")
    (tmp_path / "checkpoint_000000003_300.pth").write_bytes(pickle.dumps(evil))

    loaded = newest(store)
    assert loaded is not None and loaded["train_step"] == 1
    assert not marker.exists()
    assert "checkpoint_000000002_200.pth" in names(tmp_path), "intact but refused: not renamed"
    with pytest.raises(CheckpointError, match="checkpoint_000000002"):
        ckpt.read_checkpoint(str(tmp_path / "checkpoint_000000002_200.pth"), "cpu")


def test_objects_that_could_not_be_loaded_again_are_refused_when_saving(store: CheckpointStore, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="plain"):
        store.save_latest(make_checkpoint(1, payload=_Malicious(tmp_path / "owned")))
    assert not (tmp_path / "owned").exists()
    assert names(tmp_path) == []


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_C11_numpy_scalars_of_both_numpy_generations(store: CheckpointStore, tmp_path: Path, module: str) -> None:
    """The original stores `best_performance` as a NumPy float64 once a best model was saved."""
    path = tmp_path / "checkpoint_000000007_700.pth"
    torch.save(make_checkpoint(7) | {"best_performance": np.float64(22.6), "train_step": np.int64(7)}, path)
    _rename_pickled_module(path, module)
    loaded = ckpt.read_checkpoint(str(path), "cpu")
    assert loaded["best_performance"] == 22.6 and type(loaded["best_performance"]) is float
    assert loaded["train_step"] == 7 and type(loaded["train_step"]) is int


def _rename_pickled_module(path: Path, module: str) -> None:
    """Rewrite the pickle inside the archive as the other NumPy generation would have written it."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    name = next(member for member in members if member.endswith("data.pkl"))
    for written in (b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"):
        members[name] = members[name].replace(written, f"c{module}\n".encode())
    assert f"c{module}\n".encode() in members[name]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for member, content in members.items():
            archive.writestr(member, content)


def test_numpy_object_scalars_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        checkpoint_files._numeric_scalar(np.dtype("O"), b"12345678")
    with pytest.raises(CheckpointError):
        checkpoint_files._numeric_scalar(np.dtype("f8"), "text")


def test_arrays_of_subclasses_are_kept(store: CheckpointStore) -> None:
    store.save_latest(make_checkpoint(1, history=np.arange(5.0)))
    loaded = newest(store)
    assert loaded is not None
    np.testing.assert_array_equal(loaded["history"], np.arange(5.0))


def test_other_archives_are_not_checkpoints() -> None:
    buffer = io.BytesIO()
    torch.save([1, 2, 3], buffer)
    buffer.seek(0)
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        ckpt.deserialize(buffer, "cpu")
