"""What population-based training does to a learner, applied before its next batch."""

from __future__ import annotations

from typing import Any

from sample_factory.algo.learning.checkpoints import CheckpointError
from sample_factory.algo.learning.recovery import LearnerRecovery
from sample_factory.utils.typing import Config, PolicyID
from sample_factory.utils.utils import log


class PopulationMember(LearnerRecovery):
    """The part of a learner that takes over weights of other policies and new hyperparameters."""

    def __init__(self, cfg: Config) -> None:
        super().__init__(cfg)
        self.policy_to_load: PolicyID | None = None
        self.new_cfg: dict[str, Any] | None = None

    def set_policy_to_load(self, policy_to_load: PolicyID) -> None:
        """Take over the newest checkpoint of another policy."""
        self.policy_to_load = policy_to_load

    def _maybe_load_policy(self) -> None:
        source, self.policy_to_load = self.policy_to_load, None
        if source is None:
            return
        with self.param_server.policy_lock:
            try:
                is_loaded = self.load_from_checkpoint(source, load_progress=False)
            except (CheckpointError, OSError) as exc:
                log.error(
                    f"Policy {self.policy_id} keeps its weights, those of policy {source} are not available: {exc}"
                )
                return
        if is_loaded:
            self._invalidate_experience()

    def set_new_cfg(self, new_cfg: dict[str, Any]) -> None:
        """New values of hyperparameters, from population-based training."""
        self.new_cfg = new_cfg

    def _maybe_update_cfg(self) -> None:
        """Runs after a policy was loaded: the perturbed learning rate wins over that of the loaded optimiser."""
        new_cfg, self.new_cfg = self.new_cfg, None
        if new_cfg is None:
            return
        self._hyperparams = dict(new_cfg)
        for key, value in new_cfg.items():
            if getattr(self.cfg, key, None) != value:
                log.debug(f"Policy {self.policy_id}: {key} changes from {getattr(self.cfg, key, None)} to {value}")
                setattr(self.cfg, key, value)
        if self.cfg.lr_schedule == "constant" and self.curr_lr != self.cfg.learning_rate:
            self.curr_lr = self.cfg.learning_rate
            self._set_lr(self.cfg.learning_rate)
        for group in self.optimizer.param_groups:
            group["betas"] = (self.cfg.adam_beta1, self.cfg.adam_beta2)

    def _set_lr(self, lr: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr
