"""The flag tables: one declaration per flag, the single source of argparse, value checks and reference page.

Sections stand in the order in which flags are added to the parser, which is also the order of keys in config.json.
"""

from __future__ import annotations

from typing import Any

from sample_factory.cfg.flags.curriculum import CURRICULUM
from sample_factory.cfg.flags.environment import ENVIRONMENT
from sample_factory.cfg.flags.evaluation import EVALUATION
from sample_factory.cfg.flags.experiment import EXPERIMENT
from sample_factory.cfg.flags.flag import Flag, Range, Section
from sample_factory.cfg.flags.learning import LEARNING
from sample_factory.cfg.flags.model import MODEL
from sample_factory.cfg.flags.pbt import PBT
from sample_factory.cfg.flags.reporting import REPORTING
from sample_factory.cfg.flags.sampling import REGIME, SAMPLING
from sample_factory.cfg.flags.wandb import WANDB

__all__ = [
    "ALL_SECTIONS",
    "CURRICULUM",
    "ENVIRONMENT",
    "EVALUATION",
    "EVALUATION_FLAGS",
    "EXPERIMENT",
    "FLAGS",
    "LEARNING",
    "MODEL",
    "PBT",
    "REGIME",
    "REPORTING",
    "RL_SECTIONS",
    "SAMPLING",
    "TRAINING_FLAGS",
    "TRAINING_SECTIONS",
    "WANDB",
    "Flag",
    "Range",
    "Section",
    "training_defaults",
]

RL_SECTIONS = (REGIME, LEARNING, SAMPLING, REPORTING)
TRAINING_SECTIONS = (EXPERIMENT, *RL_SECTIONS, MODEL, ENVIRONMENT, WANDB, PBT, CURRICULUM)
ALL_SECTIONS = (*TRAINING_SECTIONS, EVALUATION)

TRAINING_FLAGS: dict[str, Flag] = {flag.name: flag for section in TRAINING_SECTIONS for flag in section.flags}
EVALUATION_FLAGS: dict[str, Flag] = {flag.name: flag for flag in EVALUATION.flags}
FLAGS: dict[str, Flag] = TRAINING_FLAGS | EVALUATION_FLAGS


def training_defaults() -> dict[str, Any]:
    """Defaults of all training flags on this machine."""
    return {name: flag.default_value() for name, flag in TRAINING_FLAGS.items()}
