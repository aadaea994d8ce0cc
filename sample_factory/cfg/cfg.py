"""Adds the flags of the tables to an argument parser."""

from __future__ import annotations

from argparse import ArgumentParser

from sample_factory.cfg.flags import (
    CURRICULUM,
    ENVIRONMENT,
    EVALUATION,
    EXPERIMENT,
    MODEL,
    PBT,
    RL_SECTIONS,
    WANDB,
    Section,
)


def add_section(p: ArgumentParser, section: Section) -> None:
    """Add all flags of one section as an argument group with the section's title."""
    group = p.add_argument_group(section.title)
    for flag in section.flags:
        group.add_argument(*flag.aliases, flag.option, **flag.argparse_kwargs())


def add_basic_cli_args(p: ArgumentParser) -> None:
    """Name, folder, device and seed of the experiment."""
    add_section(p, EXPERIMENT)


def add_rl_args(p: ArgumentParser) -> None:
    """Processes, learning, sampling, logs, end of training, checkpoints."""
    for section in RL_SECTIONS:
        add_section(p, section)


def add_model_args(p: ArgumentParser) -> None:
    """Flags of the default model."""
    add_section(p, MODEL)


def add_default_env_args(p: ArgumentParser) -> None:
    """Flags that any environment may read."""
    add_section(p, ENVIRONMENT)


def add_eval_args(parser: ArgumentParser) -> None:
    """Flags of evaluation scripts."""
    add_section(parser, EVALUATION)


def add_wandb_args(p: ArgumentParser) -> None:
    """Flags of the Weights & Biases integration."""
    add_section(p, WANDB)


def add_pbt_args(p: ArgumentParser) -> None:
    """Flags of population-based training."""
    add_section(p, PBT)


def add_curriculum_args(p: ArgumentParser) -> None:
    """Flags of curricula over levels."""
    add_section(p, CURRICULUM)
