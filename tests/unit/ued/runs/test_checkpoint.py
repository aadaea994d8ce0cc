"""Checkpoints are complete or not there, are plain data, and fit only the network they were made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sample_factory.algo.learning import checkpoints
from sample_factory.algo.learning.checkpoints import NonFiniteStateError
from sample_factory.ued.runs import checkpoint
from sample_factory.utils.checkpoint_files import CheckpointError, CorruptCheckpointError


def of_weights(*values: float, **more: Any) -> dict[str, Any]:
    return {"agents": {"students": [{"model": {"w": torch.tensor(values)}}], "teacher": None}, **more}


def weights(path: Path) -> list[float]:
    found: list[float] = checkpoint.load(path)["agents"]["students"][0]["model"]["w"].tolist()
    return found


def test_round_trip(tmp_path: Path) -> None:
    state = of_weights(1.0, counters={"tick": 3}, ranks=[{"a": (torch.arange(3), None, 2.5, "x", True)}])
    checkpoint.save(tmp_path, state)
    loaded = checkpoint.load(tmp_path / "checkpoint.pt")
    assert loaded["counters"] == {"tick": 3}
    tensor, *rest = loaded["ranks"][0]["a"]
    assert tensor.tolist() == [0, 1, 2] and rest == [None, 2.5, "x", True]
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_archives_stay(tmp_path: Path) -> None:
    for tick in (0, 5, 10):
        checkpoint.save(tmp_path, of_weights(float(tick)), archive_tick=tick)
    checkpoint.save(tmp_path, of_weights(99.0))
    assert [path.name for path in checkpoint.archives(tmp_path)] == [f"checkpoint_{tick}.pt" for tick in (0, 5, 10)]
    assert [weights(path) for path in checkpoint.archives(tmp_path)] == [[0.0], [5.0], [10.0]]
    assert weights(checkpoint.latest_path(tmp_path)) == [99.0]


@pytest.mark.parametrize("failing", ["os.fsync", "os.replace"])
def test_a_failed_save_leaves_the_previous_one(failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save(tmp_path, of_weights(1.0))

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(checkpoints.os, failing.removeprefix("os."), fail)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(tmp_path, of_weights(2.0))
    monkeypatch.undo()
    assert weights(checkpoint.latest_path(tmp_path)) == [1.0]
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_killed_writer_leaves_nothing_that_counts(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, of_weights(1.0))
    (tmp_path / ".checkpoint.pt.123.tmp").write_bytes(b"half")
    (tmp_path / ".checkpoint_5.pt.123.tmp").write_bytes(b"half")
    assert checkpoint.archives(tmp_path) == []
    checkpoint.save(tmp_path, of_weights(2.0))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_broken_weights_do_not_replace_good_ones(bad: float, tmp_path: Path) -> None:
    checkpoint.save(tmp_path, of_weights(1.0))
    with pytest.raises(NonFiniteStateError, match="student 0: w"):
        checkpoint.save(tmp_path, of_weights(1.0, bad))
    assert weights(checkpoint.latest_path(tmp_path)) == [1.0]


def test_the_teacher_is_looked_at_too(tmp_path: Path) -> None:
    state = of_weights(1.0)
    state["agents"]["teacher"] = {"model": {"s5": torch.tensor([complex("nan")])}}
    with pytest.raises(NonFiniteStateError, match="teacher: s5"):
        checkpoint.serialize(state)


class Harmful:
    def __reduce__(self) -> Any:
        return (print, ("run",))


@pytest.mark.parametrize("value", [Harmful(), np.float64(1.0).reshape(1), object()])
def test_only_plain_data_is_saved(value: Any, tmp_path: Path) -> None:
    with pytest.raises((CheckpointError, TypeError)):
        checkpoint.save(tmp_path, of_weights(1.0, extra=value))
    assert list(tmp_path.iterdir()) == []


def test_code_in_a_file_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "checkpoint.pt"
    torch.save({"format": checkpoint.FORMAT, "x": Harmful()}, path)
    with pytest.raises(CheckpointError, match="was not loaded"):
        checkpoint.load(path)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("damage", ["cut off", "first byte", "a weight"])
def test_damage_is_noticed(damage: str, tmp_path: Path) -> None:
    values = torch.arange(200.0)
    checkpoint.save(tmp_path, of_weights(*values.tolist()))
    path = tmp_path / "checkpoint.pt"
    data = bytearray(path.read_bytes())
    if damage == "cut off":
        del data[100:]
    else:
        data[data.index(values.numpy().tobytes()) if damage == "a weight" else 0] ^= 255
    path.write_bytes(data)
    with pytest.raises(CorruptCheckpointError, match="is damaged"):
        checkpoint.load(path)


def test_other_files_are_no_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        checkpoint.load(path)
    for content in ({"model": {}}, [1, 2]):
        torch.save(content, path)
        with pytest.raises(CheckpointError, match="is no checkpoint of this program"):
            checkpoint.load(path)
    torch.save({"format": checkpoint.FORMAT, "version": 99}, path)
    with pytest.raises(CheckpointError, match="has format version 99"):
        checkpoint.load(path)


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"w": torch.zeros(2, 3)}, "w is 2x3 there and 2x4 here"),
        ({}, "w is missing there and 2x4 here"),
        ({"w": torch.zeros(2, 4), "more": torch.zeros(1)}, "more is 1 there and missing here"),
        ({"w": torch.tensor(1.0)}, "w is a number there and 2x4 here"),
    ],
)
def test_other_networks_are_named(stored: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(CheckpointError, match=f"another network of the student 0: {message}; use the model flags"):
        checkpoint.check_weights(Path("c.pt"), "student 0", stored, {"w": torch.zeros(2, 4)})
    checkpoint.check_weights(Path("c.pt"), "student 0", stored, stored)
