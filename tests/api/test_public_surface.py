"""The imports and call forms of scripts written for Sample Factory 2."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import runpy
from collections.abc import Iterator
from typing import Any

import pytest

from tests.api import public_names, public_names_components

TABLES = {
    name: table
    for module in (public_names, public_names_components)
    for name, table in vars(module).items()
    if isinstance(table, dict) and not name.startswith("_")
}
# Parameters callers pass only by position; in Sample Factory 2 they have names that say nothing.
POSITIONAL = {"x", "t", "d", "lt", "s", "v", "p", "f", "xs"}
ANY_DEFAULT = object()


def entries() -> Iterator[tuple[str, str]]:
    for table in TABLES.values():
        for module, names in table.items():
            for line in names.replace("; ", "\n").splitlines():
                if line.strip():
                    yield module, line.strip()


def resolve(module_name: str, dotted_name: str) -> Any:
    found = importlib.import_module(module_name)
    for name in dotted_name.split("."):
        found = getattr(found, name)
    return found


def expected_parameters(entry: str) -> inspect.Signature:
    """Signature written in a table line."""
    function = ast.parse(f"def f({entry.split('(', 1)[1]}: pass").body[0]
    assert isinstance(function, ast.FunctionDef)
    namespace: dict[str, Any] = {}
    exec(compile(ast.Module([function], []), entry, "exec"), {"Exception": Exception}, namespace)
    return inspect.signature(namespace["f"])


def actual_parameters(module: str, name: str) -> list[inspect.Parameter]:
    target = resolve(module, name)
    parameters = list(inspect.signature(target).parameters.values())
    if "." in name and parameters and parameters[0].name == "self":
        return parameters[1:]
    return parameters


def mismatches(expected: inspect.Signature, actual: list[inspect.Parameter]) -> Iterator[str]:
    """Why calls written for ``expected`` would not work."""
    takes_any = any(p.kind is p.VAR_POSITIONAL for p in actual)
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    wanted = [p for p in expected.parameters.values() if p.kind not in variable]
    for position, want in enumerate(wanted):
        if position >= len(actual) or actual[position].kind in variable:
            if not takes_any:
                yield f"parameter {position} ({want.name}) is missing"
            continue
        have = actual[position]
        if want.kind is not want.POSITIONAL_ONLY and want.name not in POSITIONAL and want.name != have.name:
            yield f"parameter {position} is called {have.name}, not {want.name}"
        if want.default is not want.empty and want.default is not ... and have.default != want.default:
            yield f"the default of {want.name} is {have.default}, not {want.default}"
        if want.default is ... and have.default is have.empty:
            yield f"{want.name} has no default"
    for extra in actual[len(wanted) :]:
        has_variable = any(p.kind in variable for p in expected.parameters.values())
        if extra.default is extra.empty and extra.kind not in variable and not has_variable:
            yield f"{extra.name} is an additional parameter without a default"


@pytest.mark.parametrize(("module", "entry"), [pytest.param(m, e, id=f"{m}:{e.split('(')[0]}") for m, e in entries()])
def test_name_exists_with_its_call_form(module: str, entry: str) -> None:
    name = entry.split("(", 1)[0]
    target = resolve(module, name)
    if "(" in entry:
        assert callable(target)
        problems = list(mismatches(expected_parameters(entry), actual_parameters(module, name)))
        assert not problems, f"{module}.{name}{inspect.signature(target)}: {problems}"


def test_empty_module_of_default_evaluator_imports() -> None:
    importlib.import_module("sample_factory.algo.evaluators.default_evaluator")


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize(
    ("module", "program"),
    [
        ("train", "sf_examples.train_gym_env"),
        ("eval", "sample_factory.enjoy"),
        ("export_onnx", "sf_examples.export_onnx_gym_env"),
    ],
)
def test_modules_that_are_no_programs_say_so_instead_of_doing_nothing(module: str, program: str) -> None:
    with pytest.raises(SystemExit, match=f"Nothing was .* `python -m {program}`"):
        runpy.run_module(f"sample_factory.{module}", run_name="__main__")
    assert importlib.util.find_spec(program) is not None


def test_the_check_itself_sees_differences() -> None:
    def actual(cfg: Any, obs_space: Any = 3, *, more: Any) -> None: ...

    parameters = list(inspect.signature(actual).parameters.values())
    assert not list(mismatches(expected_parameters("f(cfg, obs_space=3, **kwargs)"), parameters))
    assert list(mismatches(expected_parameters("f(config, obs_space=3, **kwargs)"), parameters))
    assert list(mismatches(expected_parameters("f(cfg, obs_space=4, **kwargs)"), parameters))
    assert list(mismatches(expected_parameters("f(cfg, obs_space=3, third=1, fourth=1)"), parameters))
    assert list(mismatches(expected_parameters("f(cfg, obs_space=3)"), parameters))


def test_constants_have_the_values_scripts_compare_with() -> None:
    from sample_factory.algo.utils import misc
    from sample_factory.utils.algo_version import ALGO_VERSION

    status = misc.ExperimentStatus
    assert (status.SUCCESS, status.FAILURE, status.INTERRUPTED) == (0, 1, 2)
    keys = (misc.EPISODIC, misc.LEARNER_ENV_STEPS, misc.TRAIN_STATS, misc.TIMING_STATS, misc.STATS_KEY)
    assert keys == ("episodic", "learner_env_steps", "train", "timing", "stats")
    assert (misc.SAMPLES_COLLECTED, misc.POLICY_ID_KEY) == ("samples_collected", "policy_id")
    assert (misc.EPS, misc.MAGIC_FLOAT, misc.MAGIC_INT) == (1e-8, -4242.42, 43)
    assert misc.new_trajectories_signal(2) == "p2_trajectories"
    assert misc.advance_rollouts_signal(3) == "advance3"
    assert ALGO_VERSION == 83


def test_model_factory_attributes() -> None:
    from sample_factory.model.model_factory import ModelFactory

    factory = ModelFactory()
    for name in (
        "make_actor_critic_func",
        "make_model_encoder_func",
        "make_model_core_func",
        "make_model_decoder_func",
    ):
        assert callable(getattr(factory, name)), name
