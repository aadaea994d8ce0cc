"""Flags of the maze environments: groups ``env_args`` and ``ued_env_args``."""

from __future__ import annotations

from sample_factory.cfg.flags.flag import at_least
from sample_factory.ued.config.flag import Group, flag, switch

_GENERATED = {"env_name": ("Maze", "Maze-MemoryMaze")}

_SIZE = Group(
    title="Mazes: levels",
    dest="env_args",
    prefix="maze",
    condition=_GENERATED,
    flags=(
        flag("maze_height", int, 13, "Rows inside the border.", bounds=at_least(3)),
        flag("maze_width", int, 13, "Columns inside the border.", bounds=at_least(3)),
        flag("maze_n_walls", int, 25, "Wall tiles drawn for a random level.", bounds=at_least(0)),
        switch("maze_replace_wall_pos", False, "Draw wall tiles with replacement.", value_optional=True),
        switch(
            "maze_sample_n_walls",
            False,
            "Draw the number of walls, too; switches maze_replace_wall_pos off.",
            value_optional=True,
        ),
    ),
)

_VIEW = Group(
    title="Mazes: observations and episodes",
    dest="env_args",
    prefix="maze",
    condition={"env_name": ("Maze*",)},
    flags=(
        switch("maze_see_agent", True, "The agent sees its own tile.", value_optional=True),
        switch("maze_normalize_obs", True, "Divide images by 10.", value_optional=True),
        switch("maze_obs_agent_pos", False, "Observe the coordinates of the agent.", value_optional=True),
        flag("maze_max_episode_steps", int, 250, "Step limit of an episode in training.", bounds=at_least(1)),
    ),
)

_EXTENSIONS = Group(
    title="Mazes (extensions)",
    dest="env_args",
    prefix="maze",
    condition={"env_name": ("Maze*",)},
    extension=True,
    flags=(
        switch("maze_one_hot_obs", False, "Images with one channel per kind of tile.", value_optional=True),
        flag("maze_agent_view_size", int, 5, "Tiles on a side of what the agent sees; odd.", bounds=at_least(3)),
    ),
)

_TEACHER = Group(
    title="Mazes: teacher environment",
    dest="ued_env_args",
    prefix="maze_ued",
    condition={"train_runner": ("paired",), **_GENERATED},
    flags=(
        switch(
            "maze_ued_replace_wall_pos",
            False,
            "Several objects may be put on one tile; otherwise the later one is moved to a random free tile.",
            value_optional=True,
        ),
        switch("maze_ued_fixed_n_wall_steps", False, "Always place all walls.", value_optional=True),
        switch(
            "maze_ued_first_wall_pos_sets_budget",
            False,
            "The tile of the first wall is also the number of walls.",
            value_optional=True,
        ),
        flag("maze_ued_noise_dim", int, 50, "Length of the noise vector of the teacher.", bounds=at_least(0)),
        flag("maze_ued_n_walls", int, 25, "Walls the teacher may place.", bounds=at_least(0)),
        switch("maze_ued_set_agent_dir", False, "The teacher picks the start direction, too.", value_optional=True),
        switch("maze_ued_normalize_obs", True, "Divide the image of the teacher by 10.", value_optional=True),
    ),
)

MAZE_GROUPS = (_SIZE, _VIEW, _EXTENSIONS, _TEACHER)
