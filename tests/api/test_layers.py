"""Packages import only packages to their left."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOP = "sample_factory"

# Left to right. A package may import itself and everything in a column to its left.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("utils",),
    ("cfg",),
    ("algo.utils",),
    ("envs", "model"),
    ("algo.sampling", "algo.learning"),
    ("algo.runners",),
    ("pbt", "monitoring", "algo.evaluators"),
    ("ued",),
    ("train", "enjoy", "eval", "export_onnx", "launcher", "huggingface", "ued"),
)

# Imports to the right at module level, forced by the paths at which users import public names.
ALLOWED_AT_MODULE_LEVEL = {
    # The context holds the registry of model builders. That module imports builders only when one is called.
    ("sample_factory.algo.utils.context", "sample_factory.model.model_factory"),
}

# Imports to the right inside functions, by (module, imported module): why the function cannot do without.
_PUBLIC_PATH = "users import this module under this path, which is older than the layers"
_CURRICULUM = "sample_factory.algo.learning.level_curriculum"
_ONE_BUFFER = "the level buffer is that of the UED package, and loaded only if there is a curriculum"
ALLOWED_IN_FUNCTIONS: dict[tuple[str, str], str] = {
    (_CURRICULUM, "sample_factory.ued.curricula.level_buffer"): _ONE_BUFFER,
    (_CURRICULUM, "sample_factory.ued.curricula.stored_bytes"): _ONE_BUFFER,
    ("sample_factory.algo.utils.make_env", "sample_factory.envs.create_env"): _PUBLIC_PATH,
    ("sample_factory.algo.utils.model_sharing", "sample_factory.model.actor_critic"): _PUBLIC_PATH,
    ("sample_factory.algo.utils.shared_buffers", "sample_factory.model.model_utils"): _PUBLIC_PATH,
    ("sample_factory.utils.normalize", "sample_factory.algo.utils.running_mean_std"): _PUBLIC_PATH,
    ("sample_factory.utils.normalize", "sample_factory.algo.utils.tensor_dict"): _PUBLIC_PATH,
}


@dataclass(frozen=True)
class Import:
    module: str
    imported: str
    line: int
    in_function: bool

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.imported}"


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def layer_of(module: str) -> int | None:
    """Column of the module's package; ``None`` for other packages."""
    for level, packages in enumerate(LAYERS):
        for package in packages:
            if f"{module}.".startswith(f"{TOP}.{package}."):
                return level
    return None


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports_below(node: ast.AST, module: str, in_function: bool = False) -> Iterator[Import]:
    """Run-time imports of our packages; names imported from a package count as modules where they are ones."""
    for child in ast.iter_child_nodes(node):
        if is_type_checking(child):
            continue
        if isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{module}:{child.lineno} has a relative import"
            source = child.module or ""
            for alias in child.names:
                submodule = ROOT.joinpath(*source.split("."), f"{alias.name}.py")
                name = f"{source}.{alias.name}" if submodule.exists() else source
                yield Import(module, name, child.lineno, in_function)
        elif isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(module, alias.name, child.lineno, in_function)
        else:
            is_function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from imports_below(child, module, in_function or is_function)


def all_imports(package: str) -> list[Import]:
    paths = sorted((ROOT / package).rglob("*.py"))
    assert paths
    found = [i for path in paths for i in imports_below(ast.parse(path.read_text()), module_name(path))]
    return [i for i in found if i.imported.split(".")[0] in (TOP, "sf_examples", "tests")]


def points_right(found: Import) -> bool:
    own, other = layer_of(found.module), layer_of(found.imported)
    return own is not None and other is not None and other > own


def test_every_module_has_a_layer() -> None:
    modules = [module_name(path) for path in (ROOT / TOP).rglob("*.py")]
    without = [m for m in modules if layer_of(m) is None and m not in (TOP, f"{TOP}.algo")]
    assert not without


def test_imports_point_left() -> None:
    wrong = [i for i in all_imports(TOP) if points_right(i) and not i.in_function]
    assert [str(i) for i in wrong if (i.module, i.imported) not in ALLOWED_AT_MODULE_LEVEL] == []


def test_imports_inside_functions_point_left_or_have_a_reason() -> None:
    wrong = [i for i in all_imports(TOP) if points_right(i) and i.in_function]
    assert [str(i) for i in wrong if (i.module, i.imported) not in ALLOWED_IN_FUNCTIONS] == []


def test_allowed_exceptions_are_still_needed() -> None:
    used = {(i.module, i.imported) for i in all_imports(TOP) if points_right(i)}
    assert (ALLOWED_AT_MODULE_LEVEL | set(ALLOWED_IN_FUNCTIONS)) - used == set()


@pytest.mark.parametrize("outside", ["sf_examples", "tests"])
def test_the_package_imports_nothing_built_on_it(outside: str) -> None:
    assert [str(i) for i in all_imports(TOP) if i.imported.split(".")[0] == outside] == []


def test_examples_import_public_names_of_public_modules() -> None:
    for path in sorted((ROOT / "sf_examples").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{TOP}."):
                names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
                private = [name for name in names if name.startswith("_")]
                assert not private, f"{path.relative_to(ROOT)}:{node.lineno} imports {private}"


def test_the_check_sees_a_wrong_import() -> None:
    code = "def f():\n    from sample_factory.train import run_rl\nimport sample_factory.algo.runners.runner\n"
    found = list(imports_below(ast.parse(code), "sample_factory.utils.dicts"))
    assert [(i.in_function, points_right(i)) for i in found] == [(True, True), (False, True)]
