"""All flag groups of the training command, in the order in which they are parsed."""

from __future__ import annotations

from sample_factory.ued.config.flag import Group
from sample_factory.ued.config.tables.evaluation import EVALUATION_GROUPS
from sample_factory.ued.config.tables.maze import MAZE_GROUPS
from sample_factory.ued.config.tables.models import MODEL_GROUPS
from sample_factory.ued.config.tables.rl import RL_GROUPS
from sample_factory.ued.config.tables.runner import RUNNER_GROUPS
from sample_factory.ued.config.tables.sfl import SFL_GROUPS
from sample_factory.ued.config.tables.top_level import TOP_LEVEL_GROUPS

BUILT_IN_GROUPS: tuple[Group, ...] = (
    *TOP_LEVEL_GROUPS,
    *RUNNER_GROUPS,
    *SFL_GROUPS,
    *RL_GROUPS,
    *MODEL_GROUPS,
    *MAZE_GROUPS,
    *EVALUATION_GROUPS,
)

# Groups that exist even if no flag fills them.
PLACEHOLDERS = ("student_model_args", "env_args", "ued_env_args", "eval_env_args")
