"""Flags that name the experiment and say how to start it."""

from __future__ import annotations

import os

from sample_factory.cfg.flags.flag import Flag, Section, between, str2bool


def default_train_dir() -> str:
    return os.path.join(os.getcwd(), "train_dir")


EXPERIMENT = Section(
    "experiment",
    "Experiment",
    (
        Flag(
            "help",
            bool,
            False,
            "Print all flags of this script and exit.",
            action="store_true",
            aliases=("-h",),
            per_run=True,
        ),
        Flag("algo", str, "APPO", "Name of the training algorithm. For information only, it is stored with the run."),
        Flag("env", str, None, "Name of the environment to train or evaluate in.", required=True),
        Flag(
            "experiment",
            str,
            "default_experiment",
            "Name of this run: the folder inside --train_dir that holds its configuration, checkpoints and logs. "
            "Names such as group/run put runs into sub-folders.",
        ),
        Flag(
            "train_dir",
            str,
            default_train_dir,
            "Folder that holds all experiments.",
            default_text="`train_dir` in the current folder",
            machine_dependent=True,
        ),
        Flag(
            "restart_behavior",
            str,
            "resume",
            "What to do if the experiment exists already: continue it from its newest checkpoint (resume), put it "
            "aside and start from zero (restart), or replace it (overwrite).",
            choices=("resume", "restart", "overwrite"),
            per_run=True,
        ),
        Flag(
            "device",
            str,
            "gpu",
            "Where the policies live. Without a usable GPU a warning is printed and the CPU is used.",
            choices=("gpu", "cpu"),
            synonyms={"cuda": "gpu", "cuda:0": "gpu"},
        ),
        Flag(
            "seed",
            int,
            None,
            "Makes random choices repeatable: weights, actions, environment seeds. Not set: different each time.",
            bounds=between(0, 2**32 - 1),
        ),
        Flag(
            "allow_fresh_start",
            str2bool,
            False,
            "Start from zero although checkpoints exist of which none can be read. Without it such a start is refused.",
            extension=True,
            per_run=True,
        ),
        Flag(
            "unsafe_load",
            str2bool,
            False,
            "Load checkpoints that hold pickled objects, which may run any code. Only for files of people you trust.",
            extension=True,
            per_run=True,
        ),
    ),
)
