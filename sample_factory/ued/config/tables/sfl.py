"""Flags of sampling for learnability (Rutherford et al., NeurIPS 2024): group ``train_runner_args``."""

from __future__ import annotations

from sample_factory.cfg.flags.flag import at_least, between
from sample_factory.ued.config.flag import Group, flag

_SFL = Group(
    title="Sampling for learnability (extension)",
    dest="train_runner_args",
    prefix="sfl",
    condition={"train_runner": ("sfl",)},
    extension=True,
    flags=(
        flag("sfl_refresh_interval", int, 100, "Updates between two selections of levels.", bounds=at_least(1)),
        flag("sfl_n_batches", int, 5, "Batches of random levels looked at per selection.", bounds=at_least(1)),
        flag("sfl_batch_size", int, 5000, "Levels in such a batch.", bounds=at_least(1)),
        flag("sfl_eval_steps", int, 2000, "Steps in which a level is tried.", bounds=at_least(1)),
        flag("sfl_max_episodes", int, 10, "Only so many first episodes of a level count.", bounds=at_least(1)),
        flag(
            "sfl_buffer_size", int, 1000, "Levels that are kept: those with the highest p (1 - p).", bounds=at_least(1)
        ),
        flag(
            "sfl_replay_fraction",
            float,
            0.5,
            "Part of the batch that comes from them, rounded up.",
            bounds=between(0, 1),
        ),
    ),
)

SFL_GROUPS = (_SFL,)
