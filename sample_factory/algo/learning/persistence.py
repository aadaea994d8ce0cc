"""Saving and loading the state of a learner."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sample_factory.algo.learning import checkpoints as ckpt
from sample_factory.algo.learning.checkpoint_saver import CheckpointSaver, SaveRequest, SaveResult, write_checkpoint
from sample_factory.algo.learning.checkpoints import (
    CheckpointDict,
    CheckpointError,
    CheckpointStore,
    NonFiniteStateError,
)
from sample_factory.algo.learning.level_curriculum import LevelCurriculum
from sample_factory.algo.learning.run_state import make_run_state, restore_random_streams
from sample_factory.algo.utils.model_sharing import ParameterServer
from sample_factory.cfg.configurable import Configurable
from sample_factory.cfg.persistence import config_to_json
from sample_factory.cfg.shadowing import flag_value
from sample_factory.utils.checkpoint_files import CONFIG_KEY, CURRICULUM_KEY, RUN_STATE_KEY
from sample_factory.utils.durable_files import FailureLog
from sample_factory.utils.typing import Config, InitModelData, PolicyID
from sample_factory.utils.utils import ensure_dir_exists, experiment_dir, log

MIN_BEST_IMPROVEMENT = 1e-3

# How long the end of a run waits for a disk that does not take the last checkpoint.
_FINAL_SAVE_SEC = 10.0
_FINAL_RETRY_SEC = 0.5

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
    lr_scheduler: Any
    level_curriculum: LevelCurriculum | None = None  # set by the owner before the learner is initialised

    def __init__(self, cfg: Config) -> None:
        super().__init__(cfg)
        self.train_step = 0
        self.env_steps = 0
        self.best_performance = ckpt.NO_SCORE
        self._last_saved: SavedState | None = None
        self._saver = CheckpointSaver()
        self._save_failures: FailureLog | None = None
        self._last_save_error: Exception | None = None
        # Set when a state was refused because it is not finite: only an older one can be continued.
        self._is_state_lost = False
        # As it is now: before population-based training changes anything.
        self._config_json = config_to_json(cfg)
        self._hyperparams: dict[str, Any] | None = None
        self._loaded_run_state: dict[str, Any] | None = None
        self._loaded_curriculum: dict[str, Any] | None = None

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
        kind = self.cfg.load_checkpoint_kind if is_own else "latest"
        store = self._store(policy_id)
        try:
            checkpoint = self._read(store, kind, store.set_aside if is_own else None)
        except CheckpointError:
            if not is_own or not flag_value(self.cfg, "allow_fresh_start"):
                raise
            log.warning("No checkpoint could be loaded; starting from scratch because of --allow_fresh_start")
            return False
        if checkpoint is None:
            log.info(f"Did not find any checkpoints of policy {policy_id}")
            return False
        self._load_state(checkpoint, load_progress)
        if is_own and load_progress:
            self._remember_best(store)
        return True

    def _store(self, policy_id: PolicyID) -> CheckpointStore:
        return CheckpointStore(self.checkpoint_dir(self.cfg, policy_id), self.cfg.keep_checkpoints)

    def _read(
        self, store: CheckpointStore, kind: str, on_corrupt: Callable[[str], None] | None
    ) -> CheckpointDict | None:
        with ckpt.trusting_files(flag_value(self.cfg, "unsafe_load")):
            return self._load_first(store.candidates(kind), on_corrupt)

    def _remember_best(self, store: CheckpointStore) -> None:
        """The best policy may have been saved after the checkpoint; a worse one must not take its place."""
        saved = store.best_performance(self.cfg.save_best_metric)
        if saved == ckpt.NO_SCORE:
            log.info(f"The best policy by --save_best_metric={self.cfg.save_best_metric} is looked for anew")
            self.best_performance = saved
        elif saved is not None and saved > self.best_performance:
            self.best_performance = saved

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
            self._loaded_run_state = checkpoint.get(RUN_STATE_KEY)
            self._loaded_curriculum = checkpoint.get(CURRICULUM_KEY)
            restore_random_streams(self._loaded_run_state, self.cfg.seed)
            log.info(f"Loaded experiment state at train_step={self.train_step}, env_steps={self.env_steps}")

    def _invalidate_experience(self) -> None:
        """Everything collected with the previous weights becomes too old to train on."""
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
            initial = group.get(_INITIAL_LR_KEY)
            # Sample Factory 2 does not store it, so whether the flag is repeated is unknown.
            is_new = self.cfg.lr_schedule == "constant" if initial is None else initial != self.cfg.learning_rate
            if "learning_rate" in explicit and is_new:
                self.curr_lr = self.cfg.learning_rate
            group[_INITIAL_LR_KEY] = self.cfg.learning_rate

    # --- saving ---

    def _get_checkpoint_dict(self) -> CheckpointDict:
        """All that is saved, in plain types, so that the original loads it too. Subclasses may add plain data."""
        curriculum = {} if self.level_curriculum is None else {CURRICULUM_KEY: self.level_curriculum.state_dict()}
        return {
            "train_step": int(self.train_step),
            "env_steps": int(self.env_steps),
            "best_performance": float(self.best_performance),
            "model": self.actor_critic.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "curr_lr": float(self.curr_lr or 0.0),
            RUN_STATE_KEY: make_run_state(
                self.cfg.seed, self.lr_scheduler, self._hyperparams, str(self.cfg.lr_schedule)
            ),
            CONFIG_KEY: self._config_json,
            **curriculum,
        }

    def save(self) -> bool:
        """Write a checkpoint, unless the last one holds exactly this state. False if nothing could be saved."""
        self.finish_saves()
        if not self.is_initialized:
            return False
        return self.is_saved() or self._save_now(self.latest_request())

    def save_milestone(self) -> bool:
        """Write a checkpoint that is never deleted."""
        self.finish_saves()
        return self.is_initialized and self._save_now(self.milestone_request())

    def save_best(self, policy_id: PolicyID, metric: str, metric_value: float) -> bool:
        """Save the policy as its best version if the metric improved. Messages for other policies are ignored."""
        self.finish_saves()
        request = self.best_request(policy_id, metric, metric_value)
        return request is not None and self._save_now(request)

    def save_finally(self) -> bool:
        """:meth:`save` at the end of a run: CheckpointError if the last state is lost, after trying for some seconds.

        False only if the learner has no state yet.
        """
        deadline = time.monotonic() + min(_FINAL_SAVE_SEC, flag_value(self.cfg, "fault_timeout") / 2)
        while not self.save():
            if not self.is_initialized:
                return False
            if self._is_state_lost or time.monotonic() >= deadline:
                raise CheckpointError(
                    f"the last state of policy {self.policy_id} could not be saved, a resumed run continues from an "
                    f"older checkpoint: {self._last_save_error}"
                )
            time.sleep(_FINAL_RETRY_SEC)
        return True

    # --- saving: requests ---

    def _progress(self) -> tuple[int, int, float, float]:
        return self.train_step, self.env_steps, self.best_performance, self.curr_lr or 0.0

    def is_saved(self) -> bool:
        """The newest checkpoint this process wrote holds exactly this state."""
        last = self._last_saved
        return last is not None and last.progress == self._progress() and os.path.isfile(last.path)

    def latest_request(self) -> SaveRequest:
        return SaveRequest("latest", self._progress())

    def milestone_request(self) -> SaveRequest:
        return SaveRequest("milestone", self._progress())

    def best_request(self, policy_id: PolicyID, metric: str, metric_value: float) -> SaveRequest | None:
        """None unless this is the policy and the metric improved; the score counts from now on."""
        if policy_id != self.policy_id or not self.is_initialized or not math.isfinite(metric_value):
            return None
        previous = self.best_performance
        if metric_value - previous <= MIN_BEST_IMPROVEMENT:
            return None
        log.info(f"Saving new best policy, {metric}={metric_value:.3f}!")
        self.best_performance = float(metric_value)  # before saving: it is part of the file
        return SaveRequest("best", self._progress(), metric, float(metric_value), previous)

    def begin_save(self, request: SaveRequest, on_done: Callable[[], None] | None = None) -> None:
        """Write a snapshot of this state on another thread; then :meth:`settle_saves` has to be called."""
        checkpoint = ckpt.snapshot(self._get_checkpoint_dict())
        self._saver.submit(request, lambda: self._store(self.policy_id), checkpoint, on_done)

    @property
    def is_saving(self) -> bool:
        return self._saver.is_busy

    @property
    def is_save_failing(self) -> bool:
        """The newest attempts to save failed because of the disk."""
        return self._save_failures is not None and self._save_failures.is_failing

    def finish_saves(self) -> None:
        """Wait for the save in flight and take note of how it ended."""
        self.wait_for_saves()
        self.settle_saves()

    def wait_for_saves(self) -> None:
        """Until nothing is being written; :meth:`settle_saves` tells how it ended."""
        self._saver.wait()

    def settle_saves(self) -> list[SaveRequest]:
        """Take note of how saves ended; those that succeeded. CheckpointError after ``--save_fault_timeout``."""
        return [result.request for result in self._saver.take_results() if self._settle(result)]

    def _save_now(self, request: SaveRequest) -> bool:
        return self._settle(write_checkpoint(request, lambda: self._store(self.policy_id), self._get_checkpoint_dict()))

    def _settle(self, result: SaveResult) -> bool:
        """A full disk or a lost folder does not stop training at once: older files stay, the next save tries again."""
        if self._save_failures is None:
            self._save_failures = FailureLog(f"Checkpoints of policy {self.policy_id}")
        request, error = result.request, result.error
        if result.path is not None:
            self._save_failures.succeeded()
            if request.kind == "latest":
                self._last_saved = SavedState(result.path, request.progress)
            return True
        if request.kind == "best" and self.best_performance == request.metric_value:
            self.best_performance = request.previous_best
        self._last_save_error = error
        if isinstance(error, NonFiniteStateError):
            log.error(f"Policy {self.policy_id}: no checkpoint was written: {error}")
            self._is_state_lost = True
            return False
        if not isinstance(error, OSError):
            raise error or AssertionError("a failed save has an error")
        self._save_failures.failed(error)
        limit_sec = flag_value(self.cfg, "save_fault_timeout")
        if self._save_failures.seconds() > limit_sec:
            raise CheckpointError(f"no checkpoint could be saved for --save_fault_timeout={limit_sec} seconds: {error}")
        return False


def _with_item(value: Any, position: int | None, item: Any) -> Any:
    if position is None:
        return item
    items = list(value)
    items[position] = item
    return tuple(items)


def architecture_differences(model: nn.Module, state_dict: Mapping[str, Any]) -> list[str]:
    """One line for every tensor that only one of both has, or that has another shape."""
    own = model.state_dict()
    problems = [f"missing in the checkpoint: {key}" for key in own if key not in state_dict]
    problems += [f"not in this model: {key}" for key in state_dict if key not in own]
    for key, value in own.items():
        saved = state_dict.get(key)
        if isinstance(saved, Tensor) and isinstance(value, Tensor) and saved.shape != value.shape:
            problems.append(f"{key}: checkpoint {tuple(saved.shape)}, this model {tuple(value.shape)}")
    return problems


def load_model_state(model: nn.Module, state_dict: Mapping[str, Any]) -> None:
    """``load_state_dict`` with an error that lists what differs (ValueError)."""
    problems = architecture_differences(model, state_dict)
    if problems:
        raise ValueError(
            "the checkpoint belongs to a model with another architecture:\n  "
            + "\n  ".join(problems)
            + "\nUse the model flags of the experiment's config.json (--use_rnn, --rnn_size, --encoder_mlp_layers, "
            "--normalize_input, ...), another --experiment, or --restart_behavior=restart"
        )
    model.load_state_dict(dict(state_dict))
