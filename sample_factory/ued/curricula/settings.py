"""Settings of prioritised replay, of mutation and of sampling for learnability."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sample_factory.ued.curricula.common import RunnerSettings
from sample_factory.ued.curricula.level_buffer import BufferSettings
from sample_factory.ued.curricula.scores import SIGNED_SCORES, STUDENT_SCORES

CRITERIA = ("batch", "easy", "hard")


@dataclass(frozen=True)
class MutationSettings:
    """``criterion``: which replayed levels are parents: all (``batch``), or the ``num_parents`` with the lowest
    (``easy``) or highest (``hard``) score. ``num_edits``: per mutation.
    """

    operator: str
    num_edits: int
    criterion: str = "batch"
    num_parents: int = 0

    def __post_init__(self) -> None:
        if self.num_edits < 1:
            raise ValueError(
                f"--plr_n_mutations={self.num_edits} would leave levels as they are; give at least 1, or no "
                f"--plr_mutation_fn"
            )
        if self.criterion not in CRITERIA:
            raise ValueError(f"--plr_mutation_criterion={self.criterion}: choose one of {', '.join(CRITERIA)}")

    def check_batch(self, num_levels: int) -> None:
        """Parents are repeated to fill a batch of ``num_levels``."""
        if self.criterion == "batch":
            return
        if self.num_parents < 1 or num_levels % self.num_parents:
            raise ValueError(
                f"--plr_mutation_subsample_size={self.num_parents} must divide the {num_levels} levels of a process, "
                f"because --plr_mutation_criterion={self.criterion} repeats each parent to refill the batch"
            )


@dataclass(frozen=True)
class ReplaySettings:
    """``robust``: learn from replayed levels only. ``parallel``: new, replayed and mutated levels share one rollout.
    ``unique``: keep one of equal levels.
    """

    buffer: BufferSettings
    score: str
    replay_prob: float = 0.5
    robust: bool = True
    parallel: bool = False
    unique: bool = False
    mutation: MutationSettings | None = None

    def __post_init__(self) -> None:
        if self.score not in STUDENT_SCORES:
            raise ValueError(
                f"--ued_score={self.score} compares several students; with --train_runner=plr choose one of "
                f"{', '.join(STUDENT_SCORES)}"
            )
        if self.score in SIGNED_SCORES and not self.buffer.use_ranks:
            raise ValueError(
                f"--ued_score={self.score} can be negative and is no weight; use --plr_use_score_ranks=True"
            )
        if not 0 <= self.replay_prob <= 1:
            raise ValueError(f"--plr_replay_prob={self.replay_prob} must lie between 0 and 1")

    @classmethod
    def of(cls, config: Any, runner: RunnerSettings) -> ReplaySettings:
        """From the parsed configuration."""
        args = config.train_runner_args
        compat = runner.minimax_compat
        mutation = None
        if args.mutation_fn is not None:
            criterion = "batch" if compat and args.use_parallel_eval else args.mutation_criterion
            mutation = MutationSettings(
                args.mutation_fn, args.n_mutations, criterion, args.mutation_subsample_size or 0
            )
            mutation.check_batch(runner.num_levels)
        return cls(
            buffer=BufferSettings(
                capacity=args.buffer_size,
                temperature=args.temp,
                staleness_coef=args.staleness_coef,
                use_ranks=args.use_score_ranks,
                min_fill_ratio=args.min_fill_ratio,
                uniform_fallback=not compat,
                refresh_age=not compat,
            ),
            score=args.ued_score,
            replay_prob=1.0 if args.use_parallel_eval else args.replay_prob,
            robust=args.use_robust_plr,
            parallel=args.use_parallel_eval,
            unique=args.force_unique,
            mutation=mutation,
        )


@dataclass(frozen=True)
class LearnabilitySettings:
    """Of the search for levels that are neither solved nor lost.

    ``interval``: updates between two searches. Each looks at ``num_batches * batch_size`` random levels for
    ``num_steps`` steps, counts at most ``max_episodes`` episodes per level, and keeps ``num_kept`` levels.
    ``kept_share``: part of a training batch that comes from them.
    """

    interval: int = 100
    num_batches: int = 5
    batch_size: int = 5000
    num_steps: int = 2000
    max_episodes: int = 10
    num_kept: int = 1000
    kept_share: float = 0.5

    def __post_init__(self) -> None:
        if self.num_kept > self.num_batches * self.batch_size:
            raise ValueError(
                f"--sfl_buffer_size={self.num_kept} is more than the {self.num_batches * self.batch_size} levels that "
                f"are looked at; lower it, or raise --sfl_n_batches or --sfl_batch_size"
            )

    @classmethod
    def of(cls, config: Any) -> LearnabilitySettings:
        """From the parsed configuration."""
        args = config.train_runner_args
        return cls(
            interval=args.refresh_interval,
            num_batches=args.n_batches,
            batch_size=args.batch_size,
            num_steps=args.eval_steps,
            max_episodes=args.max_episodes,
            num_kept=args.buffer_size,
            kept_share=args.replay_fraction,
        )
