"""Scores of levels from the trajectories a learner trains on: how much its policy could still learn there.

Jiang et al. 2021, "Prioritized Level Replay" and "Replay-Guided Adversarial Environment Design". Only finished episodes
count. They may be longer than a rollout, so sums are carried over from one trajectory to the next. Pure NumPy.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sample_factory.algo.utils.level_tables import parse_level_id

Floats = npt.NDArray[np.float64]
NO_SCORE = -np.inf

_STEPS, _L1, _POSITIVE, _VALUE, _RETURN = range(5)


class Episodes(NamedTuple):
    """M finished episodes. ``level_ids``: int64 ``[M]``, all others float64 ``[M]``: means over the steps of an episode
    of the absolute advantage, its positive part and the value; and the return.
    """

    level_ids: npt.NDArray[np.int64]
    l1_advantage: Floats
    positive_advantage: Floats
    value: Floats
    returns: Floats

    def where(self, is_kept: npt.NDArray[np.bool_]) -> Episodes:
        return Episodes(self.level_ids[is_kept], *(column[is_kept] for column in self[1:]))  # type: ignore[arg-type]


class EpisodeSums:
    """Sums over the episodes under way, one per environment."""

    def __init__(self, num_envs: int) -> None:
        self._num_envs = num_envs
        self._level_ids = [-1] * num_envs
        self._sums = np.zeros([num_envs, 5])

    def add(
        self,
        level_ids: npt.NDArray[np.int64],
        dones: npt.NDArray[np.bool_],
        rewards: npt.NDArray[np.float32],
        values: npt.NDArray[np.float32],
        advantages: npt.NDArray[np.float32],
    ) -> Episodes:
        """Add trajectories ``[N, T]``, those of one environment in the order of time; the episodes that end in them.

        A level id below 0 means that nobody can judge this step. An episode of which such a step, or a number that is
        not finite, is part is left out.
        """
        ids = level_ids.ravel()
        is_last = dones.astype(bool)  # of a segment: steps of one episode in one row
        is_last[:, -1] = True
        is_last[:, :-1] |= level_ids[:, 1:] != level_ids[:, :-1]
        last = np.flatnonzero(is_last)
        first = np.concatenate([[0], last[:-1] + 1])
        signals = np.empty([ids.size, 5])
        signals[:, _STEPS] = 1.0
        signals[:, _L1] = np.abs(advantages).ravel()
        signals[:, _POSITIVE] = np.maximum(advantages, 0.0).ravel()
        signals[:, _VALUE] = values.ravel()
        signals[:, _RETURN] = rewards.ravel()
        sums = np.add.reduceat(signals, first, axis=0)  # [segments, 5]

        finished: list[int] = []
        totals: list[Floats] = []
        for i, (level_id, is_done) in enumerate(zip(ids[last].tolist(), dones.ravel()[last].tolist(), strict=True)):
            if level_id < 0:
                continue
            total = self._add_segment(level_id, sums[i])
            if is_done:
                self._level_ids[parse_level_id(level_id, self._num_envs)[1]] = -1
                if np.isfinite(total).all():
                    finished.append(level_id)
                    totals.append(total.copy())
        return _episodes(finished, totals)

    def _add_segment(self, level_id: int, sums: Floats) -> Floats:
        """The sums of this episode so far (a view)."""
        env_id = parse_level_id(level_id, self._num_envs)[1]
        if self._level_ids[env_id] != level_id:
            # A new episode, or one whose beginning nobody will ever see: its environment was replaced.
            self._level_ids[env_id] = level_id
            self._sums[env_id] = 0.0
        self._sums[env_id] += sums
        return self._sums[env_id]


def _episodes(level_ids: list[int], totals: list[Floats]) -> Episodes:
    sums = np.stack(totals, axis=1) if totals else np.zeros([5, 0])
    steps = np.maximum(sums[_STEPS], 1.0)
    means = (sums[_L1] / steps, sums[_POSITIVE] / steps, sums[_VALUE] / steps)
    return Episodes(np.array(level_ids, np.int64), *means, sums[_RETURN])


def score_levels(
    name: str, episodes: Episodes, group: npt.NDArray[np.int64], previous_max: Floats
) -> tuple[Floats, Floats]:
    """``(scores, best returns)`` of G levels, float64 ``[G]``; a level without episode scores -inf.

    ``group``: the level of every episode ``[M]``, below G. ``previous_max``: ``[G]``, the best return of every level
    before (-inf: none). Best returns include it and are never below 0.

    :raises ValueError: there is no score of this name.
    """
    num_groups = len(previous_max)
    counts = np.bincount(group, minlength=num_groups)
    best = np.maximum(previous_max, 0.0)
    np.maximum.at(best, group, episodes.returns)
    if name == "max_mc":  # "maximum Monte Carlo": the best return known minus the value
        signal = best[group] - episodes.value
    elif name == "positive_value_loss":
        signal = episodes.positive_advantage
    elif name == "l1_value_loss":
        signal = episodes.l1_advantage
    else:
        raise ValueError(f"--curriculum_score={name}: unknown; use max_mc, positive_value_loss or l1_value_loss")
    totals = np.bincount(group, weights=signal, minlength=num_groups)
    return np.where(counts > 0, totals / np.maximum(counts, 1), NO_SCORE), best
