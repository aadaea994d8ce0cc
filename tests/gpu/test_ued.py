"""UED on a GPU: trains, stops and goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.ued.harness import METHODS, rows, train_here

pytestmark = pytest.mark.timeout(180)


@pytest.mark.parametrize("method", ["dr", "robust_plr", "accel", "parallel_plr", "paired", "sfl"])
def test_trains_and_goes_on(tmp_path: Path, method: str) -> None:
    train_here(tmp_path, *METHODS[method], "--device=cuda", "--n_total_updates=2")
    train_here(tmp_path, *METHODS[method], "--device=cuda", "--n_total_updates=4", "--from_last_checkpoint")
    assert rows(tmp_path / "run")[-1]["n_updates"] == "4"


def test_what_was_trained_on_a_gpu_goes_on_without_one(tmp_path: Path) -> None:
    train_here(tmp_path, *METHODS["robust_plr"], "--device=cuda", "--n_total_updates=2")
    train_here(tmp_path, *METHODS["robust_plr"], "--device=cpu", "--n_total_updates=3", "--from_last_checkpoint")
    assert rows(tmp_path / "run")[-1]["n_updates"] == "3"
