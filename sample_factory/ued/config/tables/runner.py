"""Flags of the curricula: group ``train_runner_args``."""

from __future__ import annotations

from sample_factory.cfg.flags.flag import at_least, between, positive
from sample_factory.ued.config.flag import Group, flag, switch

DEST = "train_runner_args"
SCORES = (
    "relative_regret",
    "mean_relative_regret",
    "population_regret",
    "neg_return",
    "l1_value_loss",
    "positive_value_loss",
    "max_mc",
    "value_disagreement",
)

_COMMON = Group(
    title="Curriculum",
    dest=DEST,
    flags=(
        flag("n_students", int, 1, "Students.", bounds=at_least(1)),
        flag("n_parallel", int, 1, "Different levels per cycle.", bounds=at_least(1)),
        flag("n_eval", int, 1, "Copies of each level; the batch is n_parallel * n_eval.", bounds=at_least(1)),
        flag("n_rollout_steps", int, 250, "Steps per environment and cycle.", bounds=at_least(1)),
        flag("lr", float, 1e-4, "Learning rate of the students at the start.", bounds=at_least(0)),
        flag(
            "lr_final",
            float,
            None,
            "Learning rate of the students at the end of a linear schedule; none: constant.",
            value_optional=True,
            bounds=at_least(0),
        ),
        flag(
            "lr_anneal_steps",
            int,
            0,
            "Optimiser steps of the schedule; 0: constant.",
            value_optional=True,
            bounds=at_least(0),
        ),
        flag("max_grad_norm", float, 0.5, "Gradients of an agent are scaled to at most this norm.", bounds=positive()),
        flag("adam_eps", float, 1e-5, "Epsilon of Adam.", bounds=positive()),
        switch("track_env_metrics", False, "Log the complexity of the levels."),
        flag("discount", float, 0.995, "Discount factor of the students.", bounds=between(0, 1)),
        flag("n_unroll_rollout", int, 1, "Accepted, without effect: loops are not unrolled.", bounds=at_least(1)),
        switch("render", False, "Must stay off: there is no live window; see --level_grid_interval."),
    ),
)

_COMMON_EXTENSIONS = Group(
    title="Curriculum (extensions)",
    dest=DEST,
    extension=True,
    flags=(
        switch(
            "bootstrap_time_limits",
            False,
            "Episodes cut by the step limit are worth the value of their last observation, not 0.",
        ),
    ),
)

_UED_SCORE = Group(
    title="Score",
    dest=DEST,
    condition={"train_runner": ("plr", "paired")},
    flags=(flag("ued_score", str, "relative_regret", "Score of a level, or reward of the teacher.", choices=SCORES),),
)

_PLR = Group(
    title="Prioritised level replay and ACCEL",
    dest=DEST,
    prefix="plr",
    condition={"train_runner": ("plr",)},
    flags=(
        flag("plr_replay_prob", float, 0.5, "Probability that a cycle replays known levels.", bounds=between(0, 1)),
        flag("plr_buffer_size", int, 128, "Levels in the buffer, per student and process.", bounds=at_least(1)),
        flag("plr_staleness_coef", float, 0.3, "Weight of staleness against score.", bounds=between(0, 1)),
        flag("plr_temp", float, 1.0, "Temperature of the scores.", bounds=positive()),
        switch("plr_use_score_ranks", True, "Weigh by rank (true) or in proportion to the score (false)."),
        flag("plr_min_fill_ratio", float, 0.5, "No replay below this filled part of the buffer.", bounds=between(0, 1)),
        switch("plr_use_robust_plr", True, "Learn from replayed levels only."),
        switch("plr_use_parallel_eval", False, "New, replayed and mutated levels share one wide rollout."),
        switch("plr_force_unique", False, "Compare levels with the batch and the buffer, and keep one of each."),
        flag("plr_mutation_fn", str, None, "Mutation operator; any name turns PLR into ACCEL. Mazes have: default."),
        flag("plr_n_mutations", int, 0, "Edits per mutation.", bounds=at_least(0)),
        flag(
            "plr_mutation_criterion",
            str,
            "batch",
            "Which replayed levels are mutated: all of them, or those with the lowest or highest score.",
            choices=("batch", "easy", "hard"),
        ),
        flag(
            "plr_mutation_subsample_size",
            int,
            0,
            "Parents kept by easy and hard; each is repeated to refill the batch.",
            bounds=at_least(0),
        ),
    ),
)

RUNNER_GROUPS = (_COMMON, _COMMON_EXTENSIONS, _UED_SCORE, _PLR)
