"""A UED environment of your own: importing this module makes it known, with its flags.

python -m sample_factory.ued.train --env_module=sf_examples.ued.lava_grid --env_name=LavaGrid --xpid=lava_dr \
    --n_parallel=32 --n_rollout_steps=64 --lr=0.001 --discount=0.98 --student_entropy_coef=0.01 \
    --n_total_updates=300 --lava_max_lava=10
python -m sample_factory.ued.train --env_module=sf_examples.ued.lava_grid --env_name=LavaGrid --xpid=lava_accel \
    --train_runner=plr --ued_score=positive_value_loss --plr_mutation_fn=default --plr_n_mutations=4 \
    --n_parallel=32 --n_rollout_steps=64 --lr=0.001 --discount=0.98 --student_entropy_coef=0.01 --n_total_updates=300

The parts: levels with a sampler, metrics, edits and equality in ``lava_levels``, the environment in ``lava_env``, the
environment of a teacher in ``lava_teacher``.
"""

from __future__ import annotations

from sample_factory.cfg.flags.flag import at_least
from sample_factory.ued.config.flag import Group, flag
from sample_factory.ued.config.parser import register_flag_group
from sample_factory.ued.envs.registration import register_ued_env
from sf_examples.ued.lava_env import LavaGridEnv
from sf_examples.ued.lava_levels import edit_lava_levels, same_lava_levels
from sf_examples.ued.lava_teacher import LavaTeacherEnv

ENV_NAME = "LavaGrid"

_STUDENT_FLAGS = Group(
    title="Lava grid",
    dest="env_args",
    prefix="lava",
    condition={"env_name": (ENV_NAME,)},
    extension=True,
    flags=(
        flag("lava_height", int, 7, "Rows of the grid.", bounds=at_least(3)),
        flag("lava_width", int, 7, "Columns of the grid.", bounds=at_least(3)),
        flag("lava_max_lava", int, 12, "Most tiles of lava in a random level.", bounds=at_least(0)),
        flag("lava_max_wind", float, 0.3, "Strongest wind: probability that a move goes astray.", bounds=at_least(0)),
        flag("lava_max_episode_steps", int, 50, "Step limit of an episode.", bounds=at_least(1)),
    ),
)

_TEACHER_FLAGS = Group(
    title="Lava grid: teacher environment",
    dest="ued_env_args",
    prefix="lava_ued",
    condition={"train_runner": ("paired",), "env_name": (ENV_NAME,)},
    extension=True,
    flags=(
        flag("lava_ued_n_lava", int, 12, "Tiles of lava the teacher places.", bounds=at_least(0)),
        flag("lava_ued_noise_dim", int, 10, "Length of the noise vector of the teacher.", bounds=at_least(1)),
    ),
)


def register() -> None:
    """Make the environment and its flags known; repeated calls change nothing."""
    register_ued_env(
        ENV_NAME,
        LavaGridEnv,
        teacher=LavaTeacherEnv,
        mutators={"default": edit_lava_levels},
        comparators={"default": same_lava_levels},
        override=True,
    )
    register_flag_group(_STUDENT_FLAGS)
    register_flag_group(_TEACHER_FLAGS)


register()
