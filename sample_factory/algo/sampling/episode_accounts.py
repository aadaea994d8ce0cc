"""Returns and lengths of the episodes under way, without work for steps in which nothing ends."""

from __future__ import annotations

import numpy as np


class EpisodeAccounts:
    """Accounts of ``n`` agents. Raw rewards are kept per block, and summed up when an episode or the block ends."""

    def __init__(self, n: int, rollout: int, frames_per_step: int):
        self.rewards = np.zeros((rollout, n), np.float64)  # of the current block
        self._frames_per_step = frames_per_step
        self._first_step = [0] * n  # step of the current block at which the episode under way began
        self._earlier_reward = np.zeros(n, np.float64)  # what the episode got in earlier blocks
        self._earlier_steps = np.zeros(n, np.int64)

    def finish_episode(self, row: int, step: int) -> tuple[float, int]:
        """The episode of this agent ended with this step of the block: its return and its length in frames."""
        first, last = self._first_step[row], step + 1
        reward = self._earlier_reward[row] + self.rewards[first:last, row].sum()
        num_steps = int(self._earlier_steps[row]) + last - first
        self._first_step[row] = last
        self._earlier_reward[row] = 0.0
        self._earlier_steps[row] = 0
        return float(reward), num_steps * self._frames_per_step

    def finish_block(self) -> None:
        """Carry the episodes under way over into the next block."""
        num_steps, n = self.rewards.shape
        self._earlier_reward += self.rewards.sum(axis=0)
        self._earlier_steps += num_steps
        for row, first in enumerate(self._first_step):
            if first > 0:
                self._earlier_reward[row] = self.rewards[first:, row].sum()
                self._earlier_steps[row] = num_steps - first
        self._first_step = [0] * n
