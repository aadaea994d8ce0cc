"""No command line ever passes through a shell (names and values may contain anything)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import sample_factory

SHELL_FUNCTIONS = {"system", "popen", "getoutput", "getstatusoutput", "create_subprocess_shell"}


def uses_shell(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if (
        isinstance(call.func, ast.Attribute)
        and isinstance(call.func.value, ast.Name)
        and call.func.value.id == "platform"
    ):
        return False  # platform.system() tells the name of the operating system
    has_flag = any(keyword.arg == "shell" for keyword in call.keywords)
    return has_flag or name in SHELL_FUNCTIONS


def shell_calls(source: str) -> list[int]:
    return [node.lineno for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) and uses_shell(node)]


def test_no_module_uses_a_shell():
    root = Path(sample_factory.__file__).parent
    found = {str(path): lines for path in root.rglob("*.py") if (lines := shell_calls(path.read_text()))}
    assert found == {}


@pytest.mark.parametrize("source", ["import os; os.system('x')", "run('x', shell=True)", "os.popen('x')"])
def test_the_check_finds_shells(source):
    assert shell_calls(source) == [1]
