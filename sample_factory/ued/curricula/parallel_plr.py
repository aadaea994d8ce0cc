"""Parallel replay: new, replayed and mutated levels share one wide rollout.

Jiang et al. 2023, "minimax: Efficient Baselines for Autocurricula in JAX".
"""

from __future__ import annotations

import numpy as np

from sample_factory.ued.curricula.common import CycleReport
from sample_factory.ued.curricula.level_batches import no_slots
from sample_factory.ued.curricula.plr import LevelReplay
from sample_factory.ued.envs.interfaces import Levels, State


class ParallelReplay(LevelReplay[Levels, State]):
    """The batch has two parts, with mutation three: new levels; replayed ones; edited copies of the replayed ones.
    Until the buffer is warm all are new. Students learn from the second part.

    Where parents are chosen by their scores, those in the buffer count: the rollout that would score them again has yet
    to come. The flags allow the whole batch only.
    """

    def _run_student(self, index: int, is_replay: bool) -> CycleReport:
        settings, replay = self.settings, self._replays[index]
        count = settings.num_levels
        num_parts = 2 if self._mutation is None else 3
        num_new = 1 if is_replay else num_parts
        parts = [self.env.sample_levels(count * num_new, self.generator)]
        slots, parents = no_slots(count * num_parts), no_slots(count * num_parts)
        if is_replay:
            replayed, drawn = replay.draw(count, self.generator)
            parts.append(replayed)
            slots[count : 2 * count] = drawn
            if self._mutation is not None:
                mutants, parents[2 * count :] = self._mutants(replayed, drawn, replay.buffer.scores[drawn])
                parts.append(mutants)
        else:
            replay.buffer.age(count)
        levels = parts[0] if len(parts) == 1 else type(parts[0]).cat(parts)
        batch = replay.batch(levels, slots, parents)
        rollout, advantages, targets = self._play(index, levels)
        replay.record(batch, rollout, advantages)

        learned = slice(settings.batch_size, 2 * settings.batch_size)
        part = rollout.select_envs(learned)
        update: dict[str, float] = {}
        if is_replay or not self.replay.robust:
            update = self.students[index].update(part, advantages[:, learned], targets[:, learned], self.generator)
        stats = self._learning_stats(index, update, rollout)
        stats |= self._level_stats(index, "env", levels[np.s_[:count]])
        stats |= self._level_stats(index, "plr", levels[np.s_[count : 2 * count]])
        return CycleReport(stats, num_parts * settings.batch_size * settings.num_steps)
