"""Which level an environment plays next, and the layer that begins every episode of it on that level.

With ``--curriculum=accel`` an environment that has replayed a level then plays an edited copy of it, so that edits are
tried as often as levels are replayed (Parker-Holder et al. 2022, "Evolving Curricula with Regret-Based Environment
Design"). See ``level_tables`` for the memory that is shared with the learner.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sample_factory.algo.utils.child_process import FinalError
from sample_factory.algo.utils.env_layer import EnvLayer
from sample_factory.algo.utils.level_tables import (
    CUT_OFF,
    MUTATED,
    NEW,
    NO_SLOT,
    REPLAYED,
    LevelTables,
    PlayedLevel,
    StoredLevel,
    make_level_id,
)
from sample_factory.algo.utils.levels import LEVEL_KEY, Level, LevelInterface, find_level_interface
from sample_factory.algo.utils.seeding import component_seed_sequence
from sample_factory.cfg.shadowing import flag_value
from sample_factory.utils.typing import Config, Env


class LevelChooser:
    """The levels of one environment. ``level_id``: of the episode under way."""

    def __init__(self, cfg: Config, tables: LevelTables, env_id: int) -> None:
        self._cfg, self._tables, self._env_id = cfg, tables, env_id
        self._can_replay = flag_value(cfg, "curriculum") in ("plr", "accel")
        self._are_new_trained = not (self._can_replay and flag_value(cfg, "curriculum_robust"))
        self._to_mutate: StoredLevel | None = None
        self.level_id = CUT_OFF

    def next_level(self, interface: Any) -> Level:
        """Choose a level for the next episode and note it in the tables.

        :param interface: of the environment, see ``LevelInterface``.
        :raises FinalError: the environment made something that is no level.
        """
        serial = int(self._tables.num_played[self._env_id]) + 1
        rng = np.random.default_rng(component_seed_sequence(self._cfg, "levels", self._env_id, serial))
        level = self._choose(interface, rng)
        self._tables.record(self._env_id, level)
        is_trained = level.kind == REPLAYED or (level.kind == NEW and self._are_new_trained)
        self.level_id = make_level_id(serial, self._env_id, self._tables.num_envs, is_trained)
        return self._tables.spec.from_bytes(level.data)

    def cut_off(self) -> None:
        """The episode under way began before anybody looked, so its level cannot be judged."""
        self.level_id += CUT_OFF

    def _choose(self, interface: Any, rng: np.random.Generator) -> PlayedLevel:
        spec = self._tables.spec
        parent, self._to_mutate = self._to_mutate, None
        if parent is not None:
            edited = interface.mutate_level(
                spec.from_bytes(parent.data), rng, flag_value(self._cfg, "curriculum_n_mutations")
            )
            data = self._to_bytes(edited, "mutate_level")
            return PlayedLevel(MUTATED, NO_SLOT, 0, parent.num_mutations + 1, data)
        if self._can_replay and rng.random() < flag_value(self._cfg, "curriculum_replay_prob"):
            stored = self._tables.draw(rng.random())
            if stored is not None:
                self._to_mutate = stored if flag_value(self._cfg, "curriculum") == "accel" else None
                return PlayedLevel(REPLAYED, *stored)
        return PlayedLevel(NEW, NO_SLOT, 0, 0, self._to_bytes(interface.sample_level(rng), "sample_level"))

    def _to_bytes(self, level: Any, method: str) -> np.ndarray:
        try:
            return self._tables.spec.to_bytes(self._tables.spec.check(level, method))
        except ValueError as exc:
            raise FinalError(f"{self._cfg.env}: {exc}") from exc


class LevelEnv(EnvLayer):
    """Begins every episode of a single-agent environment on the level that the chooser says."""

    def __init__(self, env: Env, chooser: LevelChooser) -> None:
        super().__init__(env)
        interface = find_level_interface(env)
        if interface is None:
            raise FinalError(f"{env} has no levels, other environments of this run have: make all of them alike")
        self._interface: LevelInterface = interface
        self._chooser = chooser
        self.step = env.step  # type: ignore[method-assign]  # called for every sample: one call less

    def reset(self, **kwargs: Any) -> Any:
        options = dict(kwargs.pop("options", None) or {})
        options[LEVEL_KEY] = self._chooser.next_level(self._interface)
        return self.env.reset(**kwargs, options=options)


class SplitLevels:
    """The choosers of the environments of one split. They outlive environments that are built anew."""

    def __init__(self, cfg: Config, tables: LevelTables, env_ids: Sequence[int]) -> None:
        self._choosers = [LevelChooser(cfg, tables, env_id) for env_id in env_ids]

    def wrap(self, env_i: int, env: Env) -> LevelEnv:
        return LevelEnv(env, self._choosers[env_i])

    def level_id(self, env_i: int) -> int:
        return self._choosers[env_i].level_id

    def level_ids(self) -> np.ndarray:
        """Of all environments, int64 ``[n]``."""
        return np.array([chooser.level_id for chooser in self._choosers], np.int64)

    def cut_off(self, env_i: int) -> None:
        self._choosers[env_i].cut_off()
