"""Flags of curricula over the levels of an environment."""

from __future__ import annotations

from sample_factory.cfg.flags.flag import Flag, Section, at_least, between, positive, str2bool

CURRICULUM = Section(
    "curriculum",
    "Curriculum over levels",
    (
        Flag(
            "curriculum",
            str,
            "none",
            "How levels are chosen: none lets the environment choose, dr draws random ones, plr replays those with a "
            "high score (prioritised level replay), accel edits them as well.",
            choices=("none", "dr", "plr", "accel"),
            extension=True,
        ),
        Flag(
            "curriculum_score",
            str,
            "max_mc",
            "Score of a level, from the values of the policy that played it: its best return minus the value, or the "
            "mean positive or absolute advantage.",
            choices=("max_mc", "positive_value_loss", "l1_value_loss"),
            extension=True,
        ),
        Flag(
            "curriculum_replay_prob",
            float,
            0.5,
            "Probability that an episode replays a stored level once the buffer is warm.",
            bounds=between(0, 1),
            extension=True,
        ),
        Flag(
            "curriculum_buffer_size",
            int,
            128,
            "Levels that are stored.",
            bounds=at_least(1),
            extension=True,
        ),
        Flag(
            "curriculum_staleness_coef",
            float,
            0.3,
            "Weight of the time since a level was last played in the replay distribution.",
            bounds=between(0, 1),
            extension=True,
        ),
        Flag(
            "curriculum_temp",
            float,
            1.0,
            "Temperature of the score distribution; scores count with the exponent 1 / temperature.",
            bounds=positive(),
            extension=True,
        ),
        Flag(
            "curriculum_use_score_ranks",
            str2bool,
            True,
            "Weights of levels come from the ranks of their scores instead of the scores.",
            extension=True,
        ),
        Flag(
            "curriculum_min_fill_ratio",
            float,
            0.5,
            "Nothing is replayed until this share of the buffer is filled.",
            bounds=between(0, 1),
            extension=True,
        ),
        Flag(
            "curriculum_robust",
            str2bool,
            True,
            "Only replayed levels are trained on; new ones are played to be judged (robust PLR).",
            extension=True,
        ),
        Flag(
            "curriculum_n_mutations",
            int,
            20,
            "Edits that make a new level out of a replayed one, with --curriculum=accel.",
            bounds=at_least(1),
            extension=True,
        ),
    ),
)
