"""Flags of population-based training."""

from __future__ import annotations

from sample_factory.cfg.flags.flag import Flag, Section, at_least, between, finite, positive, str2bool

PBT = Section(
    "pbt",
    "Population-based training",
    (
        Flag("with_pbt", str2bool, False, "Optimise hyperparameters and reward shaping while several policies train."),
        Flag(
            "pbt_mix_policies_in_one_env",
            str2bool,
            True,
            "Agents of one environment may be controlled by different policies. Also used without --with_pbt.",
        ),
        Flag(
            "pbt_period_env_steps",
            int,
            5_000_000,
            "Environment steps of a policy between two updates of it.",
            bounds=at_least(0),
            quantity=True,
        ),
        Flag(
            "pbt_start_mutation",
            int,
            20_000_000,
            "Environment steps before the first update.",
            bounds=at_least(0),
            quantity=True,
        ),
        Flag(
            "pbt_replace_fraction",
            float,
            0.3,
            "Share of the population that counts as best, and share that counts as worst and may be replaced.",
            bounds=between(0, 1),
        ),
        Flag(
            "pbt_mutation_rate",
            float,
            0.15,
            "Probability that a hyperparameter changes in an update.",
            bounds=between(0, 1),
        ),
        Flag(
            "pbt_replace_reward_gap",
            float,
            0.1,
            "A policy is replaced only if the better one is ahead by more than this share of its objective.",
            bounds=finite(),
        ),
        Flag(
            "pbt_replace_reward_gap_absolute",
            float,
            1e-6,
            "A policy is replaced only if the better one is ahead by more than this.",
            bounds=finite(),
        ),
        Flag("pbt_optimize_gamma", str2bool, False, "Treat the discount factor as a hyperparameter to optimise."),
        Flag(
            "pbt_target_objective",
            str,
            "true_objective",
            "Episode statistic to maximise. Environments without an objective of their own report the reward here.",
        ),
        Flag("pbt_perturb_min", float, 1.1, "Smallest factor by which a number is changed.", bounds=positive()),
        Flag("pbt_perturb_max", float, 1.5, "Largest factor by which a number is changed.", bounds=positive()),
    ),
)
