"""The package reads flags of its own through ``flag_value``: scripts may have options of the same names."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import sample_factory
from sample_factory.cfg.shadowing import EXTENSIONS

ROOT = Path(sample_factory.__file__).parent

# Checks see a configuration in which such names have our defaults; the UED package has flags of its own.
OTHER_RULES = ("cfg", "ued")


def direct_reads(code: str) -> Iterator[tuple[int, str]]:
    """Line and name of each flag of ours that is read from something called cfg."""
    for node in ast.walk(ast.parse(code)):
        source, name = None, None
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            source, name = node.value, node.attr
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
            source, name = node.value, constant(node.slice)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
            source, name = node.args[0], constant(node.args[1])
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "get"
            and node.args
        ):
            source, name = node.func.value, constant(node.args[0])
        if source is not None and name in EXTENSIONS and "cfg" in ast.unparse(source):
            yield node.lineno, str(name)


def constant(node: ast.expr) -> object:
    return node.value if isinstance(node, ast.Constant) else None


def is_checked(path: Path) -> bool:
    return not path.relative_to(ROOT).as_posix().startswith(tuple(f"{p}/" for p in OTHER_RULES))


def test_no_flag_of_ours_is_read_directly() -> None:
    paths = [path for path in sorted(ROOT.rglob("*.py")) if is_checked(path)]
    assert len(paths) > 100
    reads = [(path.relative_to(ROOT).as_posix(), *read) for path in paths for read in direct_reads(path.read_text())]
    allowed = [("train.py", "env_module")]  # asks whether the script gave one, after it asked whose name it is
    assert [read for read in reads if (read[0], read[2]) not in allowed] == []


def test_the_check_sees_direct_reads() -> None:
    code = 'self.cfg.ui\ngetattr(cfg, "ui", 1)\ncfg_dict(cfg).get("ui")\nself._cfg["ui"]\ncfg.ui = 1\nx.ui\ncfg.gamma'
    assert [line for line, _ in direct_reads(code)] == [1, 2, 3, 4]
