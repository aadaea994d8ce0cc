"""Flags stored at the top of the parsed result."""

from __future__ import annotations

from sample_factory.cfg.flags.flag import at_least
from sample_factory.ued.config.flag import Group, flag, switch

RUNNERS = ("dr", "plr", "paired", "sfl")

_TOP_LEVEL = Group(
    title="Run",
    dest=None,
    flags=(
        flag("seed", int, 1, "Seed of all random numbers of the run.", bounds=at_least(0)),
        flag("agent_rl_algo", str, "ppo", "Learner.", choices=("ppo",)),
        flag("n_total_updates", int, 30000, "Stop once every student has had this many updates.", bounds=at_least(0)),
        flag("train_runner", str, "dr", "Curriculum.", choices=RUNNERS),
        flag("n_devices", int, 1, "Processes; the environments are split over them.", bounds=at_least(1)),
        flag("student_model_name", str, "default_student_cnn", "Registered name of the student network."),
        flag("env_name", str, "Maze", "Registered environment."),
        switch("verbose", False, "Print every logged row as a table, too.", value_optional=True),
        flag("xpid", str, "latest", "Name of the run directory inside --log_dir."),
        flag("log_dir", str, "~/logs/minimax/", "Folder of run directories; ~ and environment variables are expanded."),
        flag("log_interval", int, 1, "Cycles between rows of logs.csv; 0: no log.", bounds=at_least(0)),
        switch(
            "from_last_checkpoint",
            False,
            "Continue from checkpoint.pt of the run directory if it exists.",
            value_optional=True,
        ),
        flag(
            "checkpoint_interval",
            int,
            0,
            "Cycles between saves of checkpoint.pt; 0: only at the end of the run.",
            bounds=at_least(0),
        ),
        flag(
            "archive_interval",
            int,
            0,
            "Cycles between saves of checkpoint_<tick>.pt, which are kept; 0: never.",
            bounds=at_least(0),
        ),
        switch("archive_init_checkpoint", False, "Keep the untrained weights as checkpoint_0.pt.", value_optional=True),
        flag("test_interval", int, 10, "Cycles between evaluations; 0: never.", bounds=at_least(0)),
    ),
)

_EXTENSIONS = Group(
    title="Run (extensions)",
    dest=None,
    extension=True,
    flags=(
        flag(
            "config",
            str,
            None,
            "Take flags from this JSON file (relative to the current folder) or shipped configuration (maze/dr); the "
            "command line wins over it.",
        ),
        flag("env_module", str, None, "Python module to import first; it registers environments, models and flags."),
        flag("device", str, "cpu", "Where to compute: cpu, cuda or cuda:<index>; gpu is another word for cuda."),
        flag(
            "n_threads",
            int,
            0,
            "Threads of an operation per process; 0: OMP_NUM_THREADS, or else chosen from the number of cores.",
            bounds=at_least(0),
        ),
        flag(
            "cuda_graphs",
            str,
            "auto",
            "On a GPU, record rollouts and optimiser steps as CUDA graphs, which saves the launches of single kernels. "
            "auto: networks made of parts of this package, and environments that say is_capturable. always: also other "
            "networks, which must compute the same operations every time. never: launch kernels one by one.",
            choices=("auto", "always", "never"),
        ),
        flag(
            "ued_compat",
            str,
            "none",
            "minimax: reproduce its behaviour where that is known to change results.",
            choices=("none", "minimax"),
        ),
        flag(
            "level_grid_interval",
            int,
            0,
            "Cycles between pictures of the best levels in the buffer; 0: never.",
            bounds=at_least(0),
        ),
        flag("level_grid_size", int, 16, "Levels in a picture.", bounds=at_least(1)),
    ),
)

_TEACHER_MODEL_NAME = Group(
    title="Teacher network",
    dest=None,
    condition={"train_runner": ("paired",)},
    flags=(flag("teacher_model_name", str, None, "Registered name of the teacher network; needed."),),
)

TOP_LEVEL_GROUPS = (_TOP_LEVEL, _EXTENSIONS, _TEACHER_MODEL_NAME)
