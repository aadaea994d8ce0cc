"""Observations like those of mazes, and small networks for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sample_factory.ued.envs.interfaces import ObservationSpec
from sample_factory.ued.models.actor_critic import ActorCritic
from sample_factory.ued.models.registration import make_student_model

STUDENT_SPEC = ObservationSpec(image=(5, 5, 3), scalars={"agent_dir": 4}, vectors={})
TEACHER_SPEC = ObservationSpec(image=(15, 15, 3), scalars={"time": 62}, vectors={"noise": 50})
NUM_ACTIONS = 7

S5_OPTIONS = {"recurrent_arch": "s5", "s5_n_layers": 2, "s5_n_blocks": 2, "s5_layernorm_pos": "post"}
CORE_OPTIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "lstm": {"recurrent_arch": "lstm"},
    "gru": {"recurrent_arch": "gru"},
    "s5": S5_OPTIONS,
}


def small_student(core: str, seed: int = 0, **options: Any) -> ActorCritic:
    size = {} if core == "none" else {"recurrent_hidden_dim": 16}
    generator = torch.Generator().manual_seed(seed)
    chosen = {**CORE_OPTIONS[core], **size, "hidden_dim": 8, "n_conv_filters": 4, **options}
    return make_student_model("default_student_cnn", STUDENT_SPEC, NUM_ACTIONS, chosen, generator)


def random_observations(shape: list[int], generator: torch.Generator) -> dict[str, Tensor]:
    """Observations ``[*shape, ...]`` of few different values, as in mazes."""
    return {
        "image": torch.randint(0, 3, [*shape, 5, 5, 3], generator=generator).float() / 10,
        "agent_dir": torch.randint(0, 4, shape, generator=generator),
    }
