"""Options of the whole suite."""

from __future__ import annotations

import re
from collections.abc import Iterator
from copy import deepcopy

import pytest

from sample_factory.algo.utils.context import SampleFactoryContext, set_global_context, sf_global_context

# Tests of the fault matrix carry its rows in their names: test_E4_E5_environment_that_...
_FAULT_ROW = re.compile(r"test_[A-Z]\d+_")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fault-matrix", action="store_true", help="only tests of the fault matrix, the long ones as well"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--fault-matrix"):
        chosen = [item for item in items if _FAULT_ROW.match(item.name) and item.get_closest_marker("soak") is None]
        config.hook.pytest_deselected(items=[item for item in items if item not in set(chosen)])
        items[:] = chosen


@pytest.fixture(autouse=True)
def own_registrations() -> Iterator[None]:
    """Models that a test registers, and environments that it forgets, are no business of the next one.

    Environments that it registers stay: their modules are imported only once. Not those of local functions, which no
    process that a later test starts could be sent.
    """
    before = sf_global_context()
    kept = SampleFactoryContext()
    kept.env_registry, kept.env_modules = dict(before.env_registry), dict(before.env_modules)
    kept.model_factory = deepcopy(before.model_factory)
    yield
    after = sf_global_context()
    lasting = {
        name: make for name, make in after.env_registry.items() if "<locals>" not in getattr(make, "__qualname__", "")
    }
    kept.env_registry = {**lasting, **kept.env_registry}
    kept.env_modules = {**after.env_modules, **kept.env_modules}
    set_global_context(kept)
