"""How the processes of a run are set up."""

from __future__ import annotations

import pytest

from sample_factory.ued.config.nested import Config
from sample_factory.ued.runs.assembly import device_of
from sample_factory.ued.runs.launch import num_threads


@pytest.mark.parametrize(
    ("asked", "environment", "devices", "cores", "expected"),
    [
        (0, None, 1, 1, (1, 1, 1)),
        (0, None, 1, 2, (1, 2, 2)),
        (0, None, 1, 8, (7, 1, 1)),
        (0, None, 1, 64, (16, 1, 1)),
        (0, None, 4, 9, (2, 1, 1)),
        (0, None, 4, 8, (1, 2, 2)),
        (0, None, 8, 4, (1, 1, 1)),
        (0, None, 2, 2, (1, 1, 1)),
        (1, None, 1, 2, (1, 1, 1)),
        (3, None, 1, 2, (3, 1, 1)),
        (0, "1", 1, 2, (1, 1, 1)),
        (0, "5", 1, 2, (5, 1, 1)),
        (3, "5", 1, 2, (3, 1, 1)),
    ],
)
def test_threads(
    asked: int,
    environment: str | None,
    devices: int,
    cores: int,
    expected: tuple[int, int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if environment is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", environment)
    assert num_threads(Config(n_threads=asked, n_devices=devices), cores) == expected


@pytest.mark.parametrize(
    ("name", "devices", "rank", "expected"),
    [("cpu", 1, 0, "cpu"), ("cpu", 4, 3, "cpu"), ("cuda:1", 1, 0, "cuda:1"), ("cuda", 3, 2, "cuda:2")],
)
def test_device_of_a_rank(name: str, devices: int, rank: int, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    assert str(device_of(Config(device=name, n_devices=devices), rank)) == expected


@pytest.mark.parametrize(("name", "devices"), [("cuda:3", 1), ("cuda", 4)])
def test_missing_devices(name: str, devices: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    with pytest.raises(ValueError, match="this machine has 3 GPUs"):
        device_of(Config(device=name, n_devices=devices))
