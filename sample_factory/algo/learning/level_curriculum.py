"""The learner's part of a curriculum: judges the levels of its trajectories and says which are replayed.

See ``level_tables`` for how levels travel. The buffer is that of the UED package: its ranks, staleness and replacement.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sample_factory.algo.learning import host_returns
from sample_factory.algo.learning.level_scores import Episodes, EpisodeSums, score_levels
from sample_factory.algo.utils.level_tables import (
    ENTRIES_PER_ENV,
    MUTATED,
    NEW,
    NO_SLOT,
    REPLAYED,
    LevelTables,
    PlayedLevel,
    is_trained,
    parse_level_id,
)
from sample_factory.algo.utils.misc import CURRICULUM_STATS
from sample_factory.cfg.shadowing import flag_value
from sample_factory.utils.typing import Config
from sample_factory.utils.utils import log

if TYPE_CHECKING:
    from sample_factory.ued.curricula.level_buffer import LevelBuffer
    from sample_factory.ued.curricula.stored_bytes import StoredBytes

_REPORT_INTERVAL_SEC = 2.0
_KIND_NAMES = {NEW: "new", REPLAYED: "replayed", MUTATED: "mutated"}


class JudgedRollouts(NamedTuple):
    """NumPy arrays of trajectories ``[N, T]``; ``values`` ``[N, T+1]`` in units of rewards. ``bootstrapped_rewards``:
    those that advantages come from, with the values of episodes that were cut by a time limit if that is wanted.
    """

    level_ids: np.ndarray
    dones: np.ndarray
    rewards: np.ndarray
    bootstrapped_rewards: np.ndarray
    values: np.ndarray


class LevelCurriculum:
    """Made in the main process, :meth:`init` is called by the learner."""

    def __init__(self, cfg: Config, tables: LevelTables) -> None:
        self._cfg, self._tables = cfg, tables
        self._sums = EpisodeSums(tables.num_envs)
        self._buffer: LevelBuffer[StoredBytes] | None = None  # none with --curriculum=dr
        self._num_noted = tables.num_played.copy()
        self._stats = _Counts()
        self._reported_at: float | None = None  # monotonic time

    def init(self, state: Mapping[str, Any] | None) -> None:
        """Create the buffer, or restore it from :meth:`state_dict`; before any rollout worker starts.

        :raises ValueError: the saved levels are of another kind.
        """
        if flag_value(self._cfg, "curriculum") != "dr":
            self._buffer = _make_buffer(self._cfg, self._tables)
        if state is not None:
            self._restore(state)
        self._num_noted = self._tables.num_played.copy()

    def exclude_untrained(self, valids: Tensor, level_ids: Tensor) -> int:
        """Unset ``valids`` ``[N, T+1]`` where an episode is played only to judge its level; returns how many were set.

        ``level_ids``: ``[N, T]``.
        """
        before = int(valids[:, :-1].sum())
        valids[:, :-1] &= is_trained(level_ids)
        valids[:, -1] = valids[:, -2]
        return before - int(valids[:, :-1].sum())

    def judge(self, rollouts: JudgedRollouts) -> None:
        """Score the levels whose episodes end in these trajectories, and publish what is to be replayed now."""
        self._note_started_episodes()
        cfg, dones, values = self._cfg, rollouts.dones, rollouts.values
        with np.errstate(invalid="ignore"):  # episodes with numbers that are not finite are left out
            advantages, _ = host_returns.gae(
                rollouts.bootstrapped_rewards, dones, values, None, cfg.gamma, cfg.gae_lambda
            )
            episodes = self._sums.add(rollouts.level_ids, dones, rollouts.rewards, values[:, :-1], advantages)
        self._judge_episodes(episodes)
        self._publish()

    def _note_started_episodes(self) -> None:
        """Ages count episodes of new and stored levels; a level that is replayed has age 0."""
        num_played = self._tables.num_played.copy()
        replayed_slots = []
        num_started = 0
        for env_id in np.flatnonzero(num_played > self._num_noted).tolist():
            last = int(num_played[env_id])
            first = max(int(self._num_noted[env_id]) + 1, last - ENTRIES_PER_ENV + 1)
            for serial in range(first, last + 1):
                entry = self._tables.played(env_id, serial)
                if entry is None:
                    continue
                self._stats.started[entry.kind] += 1
                num_started += entry.kind != MUTATED
                if self._is_stored(entry):
                    replayed_slots.append(entry.slot)
        self._num_noted = num_played
        if self._buffer is not None:
            self._buffer.age(num_started)
            self._buffer.ages[replayed_slots] = 0

    def _is_stored(self, entry: PlayedLevel) -> bool:
        """Whether the level is still where it was when the episode began."""
        return entry.kind == REPLAYED and self._tables.generation(entry.slot) == entry.generation

    def _judge_episodes(self, episodes: Episodes) -> None:
        entries: list[PlayedLevel] = []  # one per level, which several environments may have played
        position: dict[tuple[int, int], int] = {}
        group: list[int] = []
        is_known = np.ones(len(episodes.level_ids), bool)
        for i, level_id in enumerate(episodes.level_ids.tolist()):
            serial, env_id = parse_level_id(level_id, self._tables.num_envs)
            entry = self._tables.played(env_id, serial)
            if entry is None:
                is_known[i] = False
                self._stats.num_lost += 1
                continue
            self._stats.returns[entry.kind].append(float(episodes.returns[i]))
            key = (entry.slot, entry.generation) if entry.kind == REPLAYED else (NO_SLOT, level_id)
            if key not in position:
                position[key] = len(entries)
                entries.append(entry)
            group.append(position[key])
        if not entries:
            return
        known = episodes.where(is_known)
        slots = np.array([entry.slot if self._is_stored(entry) else NO_SLOT for entry in entries], np.int64)
        previous = np.full(len(entries), -np.inf) if self._buffer is None else self._buffer.max_returns_of(slots)
        scores, best = score_levels(
            flag_value(self._cfg, "curriculum_score"), known, np.array(group, np.int64), previous
        )
        self._stats.scores += scores.tolist()
        if self._buffer is not None:
            self._store(self._buffer, entries, slots, scores, best)

    def _store(
        self,
        buffer: LevelBuffer[StoredBytes],
        entries: list[PlayedLevel],
        slots: np.ndarray,
        scores: np.ndarray,
        best: np.ndarray,
    ) -> None:
        written = buffer.update(_results(np.stack([entry.data for entry in entries]), slots, scores, best))
        for slot, item in written.items():
            buffer.num_mutations[slot] = entries[item].num_mutations
            self._tables.store(slot, entries[item].data, entries[item].num_mutations)

    def _publish(self) -> None:
        if self._buffer is not None:
            num_replayable = self._buffer.size if self._buffer.is_warm else 0
            self._tables.publish(self._buffer.distribution()[:num_replayable])

    # --- what is known about it ---

    def report_to(self, message: dict[str, Any]) -> None:
        """Add statistics to a message for the runner, now and then; the clock decides about nothing else."""
        now = time.monotonic()
        if self._reported_at is None or now - self._reported_at >= _REPORT_INTERVAL_SEC:
            self._reported_at = now
            message[CURRICULUM_STATS] = self.stats()

    def stats(self) -> dict[str, float]:
        """For TensorBoard; fractions and means are those since the last call."""
        stats, self._stats = self._stats.summary(), _Counts()
        if self._buffer is not None:
            buffer = self._buffer
            stats["curriculum/buffer_fill"] = buffer.size / buffer.settings.capacity
            if buffer.size > 0:
                stats["curriculum/buffer_mean_score"] = float(buffer.scores[: buffer.size].mean())
            stats |= {f"curriculum/{name}": value for name, value in buffer.metrics().items()}
        return stats

    def state_dict(self) -> dict[str, Any]:
        """Plain types and tensors only."""
        spec = self._tables.spec
        return {
            "shape": list(spec.shape),
            "dtype": spec.dtype,
            "num_played": torch.from_numpy(self._tables.num_played.copy()),
            "buffer": None if self._buffer is None else self._buffer.state_dict(),
        }

    def _restore(self, state: Mapping[str, Any]) -> None:
        spec = self._tables.spec
        if (tuple(state["shape"]), state["dtype"]) != (spec.shape, spec.dtype):
            raise ValueError(
                f"the levels in the checkpoint are {state['dtype']} arrays of shape {tuple(state['shape'])}, those of "
                f"{self._cfg.env} are {spec.dtype} arrays of shape {spec.shape}: continue with the flags of the "
                "environment that the run was started with, or choose another --experiment"
            )
        num_played = state["num_played"].cpu().numpy()
        # With another number of environments: no level of any of them may be drawn once more.
        self._tables.num_played[:] = num_played if len(num_played) == self._tables.num_envs else num_played.max()
        if self._buffer is None or state["buffer"] is None:
            return
        if len(state["buffer"]["scores"]) == self._buffer.settings.capacity:
            self._buffer.load_state_dict(state["buffer"])
        else:
            self._restore_best(self._buffer, state["buffer"])
        for slot in range(self._buffer.size):
            self._tables.store(slot, self._buffer.levels.data[slot].numpy(), int(self._buffer.num_mutations[slot]))
        self._publish()

    def _restore_best(self, buffer: LevelBuffer[StoredBytes], saved: Mapping[str, Any]) -> None:
        """The levels of a buffer of another size, those with the highest scores first."""
        num_saved = int(saved["size"])
        best = torch.argsort(saved["scores"][:num_saved], descending=True, stable=True)[: buffer.settings.capacity]
        kept = best.cpu().numpy()
        log.warning(f"--curriculum_buffer_size has changed: {len(kept)} of {num_saved} stored levels are kept")
        data = saved["levels"]["data"].cpu().numpy()[kept]
        scores, returns = saved["scores"].cpu().numpy()[kept], saved["max_returns"].cpu().numpy()[kept]
        buffer.update(_results(data, np.full(len(kept), NO_SLOT, np.int64), scores, returns))
        buffer.ages[: buffer.size] = saved["ages"].cpu().numpy()[kept]
        buffer.num_mutations[: buffer.size] = saved["num_mutations"].cpu().numpy()[kept]


class _Counts:
    """What happened since the last report."""

    def __init__(self) -> None:
        self.started = dict.fromkeys(_KIND_NAMES, 0)
        self.returns: dict[int, list[float]] = {kind: [] for kind in _KIND_NAMES}
        self.scores: list[float] = []
        self.num_lost = 0

    def summary(self) -> dict[str, float]:
        stats: dict[str, float] = {"curriculum/lost_levels": float(self.num_lost)}
        num_started = sum(self.started.values())
        for kind, name in _KIND_NAMES.items():
            if num_started:
                stats[f"curriculum/{name}_fraction"] = self.started[kind] / num_started
            if self.returns[kind]:
                stats[f"curriculum/{name}_return"] = float(np.mean(self.returns[kind]))
        if self.scores:
            stats["curriculum/mean_score"] = float(np.mean(self.scores))
        return stats


# The UED package is a layer above. These are the only places where anything of it is needed, and only with a buffer.


def _make_buffer(cfg: Config, tables: LevelTables) -> LevelBuffer[StoredBytes]:
    from sample_factory.ued.curricula.level_buffer import BufferSettings, LevelBuffer
    from sample_factory.ued.curricula.stored_bytes import StoredBytes

    settings = BufferSettings(
        capacity=flag_value(cfg, "curriculum_buffer_size"),
        temperature=flag_value(cfg, "curriculum_temp"),
        staleness_coef=flag_value(cfg, "curriculum_staleness_coef"),
        use_ranks=flag_value(cfg, "curriculum_use_score_ranks"),
        min_fill_ratio=flag_value(cfg, "curriculum_min_fill_ratio"),
    )
    return LevelBuffer(settings, StoredBytes(torch.zeros([1, tables.spec.num_bytes], dtype=torch.uint8)))


def _results(data: np.ndarray, slots: np.ndarray, scores: np.ndarray, best: np.ndarray) -> Any:
    from sample_factory.ued.curricula.level_buffer import LevelResults
    from sample_factory.ued.curricula.stored_bytes import StoredBytes

    parents = np.full(len(slots), NO_SLOT, np.int64)  # edits are counted where levels are edited
    levels = StoredBytes(torch.from_numpy(data))
    return LevelResults(levels, slots, parents, scores, best, np.ones(len(slots), bool))
