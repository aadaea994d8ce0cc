"""Flags of the Weights & Biases integration."""

from __future__ import annotations

import os

from sample_factory.cfg.flags.flag import Flag, Section, str2bool


def default_wandb_dir() -> str:
    return os.path.join(os.getcwd(), "wandb")


WANDB = Section(
    "wandb",
    "Weights & Biases",
    (
        Flag("with_wandb", str2bool, False, "Send summaries to Weights & Biases."),
        Flag("wandb_user", str, None, "User or team name.", default_text="your default entity"),
        Flag("wandb_project", str, "sample_factory", "Project name."),
        Flag("wandb_group", str, None, "Group the run belongs to.", default_text="name of the environment"),
        Flag("wandb_job_type", str, "SF", "Job type shown for the run."),
        Flag("wandb_tags", str, [], "Tags that help to find the run.", nargs="*"),
        Flag(
            "wandb_dir",
            str,
            default_wandb_dir,
            "Folder for local files of Weights & Biases.",
            default_text="`wandb` in the current folder",
            machine_dependent=True,
        ),
    ),
)
