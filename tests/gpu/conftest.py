"""These tests need a CUDA device; without one they are skipped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sample_factory.utils.gpu_utils import CUDA_ENVVAR

_HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def first_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the main process of a run does before anything else."""
    monkeypatch.setenv(CUDA_ENVVAR, "0")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))
