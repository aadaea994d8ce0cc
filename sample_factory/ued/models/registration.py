"""Networks by name. ``register_student_model`` and ``register_teacher_model`` add to what is shipped."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

from torch import Generator

from sample_factory.ued.envs.interfaces import ObservationSpec
from sample_factory.ued.models.actor_critic import ActorCritic
from sample_factory.ued.models.options import ModelOptions

DEFAULT_STUDENT, DEFAULT_TEACHER = "default_student_cnn", "default_teacher_cnn"
# The shipped student knows where it is from what it sees alone, even if the environment offers its position.
_IGNORED_BY_STUDENT = ("agent_pos",)


class ModelBuilder(Protocol):
    """How a registered network is made. ``options`` are those of the flags, without prefix."""

    def __call__(
        self, spec: ObservationSpec, num_actions: int, options: Mapping[str, Any], generator: Generator | None
    ) -> ActorCritic: ...


_students: dict[str, ModelBuilder] = {}
_teachers: dict[str, ModelBuilder] = {}


def register_student_model(name: str, builder: ModelBuilder) -> None:
    """Make ``builder`` available as ``--student_model_name=name``."""
    _register(_students, "student", name, builder)


def register_teacher_model(name: str, builder: ModelBuilder) -> None:
    """Make ``builder`` available as ``--teacher_model_name=name``."""
    _register(_teachers, "teacher", name, builder)


def make_student_model(
    name: str,
    spec: ObservationSpec,
    num_actions: int,
    options: Mapping[str, Any],
    generator: Generator | None = None,
) -> ActorCritic:
    """The registered student network ``name``; ``generator`` draws its weights.

    :raises ValueError: if there is no such network, or an option does not exist or does not fit
    """
    return _find(_students, "student", name)(spec, num_actions, options, generator)


def make_teacher_model(
    name: str,
    spec: ObservationSpec,
    num_actions: int,
    options: Mapping[str, Any],
    generator: Generator | None = None,
) -> ActorCritic:
    """As :func:`make_student_model`, for the teacher's networks."""
    return _find(_teachers, "teacher", name)(spec, num_actions, options, generator)


def _register(registry: dict[str, ModelBuilder], kind: str, name: str, builder: ModelBuilder) -> None:
    if name in registry:
        raise ValueError(f"a {kind} model named {name!r} is registered already; choose another name")
    registry[name] = builder


def _find(registry: dict[str, ModelBuilder], kind: str, name: str) -> ModelBuilder:
    builder = registry.get(name)
    if builder is None:
        near = difflib.get_close_matches(name, registry, n=3, cutoff=0.4) or sorted(registry)
        raise ValueError(f"--{kind}_model_name={name}: there is no such network; did you mean {', '.join(near)}?")
    return builder


def _default_student(
    spec: ObservationSpec, num_actions: int, options: Mapping[str, Any], generator: Generator | None
) -> ActorCritic:
    return ActorCritic(spec, num_actions, ModelOptions.from_mapping(options), _IGNORED_BY_STUDENT, generator)


def _default_teacher(
    spec: ObservationSpec, num_actions: int, options: Mapping[str, Any], generator: Generator | None
) -> ActorCritic:
    given = {name: value for name, value in options.items() if value is not None}
    chosen = ModelOptions.from_mapping(
        {"n_conv_filters": 128, "scalar_embed_dim": 10, **given, "n_scalar_embeddings": 0}
    )
    # One row per step of the teacher's episode, whatever its length.
    return ActorCritic(spec, num_actions, replace(chosen, n_scalar_embeddings=None), (), generator)


register_student_model(DEFAULT_STUDENT, _default_student)
register_teacher_model(DEFAULT_TEACHER, _default_teacher)
