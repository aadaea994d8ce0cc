"""Learning rate schedules. One schedule object belongs to one learner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sample_factory.utils.typing import Config


class LearningRateScheduler:
    """Decides when the learning rate changes. The base class is also the interface for schedules of other projects."""

    # A schedule that never looks at ``recent_kls`` sets this to False and spares the learner a wait for the device.
    needs_kls: bool = True

    def update(self, current_lr: float, recent_kls: Sequence[float]) -> float:
        """New learning rate. ``recent_kls``: mean KL(new || old) of every minibatch of this iteration so far."""
        return current_lr

    def invoke_after_each_minibatch(self) -> bool:
        return False

    def invoke_after_each_epoch(self) -> bool:
        return False

    def on_iteration_start(self, current_lr: float, env_steps: int) -> float:
        """Learning rate at the start of a training iteration; ``env_steps`` as counted in checkpoints."""
        return current_lr

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside the learning rate and ``env_steps``; plain types, part of checkpoints."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict` of the same schedule; not called if that was empty."""


class ConstantScheduler(LearningRateScheduler):
    """``constant``: the learning rate changes only by hand or through population-based training."""

    needs_kls = False


class KlAdaptiveScheduler(LearningRateScheduler):
    """Keep the KL divergence of an update near a threshold: slower above twice of it, faster below half of it."""

    _LR_FACTOR = 1.5

    def __init__(self, cfg: Config) -> None:
        self.lr_schedule_kl_threshold: float = cfg.lr_schedule_kl_threshold
        self.min_lr: float = cfg.lr_adaptive_min
        self.max_lr: float = cfg.lr_adaptive_max

    def num_recent_kls_to_use(self) -> int:
        """Over how many of the newest minibatches the divergence is averaged."""
        raise NotImplementedError

    def update(self, current_lr: float, recent_kls: Sequence[float]) -> float:
        kls = recent_kls[-self.num_recent_kls_to_use() :]
        if not kls:
            return current_lr
        mean_kl = sum(kls) / len(kls)
        lr = current_lr
        if mean_kl > 2.0 * self.lr_schedule_kl_threshold:
            lr = max(current_lr / self._LR_FACTOR, self.min_lr)
        if mean_kl < 0.5 * self.lr_schedule_kl_threshold:
            lr = min(current_lr * self._LR_FACTOR, self.max_lr)
        return lr


class KlAdaptiveSchedulerPerMinibatch(KlAdaptiveScheduler):
    """``kl_adaptive_minibatch``: reacts to the divergence of the last minibatch."""

    def num_recent_kls_to_use(self) -> int:
        return 1

    def invoke_after_each_minibatch(self) -> bool:
        return True


class KlAdaptiveSchedulerPerEpoch(KlAdaptiveScheduler):
    """``kl_adaptive_epoch``: reacts to the mean divergence of the last epoch."""

    def __init__(self, cfg: Config) -> None:
        super().__init__(cfg)
        self._num_minibatches_per_epoch: int = cfg.num_batches_per_epoch

    def num_recent_kls_to_use(self) -> int:
        return self._num_minibatches_per_epoch

    def invoke_after_each_epoch(self) -> bool:
        return True


class LinearDecayScheduler(LearningRateScheduler):
    """``linear_decay``: from ``learning_rate`` down to 0 when ``train_for_env_steps`` is reached.

    lr = learning_rate * max(0, 1 - s / n), n = number of SGD steps in the whole training, s = SGD steps so far. Both
    are derived from environment steps, so the schedule goes on where it was after a restart, and counts samples (not
    frames), so frameskip does not stretch it.
    """

    needs_kls = False

    def __init__(self, cfg: Config) -> None:
        self._cfg = cfg
        self._frames_per_sample: int = cfg.env_frameskip if cfg.summaries_use_frameskip else 1
        self._step = 0
        self._num_steps = max(1, self._sgd_steps_at(cfg.train_for_env_steps))

    def _sgd_steps_at(self, env_steps: int) -> int:
        return env_steps // self._frames_per_sample // self._cfg.batch_size * self._cfg.num_epochs

    def _current_lr(self) -> float:
        return self._cfg.learning_rate * max(0.0, 1.0 - self._step / self._num_steps)

    def update(self, current_lr: float, recent_kls: Sequence[float]) -> float:
        self._step += 1
        return self._current_lr()

    def invoke_after_each_minibatch(self) -> bool:
        return True

    def on_iteration_start(self, current_lr: float, env_steps: int) -> float:
        self._step = self._sgd_steps_at(env_steps)
        return self._current_lr()


_SCHEDULERS = {
    "constant": lambda cfg: ConstantScheduler(),
    "kl_adaptive_minibatch": KlAdaptiveSchedulerPerMinibatch,
    "kl_adaptive_epoch": KlAdaptiveSchedulerPerEpoch,
    "linear_decay": LinearDecayScheduler,
}


def get_lr_scheduler(cfg: Config) -> LearningRateScheduler:
    """The schedule named by ``cfg.lr_schedule``; RuntimeError for an unknown name."""
    make_scheduler = _SCHEDULERS.get(cfg.lr_schedule)
    if make_scheduler is None:
        raise RuntimeError(f"--lr_schedule={cfg.lr_schedule}: unknown schedule; choose one of {', '.join(_SCHEDULERS)}")
    return make_scheduler(cfg)
