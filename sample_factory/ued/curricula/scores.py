"""Scores of levels: how much a student, or a population of students, could still learn there.

A *group* is the set of environments that play the same level. Scores of students (Jiang et al. 2021, "Prioritized
Level Replay" and "Replay-Guided Adversarial Environment Design") rank the levels of a buffer. Scores of populations
(Dennis et al. 2020, "Emergent Complexity and Zero-shot Transfer via Unsupervised Environment Design") are the reward
of a teacher. Only finished episodes count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sample_factory.ued.curricula.episodes import FinishedEpisodes

NO_SCORE = float("-inf")


@dataclass(frozen=True)
class ScoredRollout:
    """What scores look at.

    ``rewards`` float32 and ``dones`` bool: [T, B]. ``values``, ``advantages``: float32 [T, B, K] with K value heads, of
    the policy that acted; the first head counts unless a score says otherwise. ``group``: int64 [B], the group (below
    ``num_groups``) of every environment.
    """

    rewards: Tensor
    dones: Tensor
    values: Tensor
    advantages: Tensor
    group: Tensor
    num_groups: int

    def __post_init__(self) -> None:
        steps_envs = self.rewards.shape
        if self.dones.shape != steps_envs or self.group.shape != steps_envs[1:]:
            raise ValueError(f"dones {self.dones.shape} or group {self.group.shape} does not fit rewards {steps_envs}")
        if self.values.shape[:2] != steps_envs or self.advantages.shape != self.values.shape:
            raise ValueError(
                f"values {self.values.shape} or advantages {self.advantages.shape} does not fit rewards {steps_envs}"
            )

    @property
    def episodes(self) -> FinishedEpisodes:
        return FinishedEpisodes.of(self.dones)


@dataclass(frozen=True)
class LevelScores:
    """Per group, float32 [G]: ``scores`` (-inf: no finished episode); ``max_returns``, the best known return."""

    scores: Tensor
    max_returns: Tensor


@dataclass(frozen=True)
class _GroupedEpisodes:
    episodes: FinishedEpisodes
    group: Tensor
    num_groups: int
    counts: Tensor

    @classmethod
    def of(cls, rollout: ScoredRollout) -> _GroupedEpisodes:
        episodes = rollout.episodes
        group = rollout.group[episodes.env]
        return cls(episodes, group, rollout.num_groups, torch.bincount(group, minlength=rollout.num_groups))

    def mean(self, values: Tensor) -> Tensor:
        """Mean over the episodes of a group, 0 without any: float64 [N] -> [G]."""
        totals = values.new_zeros(self.num_groups).index_add_(0, self.group, values)
        return totals / self.counts.clamp(min=1)

    def max(self, values: Tensor) -> Tensor:
        """Largest value of a group, never below 0: float64 [N] -> [G]."""
        return values.new_zeros(self.num_groups).scatter_reduce_(0, self.group, values, "amax")


def _l1_value_loss(rollout: ScoredRollout, grouped: _GroupedEpisodes, max_returns: Tensor) -> Tensor:
    return grouped.mean(grouped.episodes.means(rollout.advantages[..., 0].abs()))


def _positive_value_loss(rollout: ScoredRollout, grouped: _GroupedEpisodes, max_returns: Tensor) -> Tensor:
    return grouped.mean(grouped.episodes.means(rollout.advantages[..., 0].clamp(min=0)))


def _max_mc(rollout: ScoredRollout, grouped: _GroupedEpisodes, max_returns: Tensor) -> Tensor:
    """ "Maximum Monte Carlo": the best return known minus the value."""
    gaps = max_returns[grouped.group] - grouped.episodes.means(rollout.values[..., 0])
    return grouped.mean(gaps)


def _value_disagreement(rollout: ScoredRollout, grouped: _GroupedEpisodes, max_returns: Tensor) -> Tensor:
    if rollout.values.shape[-1] < 2:
        raise ValueError("the score value_disagreement needs --student_value_ensemble_size of at least 2")
    return grouped.mean(grouped.episodes.means(rollout.values.std(-1, correction=0)))


def _neg_return(rollout: ScoredRollout, grouped: _GroupedEpisodes, max_returns: Tensor) -> Tensor:
    return -grouped.mean(grouped.episodes.sums(rollout.rewards))


def _return(rollout: ScoredRollout, grouped: _GroupedEpisodes, max_returns: Tensor) -> Tensor:
    return grouped.mean(grouped.episodes.sums(rollout.rewards))


_STUDENT_SCORES: dict[str, Callable[[ScoredRollout, _GroupedEpisodes, Tensor], Tensor]] = {
    "l1_value_loss": _l1_value_loss,
    "positive_value_loss": _positive_value_loss,
    "max_mc": _max_mc,
    "value_disagreement": _value_disagreement,
    "neg_return": _neg_return,
    "return": _return,
}

STUDENT_SCORES = tuple(_STUDENT_SCORES)
"""Scores that one student gives to a level."""

SIGNED_SCORES = ("max_mc", "neg_return", "return")
"""Student scores that can be negative: they cannot be weights."""

REGRET_SCORES = ("relative_regret", "mean_relative_regret", "population_regret")
"""Scores that compare the students of a population."""

TEACHER_SCORES = REGRET_SCORES + tuple(name for name in STUDENT_SCORES if name != "max_mc")
"""Scores that can reward a teacher. max_mc needs the returns of earlier visits, and a teacher's levels are new."""

PAIR_SCORES = ("relative_regret", "mean_relative_regret")
"""Scores that compare a protagonist with an antagonist."""

NUM_STUDENTS_OF_PAIRS = 2


def student_scores(name: str, rollout: ScoredRollout, previous_max: Tensor | None = None) -> LevelScores:
    """Scores of the levels of a rollout for the student that played it.

    ``previous_max``: float32 [G], the best return of every level before this rollout (-inf: none); None: all -inf.
    The result's ``max_returns`` include it.
    """
    if name not in _STUDENT_SCORES:
        raise ValueError(f"a student cannot give the score {name!r}; choose one of {', '.join(STUDENT_SCORES)}")
    grouped = _GroupedEpisodes.of(rollout)
    max_returns = grouped.max(grouped.episodes.sums(rollout.rewards))
    if previous_max is not None:
        max_returns = torch.maximum(max_returns, previous_max.double())
    scores = _STUDENT_SCORES[name](rollout, grouped, max_returns)
    scores = torch.where(grouped.counts > 0, scores, NO_SCORE)
    return LevelScores(scores.float(), max_returns.float())


def best_returns(rollout: ScoredRollout) -> Tensor:
    """Largest return of every group in this rollout alone, never below 0: float32 [G]."""
    grouped = _GroupedEpisodes.of(rollout)
    return grouped.max(grouped.episodes.sums(rollout.rewards)).float()


def population_scores(name: str, rollouts: Sequence[ScoredRollout]) -> Tensor:
    """Scores of the levels that all students have played, float32 [G]: a level without a finished episode counts as 0.

    Student 0 is the protagonist, student 1 the antagonist. ``rollouts``: one per student, with the same groups.
    """
    if name not in TEACHER_SCORES:
        raise ValueError(f"{name!r} cannot reward a teacher; choose one of {', '.join(TEACHER_SCORES)}")
    if name not in REGRET_SCORES:
        scores = torch.stack([student_scores(name, rollout).scores for rollout in rollouts])
        return torch.where(scores == NO_SCORE, 0.0, scores).mean(0)
    grouped = [_GroupedEpisodes.of(rollout) for rollout in rollouts]
    returns = [g.episodes.sums(rollout.rewards) for g, rollout in zip(grouped, rollouts, strict=True)]
    means = torch.stack([g.mean(r) for g, r in zip(grouped, returns, strict=True)])
    bests = torch.stack([g.max(r) for g, r in zip(grouped, returns, strict=True)])
    if name == "population_regret":
        return (bests.amax(0) - means.mean(0)).float()
    if len(rollouts) != NUM_STUDENTS_OF_PAIRS:
        raise ValueError(f"--ued_score={name} compares exactly two students; --n_students is {len(rollouts)}")
    antagonist = bests[1] if name == "relative_regret" else means[1]
    return (antagonist - means[0]).clamp(min=0).float()
