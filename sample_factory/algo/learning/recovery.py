"""Going back to the last good checkpoint when training diverged."""

from __future__ import annotations

from sample_factory.algo.learning.gradient_step import DivergedError, SkipCounter
from sample_factory.algo.learning.persistence import LearnerPersistence
from sample_factory.cfg.shadowing import flag_value
from sample_factory.utils.typing import Config
from sample_factory.utils.utils import log


class LearnerRecovery(LearnerPersistence):
    """The part of a learner that decides what happens to updates and states that are not finite.

    A single bad gradient is skipped. After ``--max_skipped_updates`` in a row, or when the state itself turned out not
    to be finite, weights, optimiser and learning rate come from the newest good checkpoint; counters go on, and all
    experience collected meanwhile is too old to be trained on. After ``--max_rollbacks`` the run ends.
    """

    def __init__(self, cfg: Config) -> None:
        super().__init__(cfg)
        self._skips = SkipCounter(flag_value(cfg, "max_skipped_updates"))
        self._num_rollbacks = 0

    def _maybe_roll_back(self) -> None:
        """Called before a training iteration: whether the state is finite is known after a save only."""
        if self._is_state_lost:
            self._roll_back(DivergedError(f"the weights or the optimiser are not finite: {self._last_save_error}"))

    def _roll_back(self, reason: DivergedError) -> None:
        """Raises ``reason`` if there is nothing to go back to, or if it was done too often."""
        limit = flag_value(self.cfg, "max_rollbacks")
        if self._num_rollbacks >= limit:
            raise reason
        self.finish_saves()
        store = self._store(self.policy_id)
        with self.param_server.policy_lock:
            checkpoint = self._read(store, "latest", store.set_aside)
            if checkpoint is None:
                raise reason
            self._load_state(checkpoint, load_progress=False)
        self._num_rollbacks += 1
        self._is_state_lost = False
        self._skips.start_anew()
        self._invalidate_experience()
        log.error(
            f"Policy {self.policy_id} went back to the weights of train_step={checkpoint['train_step']} "
            f"(rollback {self._num_rollbacks} of at most {limit}): {reason}"
        )
