"""Flags of the evaluation during training, and of Weights & Biases."""

from __future__ import annotations

from sample_factory.cfg.flags.flag import at_least
from sample_factory.ued.config.flag import Group, flag, switch

_TEST = Group(
    title="Evaluation during training",
    dest="eval_args",
    prefix="test",
    flags=(
        flag("test_n_episodes", int, 10, "Episodes per environment and student.", bounds=at_least(1)),
        flag("test_env_names", str, None, "Environments, separated by commas; none: no evaluation."),
        flag("test_agent_idxs", str, "*", "Students, separated by commas; *: all."),
    ),
)

_MAZE_TEST = Group(
    title="Mazes: evaluation during training",
    dest="eval_env_args",
    prefix="maze_test",
    condition={"env_name": ("Maze*",)},
    flags=(
        switch("maze_test_see_agent", True, "As maze_see_agent.", value_optional=True),
        switch("maze_test_normalize_obs", True, "As maze_normalize_obs.", value_optional=True),
    ),
)

_WANDB = Group(
    title="Weights & Biases",
    dest="wandb_args",
    prefix="wandb",
    flags=(
        flag("wandb_base_url", str, "https://api.wandb.ai", "Address of the server."),
        flag("wandb_api_key", str, None, "Key; nothing is sent without it."),
        flag("wandb_entity", str, None, "Entity."),
        flag("wandb_project", str, None, "Project."),
        flag("wandb_group", str, None, "Group."),
    ),
)

EVALUATION_GROUPS = (_TEST, _MAZE_TEST, _WANDB)
