"""Saving and loading the state of a learner."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sample_factory.algo.learning import checkpoints as ckpt
from sample_factory.algo.learning.checkpoints import (
    CheckpointDict,
    CheckpointError,
    CheckpointStore,
    NonFiniteWeightsError,
)
from sample_factory.algo.utils.model_sharing import ParameterServer
from sample_factory.cfg.configurable import Configurable
from sample_factory.utils.typing import Config, InitModelData, PolicyID
from sample_factory.utils.utils import ensure_dir_exists, experiment_dir, log

MIN_BEST_IMPROVEMENT = 1e-3
MAX_FAILED_SAVES = 10

# Adam hyperparameters: command-line flag -> (key of the optimiser's parameter group, position in a tuple or None).
_OPTIMIZER_FLAGS: dict[str, tuple[str, int | None]] = {
    "adam_eps": ("eps", None),
    "adam_beta1": ("betas", 0),
    "adam_beta2": ("betas", 1),
}
_INITIAL_LR_KEY = "initial_lr"  # where torch's own schedulers keep it


def model_initialization_data(
    cfg: Config, policy_id: PolicyID, actor_critic: nn.Module, policy_version: int, device: torch.device
) -> InitModelData:
    """``(policy_id, state_dict, device, policy_version)``; serial mode shares the module, so its state is ``None``."""
    state_dict: Any = None if cfg.serial_mode else actor_critic.state_dict()
    return policy_id, state_dict, device, policy_version


class SavedState(NamedTuple):
    """Identifies the content of the newest checkpoint this process wrote."""

    path: str
    progress: tuple[int, int, float, float]


class LearnerPersistence(Configurable):
    """The part of a learner that reads and writes checkpoints."""

    policy_id: PolicyID
    device: torch.device
    actor_critic: Any
    optimizer: Any
    curr_lr: float | None
    is_initialized: bool
    param_server: ParameterServer

    def __init__(self, cfg: Config) -> None:
        super().__init__(cfg)
        self.train_step = 0
        self.env_steps = 0
        self.best_performance = -1e9
        self.policy_to_load: PolicyID | None = None
        self._last_saved: SavedState | None = None
        self._num_failed_saves = 0

    @staticmethod
    def checkpoint_dir(cfg: Config, policy_id: PolicyID) -> str:
        """``<experiment>/checkpoint_p<policy_id>``, created if absent."""
        return ensure_dir_exists(os.path.join(experiment_dir(cfg=cfg), f"checkpoint_p{policy_id}"))

    @staticmethod
    def get_checkpoints(checkpoints_dir: str, pattern: str = "checkpoint_*") -> list[str]:
        """Paths of the checkpoint files that match the pattern, the newest last."""
        return ckpt.list_checkpoints(checkpoints_dir, pattern)

    @staticmethod
    def load_checkpoint(checkpoints: list[str], device: torch.device | str) -> CheckpointDict | None:
        """Newest readable file, ``None`` for an empty list; CheckpointError if there are files but none loads."""
        return ckpt.read_newest(checkpoints, device)

    # --- loading ---

    def load_from_checkpoint(self, policy_id: PolicyID, load_progress: bool = True) -> bool:
        """Load the newest (or best) readable checkpoint of a policy. False if there is none.

        Raises CheckpointError if there are files but none can be loaded, unless ``--allow_fresh_start``.
        """
        is_own = policy_id == self.policy_id
        store = CheckpointStore(self.checkpoint_dir(self.cfg, policy_id), self.cfg.keep_checkpoints)
        candidates = store.candidates(self.cfg.load_checkpoint_kind if is_own else "latest")
        try:
            checkpoint = self._load_first(candidates, store.set_aside if is_own else None)
        except CheckpointError:
            if not is_own or not getattr(self.cfg, "allow_fresh_start", False):
                raise
            log.warning("No checkpoint could be loaded; starting from scratch because of --allow_fresh_start")
            return False
        if checkpoint is None:
            log.info(f"Did not find any checkpoints of policy {policy_id}")
            return False
        self._load_state(checkpoint, load_progress)
        return True

    def _load_first(self, candidates: list[str], on_corrupt: Callable[[str], None] | None) -> CheckpointDict | None:
        if not candidates:
            return self.load_checkpoint([], self.device)  # a replacement of it may bring weights from elsewhere
        return ckpt.load_first(candidates, lambda path: self.load_checkpoint([path], self.device), on_corrupt)

    def _load_state(self, checkpoint: CheckpointDict, load_progress: bool = True) -> None:
        load_model_state(self.actor_critic, checkpoint["model"])
        if "optimizer" in checkpoint:
            self.optimizer.load_state_dict(checkpoint["optimizer"])
        self.curr_lr = float(checkpoint.get("curr_lr", self.cfg.learning_rate))
        if load_progress:
            self.train_step = int(checkpoint["train_step"])
            self.env_steps = int(checkpoint["env_steps"])
            self.best_performance = float(checkpoint.get("best_performance", self.best_performance))
            log.info(f"Loaded experiment state at train_step={self.train_step}, env_steps={self.env_steps}")

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
            # Everything collected with the previous weights becomes too old to train on.
            self.train_step += self.cfg.max_policy_lag + 1
            self.param_server.publish(self.train_step)

    def _apply_explicit_flags(self) -> None:
        """Hyperparameters given on the command line of this start win over those in the checkpoint.

        A repeated ``--learning_rate`` (same value as at the last start, as when a job is requeued) does not undo what
        the schedule has made of it since.
        """
        explicit: Mapping[str, Any] = getattr(self.cfg, "cli_args", None) or {}
        for group in self.optimizer.param_groups:
            for flag, (key, position) in _OPTIMIZER_FLAGS.items():
                if flag in explicit:
                    group[key] = _with_item(group[key], position, getattr(self.cfg, flag))
            if "learning_rate" in explicit and group.get(_INITIAL_LR_KEY) != self.cfg.learning_rate:
                self.curr_lr = self.cfg.learning_rate
            group[_INITIAL_LR_KEY] = self.cfg.learning_rate

    # --- saving ---

    def _get_checkpoint_dict(self) -> CheckpointDict:
        """All that is saved, in plain types, so that the original loads it too. Subclasses may add plain data."""
        return {
            "train_step": int(self.train_step),
            "env_steps": int(self.env_steps),
            "best_performance": float(self.best_performance),
            "model": self.actor_critic.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "curr_lr": float(self.curr_lr or 0.0),
        }

    def save(self) -> bool:
        """Write a checkpoint, unless the last one holds exactly this state. False if nothing could be saved."""
        if not self.is_initialized:
            return False
        progress = (self.train_step, self.env_steps, self.best_performance, self.curr_lr or 0.0)
        last = self._last_saved
        if last is not None and last.progress == progress and os.path.isfile(last.path):
            return True
        path = self._try_saving(lambda store: store.save_latest(self._get_checkpoint_dict()))
        if path is not None:
            self._last_saved = SavedState(path, progress)
        return path is not None

    def save_milestone(self) -> bool:
        """Write a checkpoint that is never deleted."""
        if not self.is_initialized:
            return False
        return self._try_saving(lambda store: store.save_milestone(self._get_checkpoint_dict())) is not None

    def save_best(self, policy_id: PolicyID, metric: str, metric_value: float) -> bool:
        """Save the policy as its best version if the metric improved. Messages for other policies are ignored."""
        if policy_id != self.policy_id or not self.is_initialized or not math.isfinite(metric_value):
            return False
        previous = self.best_performance
        if metric_value - previous <= MIN_BEST_IMPROVEMENT:
            return False
        log.info(f"Saving new best policy, {metric}={metric_value:.3f}!")
        self.best_performance = float(metric_value)  # before saving: it is part of the file
        path = self._try_saving(lambda store: store.save_best(self._get_checkpoint_dict(), metric, metric_value))
        if path is None:
            self.best_performance = previous
        return path is not None

    def _try_saving(self, save: Callable[[CheckpointStore], str]) -> str | None:
        """A full disk or a lost folder does not stop training at once: older files stay, the next save tries again."""
        try:
            path = save(CheckpointStore(self.checkpoint_dir(self.cfg, self.policy_id), self.cfg.keep_checkpoints))
        except NonFiniteWeightsError as exc:
            log.error(f"Policy {self.policy_id}: no checkpoint was written: {exc}")
            return None
        except OSError as exc:
            self._num_failed_saves += 1
            log.warning(
                f"Policy {self.policy_id}: saving a checkpoint failed ({self._num_failed_saves} in a row): {exc}"
            )
            if self._num_failed_saves >= MAX_FAILED_SAVES:
                raise CheckpointError(
                    f"saving checkpoints failed {self._num_failed_saves} times in a row: {exc}"
                ) from exc
            return None
        self._num_failed_saves = 0
        return path


def _with_item(value: Any, position: int | None, item: Any) -> Any:
    if position is None:
        return item
    items = list(value)
    items[position] = item
    return tuple(items)


def load_model_state(model: nn.Module, state_dict: Mapping[str, Any]) -> None:
    """``load_state_dict`` with an error that lists what differs (ValueError)."""
    own = model.state_dict()
    problems = [f"missing in the checkpoint: {key}" for key in own if key not in state_dict]
    problems += [f"not in this model: {key}" for key in state_dict if key not in own]
    for key, value in own.items():
        saved = state_dict.get(key)
        if isinstance(saved, Tensor) and isinstance(value, Tensor) and saved.shape != value.shape:
            problems.append(f"{key}: checkpoint {tuple(saved.shape)}, this model {tuple(value.shape)}")
    if problems:
        raise ValueError(
            "the checkpoint belongs to a model with another architecture:\n  "
            + "\n  ".join(problems)
            + "\nUse the model flags of the experiment's config.json (--use_rnn, --rnn_size, --encoder_mlp_layers, "
            "--normalize_input, ...), another --experiment, or --restart_behavior=restart"
        )
    model.load_state_dict(dict(state_dict))
