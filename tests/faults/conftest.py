"""Fault tests: real processes, real signals. ``start_run`` starts a :class:`FaultRun` and cleans up after the test.

A test is named after its row of the fault matrix (``test_S1_...``). Those beyond a representative few carry the mark
``faults`` and are run by ``make test-faults`` only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.fault_run import FaultRun


@pytest.fixture
def start_run(tmp_path: Path) -> Iterator[Callable[..., FaultRun]]:
    """``start_run(*flags, fault="raise:100:0", ...)`` starts a run in ``tmp_path``; see :class:`FaultRun`."""
    runs: list[FaultRun] = []

    def start(*flags: str, folder: Path = tmp_path, **kwargs: Any) -> FaultRun:
        runs.append(FaultRun(folder, *flags, **kwargs))
        return runs[-1]

    yield start
    for run in runs:
        run.kill_everything()
