"""Registry of UED environments: what can be named on a command line, and what belongs to each name."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sample_factory.ued.envs.interfaces import Comparator, EnvBuilder, Mutator, TeacherBuilder, TeacherEnv, UedEnv

COMPAT_NONE = "none"
COMPAT_MINIMAX = "minimax"


@dataclass(frozen=True)
class UedEnvEntry:
    """All that belongs to one environment id."""

    name: str
    builder: EnvBuilder
    teacher: TeacherBuilder | None
    mutators: Mapping[str, Mutator[Any]]
    comparators: Mapping[str, Comparator[Any]]


_ENTRIES: dict[str, UedEnvEntry] = {}


def register_ued_env(
    name: str,
    builder: EnvBuilder,
    *,
    teacher: TeacherBuilder | None = None,
    mutators: Mapping[str, Mutator[Any]] | None = None,
    comparators: Mapping[str, Comparator[Any]] | None = None,
    override: bool = False,
) -> None:
    """Make `name` known.

    `builder(**options)` gives the student environment; `teacher(student_env, **options)` the environment in which a
    teacher builds its levels (PAIRED); `mutators` and `comparators` are chosen by id, ``default`` if nobody chooses.
    ValueError if the name is taken and `override` is not set.
    """
    if not name:
        raise ValueError("a UED environment needs a name that is not empty")
    if name in _ENTRIES and not override:
        raise ValueError(f"UED environment {name!r} is registered already: choose another name or pass override=True")
    _ENTRIES[name] = UedEnvEntry(name, builder, teacher, dict(mutators or {}), dict(comparators or {}))


def unregister_ued_env(name: str) -> None:
    """Forget `name` (for tests and notebooks)."""
    get_entry(name)
    del _ENTRIES[name]


def registered_ued_envs() -> list[str]:
    """All names, sorted."""
    return sorted(_ENTRIES)


def get_entry(name: str) -> UedEnvEntry:
    """ValueError with the nearest names if `name` is unknown."""
    if name not in _ENTRIES:
        raise ValueError(f"unknown UED environment {name!r}: {suggest(name, _ENTRIES)}")
    return _ENTRIES[name]


def make_ued_env(name: str, **options: Any) -> UedEnv[Any, Any]:
    """Student environment `name`. `options` as its builder takes them, see :func:`env_options`."""
    entry = get_entry(name)
    _check_options(f"UED environment {name!r}", options, env_options(name))
    return entry.builder(**options)


def make_teacher_env(name: str, student_env: UedEnv[Any, Any], **options: Any) -> TeacherEnv[Any, Any]:
    """Environment of the teacher of `name`. Sizes come from `student_env`, the rest from `options`."""
    builder = _teacher_builder(name)
    _check_options(f"teacher of UED environment {name!r}", options, teacher_options(name))
    return builder(student_env, **options)


def env_options(name: str) -> dict[str, inspect.Parameter]:
    """Options of the builder of `name`, with defaults and annotations."""
    return _parameters(get_entry(name).builder)


def teacher_options(name: str) -> dict[str, inspect.Parameter]:
    """Options of the teacher builder of `name`; the student environment is not one of them."""
    parameters = _parameters(_teacher_builder(name))
    return dict(list(parameters.items())[1:])


def get_mutator(name: str, mutator_id: str = "default") -> Mutator[Any]:
    """Mutation operator of environment `name`; ValueError if there is none of this id."""
    return _lookup("mutation operator", name, mutator_id, get_entry(name).mutators)


def get_comparator(name: str, comparator_id: str = "default") -> Comparator[Any]:
    """Equality of levels of environment `name`; ValueError if there is none of this id."""
    return _lookup("comparator", name, comparator_id, get_entry(name).comparators)


def is_minimax_compat(compat: str | None) -> bool:
    """Whether the behaviour of the published minimax is asked for; ValueError unless `compat` is none or minimax."""
    if compat in (None, COMPAT_NONE):
        return False
    if compat == COMPAT_MINIMAX:
        return True
    raise ValueError(f"compat has to be {COMPAT_NONE!r} or {COMPAT_MINIMAX!r}, got {compat!r}")


def _teacher_builder(name: str) -> TeacherBuilder:
    builder = get_entry(name).teacher
    if builder is None:
        known = ", ".join(n for n in registered_ued_envs() if _ENTRIES[n].teacher is not None)
        raise ValueError(f"UED environment {name!r} has no teacher environment. Environments with one: {known}")
    return builder


def _lookup(kind: str, env_name: str, key: str, table: Mapping[str, Any]) -> Any:
    if key not in table:
        raise ValueError(f"unknown {kind} {key!r} of UED environment {env_name!r}: {suggest(key, table)}")
    return table[key]


def _check_options(what: str, options: Mapping[str, Any], allowed: Mapping[str, inspect.Parameter]) -> None:
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in allowed.values()):
        return
    for key in options:
        if key not in allowed:
            raise ValueError(f"{what} has no option {key!r}: {suggest(key, allowed)}")


def _parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(function).parameters)


def suggest(name: str, known: Iterable[str]) -> str:
    """The nearest of the known names as a question; all of them if none is near."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        return "did you mean " + " or ".join(repr(n) for n in near) + "?"
    return "known are " + (", ".join(names) if names else "none")
