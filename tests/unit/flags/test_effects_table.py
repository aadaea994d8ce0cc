"""Every flag has a test of its effect, and these tests exist."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

from sample_factory.cfg.flags import FLAGS
from tests.unit.flags.effects import EFFECTS

REPOSITORY = Path(__file__).parents[3]


@functools.cache
def sources_of_functions(path: str) -> dict[str, str]:
    """Function name -> source with decorators."""
    text = (REPOSITORY / path).read_text(encoding="utf-8")
    lines = text.splitlines()
    sources = {}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            sources[node.name] = "\n".join(lines[first - 1 : node.end_lineno])
    return sources


def test_every_flag_is_in_the_table() -> None:
    assert list(EFFECTS) == list(FLAGS), "in the order of the flag tables"


@pytest.mark.parametrize("flag", EFFECTS)
def test_the_test_exists_and_is_about_the_flag(flag: str) -> None:
    path, _, test = EFFECTS[flag].partition("::")
    assert test.startswith("test_")
    assert flag in sources_of_functions(path)[test]
