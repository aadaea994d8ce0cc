"""The finished episodes of a rollout, and what they sum up to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

RECENT_EPISODES = 10
"""How many finished episodes of an environment the logged return averages at most."""


@dataclass(frozen=True)
class FinishedEpisodes:
    """Where the finished episodes of a rollout lie; unfinished tails are left out.

    Episodes are ordered by environment, then by time. ``env``, ``start`` (first step) and ``end`` (the step that is
    done): int64 [N]. ``num_envs``: B.
    """

    env: Tensor
    start: Tensor
    end: Tensor
    num_envs: int

    @classmethod
    def of(cls, dones: Tensor) -> FinishedEpisodes:
        """``dones``: [T, B] bool."""
        env, end = dones.T.nonzero(as_tuple=True)
        start = torch.zeros_like(end)
        start[1:] = torch.where(env[1:] == env[:-1], end[:-1] + 1, 0)
        return cls(env, start, end, dones.shape[1])

    @property
    def lengths(self) -> Tensor:
        """Steps of every episode, int64 [N]."""
        return self.end - self.start + 1

    def sums(self, signal: Tensor) -> Tensor:
        """Sum over the steps of every episode, float64 [N], of ``signal`` [T, B].

        Differences of running sums would lose digits in float32, and scores are compared with each other for equality.
        """
        running = torch.cat([signal.new_zeros([1, self.num_envs], dtype=torch.float64), signal.double().cumsum(0)])
        return running[self.end + 1, self.env] - running[self.start, self.env]

    def means(self, signal: Tensor) -> Tensor:
        """Mean over the steps of every episode, float64 [N]."""
        return self.sums(signal) / self.lengths

    def counts(self) -> Tensor:
        """Finished episodes of every environment, int64 [B]."""
        return torch.bincount(self.env, minlength=self.num_envs)


def recent_return(rewards: Tensor, episodes: FinishedEpisodes) -> float:
    """Mean over environments of the mean return of their last (at most ten) episodes; 0 where none has finished.

    ``rewards``: [T, B].
    """
    counts = episodes.counts()
    last_of_env = counts.cumsum(0)[episodes.env] - 1
    age = last_of_env - torch.arange(len(episodes.env), device=rewards.device)
    returns = episodes.sums(rewards) * (age < RECENT_EPISODES)
    totals = torch.zeros(episodes.num_envs, dtype=torch.float64, device=rewards.device)
    totals.index_add_(0, episodes.env, returns)
    return float((totals / counts.clamp(1, RECENT_EPISODES)).mean())
