"""Runs of real processes happen under every placement of inference."""

from __future__ import annotations

import pytest

from sample_factory.algo.utils.topology import ROLLOUT, SEPARATE
from tests.integration import harness

# Modules whose tests start runs through `harness.train` or `harness.cli`.
UNDER_EVERY_PLACEMENT = {"test_training_modes", "test_multi_agent", "test_ends", "test_spaces_and_models"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.module.__name__.rpartition(".")[2] in UNDER_EVERY_PLACEMENT:
        metafunc.parametrize("inference_placement", [ROLLOUT, SEPARATE], indirect=True)


@pytest.fixture(autouse=True)
def inference_placement(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    placement = getattr(request, "param", None)
    if placement is not None:
        monkeypatch.setattr(harness, "placement", placement)
