"""Unsupervised environment design: train agents on levels that a curriculum chooses, edits or builds.

The names below are the public interface. They are imported when they are first used, so that commands that only read
flags start quickly.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sample_factory.ued.config.flag import Group, UedFlag
    from sample_factory.ued.config.parser import register_flag_group
    from sample_factory.ued.config.train_args import parse_train_args
    from sample_factory.ued.curricula.cvar import WorstCaseSettings, evaluate_worst_case
    from sample_factory.ued.envs.interfaces import ObservationSpec, StepOutcome, TeacherEnv, UedEnv
    from sample_factory.ued.envs.registration import make_ued_env, register_ued_env, registered_ued_envs
    from sample_factory.ued.envs.tensor_struct import TensorStruct
    from sample_factory.ued.models.actor_critic import ActorCritic
    from sample_factory.ued.models.registration import register_student_model, register_teacher_model
    from sample_factory.ued.runs.evaluation import StoredRun
    from sample_factory.ued.train import main, run

_MODULES = {
    "config.flag": ("Group", "UedFlag"),
    "config.parser": ("register_flag_group",),
    "config.train_args": ("parse_train_args",),
    "curricula.cvar": ("WorstCaseSettings", "evaluate_worst_case"),
    "envs.interfaces": ("ObservationSpec", "StepOutcome", "TeacherEnv", "UedEnv"),
    "envs.registration": ("make_ued_env", "register_ued_env", "registered_ued_envs"),
    "envs.tensor_struct": ("TensorStruct",),
    "models.actor_critic": ("ActorCritic",),
    "models.registration": ("register_student_model", "register_teacher_model"),
    "runs.evaluation": ("StoredRun",),
    "train": ("main", "run"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "ActorCritic",
    "Group",
    "ObservationSpec",
    "StepOutcome",
    "StoredRun",
    "TeacherEnv",
    "TensorStruct",
    "UedEnv",
    "UedFlag",
    "WorstCaseSettings",
    "evaluate_worst_case",
    "main",
    "make_ued_env",
    "parse_train_args",
    "register_flag_group",
    "register_student_model",
    "register_teacher_model",
    "register_ued_env",
    "registered_ued_envs",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
