"""The learner of one policy: asynchronous PPO on batches of trajectories.

``Learner`` orchestrates the modules beside it: preparation (validity, normalisation, returns), minibatches,
policy_update (forward pass, losses), gradient_step, lr_schedules, train_stats, persistence, recovery. Other projects
subclass it or replace single methods (``init``, ``_prepare_batch``, ``_calculate_losses``, ``_record_summaries``,
``load_checkpoint``), so these are always called through ``self``.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sample_factory.algo.learning.captured_update import CapturedUpdate
from sample_factory.algo.learning.fused_losses import Tape, make_tape
from sample_factory.algo.learning.gradient_step import DivergedError, GradientStep, renewed
from sample_factory.algo.learning.losses import SampleMask, kl_divergence_to_old
from sample_factory.algo.learning.lr_schedules import (
    KlAdaptiveScheduler,
    KlAdaptiveSchedulerPerEpoch,
    KlAdaptiveSchedulerPerMinibatch,
    LearningRateScheduler,
    LinearDecayScheduler,
    get_lr_scheduler,
)
from sample_factory.algo.learning.minibatches import forget_step, split_into_minibatches, take_minibatch
from sample_factory.algo.learning.persistence import model_initialization_data
from sample_factory.algo.learning.policy_update import (
    forward_minibatch,
    minibatch_losses,
    old_action_distribution,
)
from sample_factory.algo.learning.population_member import PopulationMember
from sample_factory.algo.learning.preparation import BatchPreparation
from sample_factory.algo.learning.run_state import restore_lr_scheduler
from sample_factory.algo.learning.shortcuts import Shortcuts
from sample_factory.algo.learning.train_stats import (
    MinibatchLog,
    choose_summary_position,
    collect_stats,
    read_stats,
    warn_about_high_values,
)
from sample_factory.algo.utils.env_info import EnvInfo
from sample_factory.algo.utils.misc import LEARNER_ENV_STEPS, POLICY_ID_KEY, STATS_KEY, TRAIN_STATS, memory_stats
from sample_factory.algo.utils.model_sharing import ParameterServer
from sample_factory.algo.utils.optimizers import make_optimizer
from sample_factory.algo.utils.seeding import component_rng, component_seed_sequence
from sample_factory.algo.utils.shared_buffers import policy_device
from sample_factory.algo.utils.tensor_dict import TensorDict
from sample_factory.algo.utils.torch_utils import prepare_device
from sample_factory.model.actor_critic import create_actor_critic
from sample_factory.utils.attr_dict import AttrDict
from sample_factory.utils.decay import LinearDecay
from sample_factory.utils.timing import Timing
from sample_factory.utils.typing import ActionDistribution, Config, InitModelData, PolicyID
from sample_factory.utils.utils import log

__all__ = [
    "KlAdaptiveScheduler",
    "KlAdaptiveSchedulerPerEpoch",
    "KlAdaptiveSchedulerPerMinibatch",
    "Learner",
    "LearningRateScheduler",
    "LinearDecayScheduler",
    "get_lr_scheduler",
    "model_initialization_data",
]

EARLY_STOPPING_TOLERANCE = 1e-6

Losses = tuple[ActionDistribution, Tensor, Tensor | float, Tensor | None, Tensor | float, Tensor, dict[str, Any]]


class Learner(PopulationMember):
    """Owns the model, the optimiser and the training progress of one policy.

    ``train_step`` counts SGD steps and is the policy version; ``env_steps`` counts environment frames trained on.
    """

    def __init__(
        self,
        cfg: Config,
        env_info: EnvInfo,
        policy_versions_tensor: Tensor,
        policy_id: PolicyID,
        param_server: ParameterServer,
    ) -> None:
        # A copy, because population-based training changes the configuration of each learner separately.
        super().__init__(copy.deepcopy(cfg))
        self.timing = Timing(name=f"Learner {policy_id} profile")
        self.policy_id = policy_id
        self.env_info = env_info
        self.policy_versions_tensor = policy_versions_tensor
        self.param_server = param_server

        self.device = torch.device("cpu")
        self.actor_critic: Any = None
        self.optimizer: Any = None
        self.lr_scheduler: LearningRateScheduler = LearningRateScheduler()
        self.curr_lr: float | None = None
        self.is_initialized = False

        self.last_summary_time = 0.0
        self.summary_rate_decay_seconds = LinearDecay([(0, 2), (100000, 60), (1000000, 120)])
        self._rng: np.random.Generator = np.random.default_rng()
        # Apart from the other one: summaries are due by the clock, which must not shift the order of minibatches.
        self._summary_rng: np.random.Generator = np.random.default_rng()
        self._shortcuts = Shortcuts()
        self._stepper: GradientStep | None = None
        self._captured = CapturedUpdate()

    # --- set-up ---

    def init(self) -> InitModelData:
        """Build model and optimiser, load the checkpoint, publish the weights."""
        if self.cfg.recurrence == -1:
            self.cfg.recurrence = self.cfg.rollout if self.cfg.use_rnn else 1
        self._seed()
        self.device = policy_device(self.cfg, self.policy_id)
        prepare_device(self.cfg, self.device)
        self.actor_critic = create_actor_critic(self.cfg, self.env_info.obs_space, self.env_info.action_space)
        log.debug("Created Actor Critic model with architecture:")
        log.debug(self.actor_critic)
        self.actor_critic.model_to_device(self.device)
        self.actor_critic.train()
        self.optimizer = make_optimizer(self.cfg, list(self.actor_critic.parameters()))

        self.curr_lr = self.cfg.learning_rate
        self.load_from_checkpoint(self.policy_id)
        self._apply_explicit_flags()
        self.lr_scheduler = get_lr_scheduler(self.cfg)
        restore_lr_scheduler(self._loaded_run_state, self.lr_scheduler, self.cfg.lr_schedule)
        self._set_lr(self.curr_lr)
        if self.level_curriculum is not None:
            self.level_curriculum.init(self._loaded_curriculum)

        self.param_server.init(self.actor_critic, self.device, self.train_step)
        self.policy_versions_tensor[self.policy_id] = self.train_step
        self.is_initialized = True
        return model_initialization_data(self.cfg, self.policy_id, self.actor_critic, self.train_step, self.device)

    def _seed(self) -> None:
        """Own random streams for every policy. Policy 0 keeps the weights that a seed has always given."""
        seed = self.cfg.seed
        self._rng = component_rng(self.cfg, "minibatches", self.policy_id)
        self._summary_rng = component_rng(self.cfg, "summaries", self.policy_id)
        if seed is None:
            return
        if self.policy_id > 0:
            seed = int(component_seed_sequence(self.cfg, "weights", self.policy_id).generate_state(1)[0])
        log.info(f"Setting fixed seed {seed}")
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)

    # --- training ---

    def train(self, batch: TensorDict) -> dict[str, Any] | None:
        """One training iteration: all epochs and minibatches on a batch of trajectories ``[N, T(+1), ...]``.

        Returns the message for the runner, ``None`` if no sample was valid or the policy had to go back.
        """
        self._maybe_roll_back()
        self._maybe_load_policy()
        self._maybe_update_cfg()
        try:
            with self._shortcuts.iteration(self.actor_critic):
                return self._train_on(batch)
        except DivergedError as exc:
            self._roll_back(exc)
            return None

    def _train_on(self, batch: TensorDict) -> dict[str, Any] | None:
        if self._has_standard_losses():
            self._captured.start_iteration(self.cfg, self.actor_critic, self.optimizer, self.device)
        with self.timing.add_time("prepare_batch"):
            buff, experience_size, num_invalids = self._prepare_batch(batch)
        message: dict[str, Any] = {POLICY_ID_KEY: self.policy_id}
        if self.level_curriculum is not None:
            self.level_curriculum.report_to(message)
        if num_invalids >= experience_size and self.level_curriculum is not None:
            # Usual while all levels are new: they were played to be judged.
            message[LEARNER_ENV_STEPS] = self._count_env_steps(experience_size)
            return message
        if num_invalids >= experience_size:
            # Usual after population-based training replaced the weights, otherwise a sign of a lag that is too large.
            report = log.warning if self.cfg.with_pbt else log.error
            report(f"Policy {self.policy_id}: no valid samples in the training batch, skipping it")
            return None

        with self.timing.add_time("train"):
            train_stats = self._train(buff, self.cfg.batch_size, experience_size, num_invalids)
        message[LEARNER_ENV_STEPS] = self._count_env_steps(experience_size)
        if train_stats is not None:
            message[TRAIN_STATS] = train_stats
            message[STATS_KEY] = memory_stats("learner", self.device)
        return message

    def _count_env_steps(self, experience_size: int) -> int:
        self.env_steps += experience_size * (self.env_info.frameskip if self.cfg.summaries_use_frameskip else 1)
        return self.env_steps

    def _prepare_batch(self, batch: TensorDict) -> tuple[TensorDict, int, int]:
        """``(dataset with flat tensors [D, ...], D, number of invalid samples)``; see :class:`BatchPreparation`."""
        network = self._shortcuts.network(self.actor_critic)
        captured = self._captured.preparation if self._captured.is_allowed else None
        preparation = BatchPreparation(self.cfg, self.policy_id, network, self.level_curriculum, captured)
        return preparation.prepare(batch, self.actor_critic, self.train_step, self.param_server.policy_lock)

    def _calculate_losses(self, mb: AttrDict, num_invalids: int) -> Losses:
        """Losses of one minibatch that has ``num_invalids`` invalid samples.

        Returns ``(action_distribution, policy_loss, exploration_loss, kl_old, kl_loss, value_loss, loss_summaries)``.
        """
        tape, network = self._shortcuts.tape, self._shortcuts.network(self.actor_critic)
        with self.timing.add_time("forward"):
            distribution, values = forward_minibatch(self.actor_critic, mb, self.cfg, network, tape)
        out = minibatch_losses(distribution, values, mb, num_invalids, self.env_info.action_space, self.cfg, tape)
        losses = out.policy_loss, out.exploration_loss, out.kl_old, out.kl_loss, out.value_loss
        return (distribution, *losses, out.summaries)

    def _train(self, buff: TensorDict, batch_size: int, experience_size: int, num_invalids: int) -> AttrDict | None:
        """SGD over all epochs. Returns statistics if they are due."""
        assert self.curr_lr is not None
        cfg, scheduler = self.cfg, self.lr_scheduler
        stepper = self._stepper = renewed(self._stepper, self.optimizer, self.actor_critic, cfg.max_grad_norm)
        minibatch_log = MinibatchLog()
        self.curr_lr = scheduler.on_iteration_start(self.curr_lr, self.env_steps)
        record_at = choose_summary_position(self._summary_rng, cfg) if self._is_summary_due() else None
        last_position = (cfg.num_epochs - 1, cfg.num_batches_per_epoch - 1)
        stats: AttrDict | None = None
        var = AttrDict()
        previous_actor_loss = 1e9

        for epoch in range(cfg.num_epochs):
            epoch_start = len(minibatch_log)
            for batch_num, (mb, mb_invalids) in enumerate(self._minibatches(buff, batch_size, experience_size)):
                if mb_invalids == mb.valids.numel():
                    continue
                forget_step(var)
                var = self._sgd_step(stepper, mb, mb_invalids, minibatch_log)
                var.update(epoch=epoch, batch_num=batch_num, is_last=False, num_sgd_steps=len(minibatch_log))
                if scheduler.invoke_after_each_minibatch():
                    self._update_lr(minibatch_log)
                var.lr = self.curr_lr
                if (epoch, batch_num) == record_at != last_position:
                    stats = self._record_summaries(var)
            if scheduler.invoke_after_each_epoch():
                self._update_lr(minibatch_log)
            if epoch + 1 < cfg.num_epochs:
                actor_loss = float(np.mean([r.actor_loss for r in minibatch_log.records()[epoch_start:]]))
                if abs(previous_actor_loss - actor_loss) < EARLY_STOPPING_TOLERANCE:
                    log.debug(f"Early stopping after {epoch + 1} epochs ({len(minibatch_log)} sgd steps)")
                    break
                previous_actor_loss = actor_loss

        with self.timing.add_time("after_train"):
            has_high_loss = self._finish_iteration(stepper, minibatch_log)
            if stats is None and (record_at is not None or has_high_loss):
                var.is_last = True
                stats = self._record_summaries(var)
        forget_step(var)
        if stats is not None:
            self.last_summary_time = time.time()
        return stats

    def _minibatches(self, buff: TensorDict, batch_size: int, experience_size: int) -> Iterator[tuple[AttrDict, int]]:
        """Minibatches of one epoch and how many samples are invalid in each."""
        cfg = self.cfg
        for indices in split_into_minibatches(
            experience_size,
            batch_size,
            cfg.num_batches_per_epoch,
            rollout=cfg.rollout,
            recurrence=cfg.recurrence,
            shuffle=cfg.shuffle_minibatches,
            rng=self._rng,
        ):
            mb = take_minibatch(buff, indices)
            valids = mb.valids_cpu if "valids_cpu" in mb else mb.valids
            yield mb, int((~valids).sum())

    def _sgd_step(
        self, stepper: GradientStep, mb: AttrDict, num_invalids: int, minibatch_log: MinibatchLog
    ) -> AttrDict:
        """One update. Returns the variables of the step, for summaries."""
        assert self.curr_lr is not None
        actual_lr = self.curr_lr * (mb.valids.numel() - num_invalids) / mb.valids.numel()
        policy_version = self.train_step

        def update(mb: AttrDict, lr: float | Tensor) -> AttrDict:
            return self._update(stepper, mb, num_invalids, lr)

        var, record = self._captured.step(mb, actual_lr, update, are_all_valid=num_invalids == 0)
        if self._captured.is_allowed:
            self._set_lr(actual_lr)
        if isinstance(var.skipped, bool):
            self._skips.record(var.skipped)
        if var.skipped is not True:
            self._after_optimizer_step()
        minibatch_log.append(record)
        var.update(mb=mb, actual_lr=actual_lr, policy_version=policy_version, optimizer=self.optimizer)
        return var

    def _update(self, stepper: GradientStep, mb: AttrDict, num_invalids: int, lr: float | Tensor) -> AttrDict:
        """The part of an SGD step that is computed on the device."""
        tape = self._make_tape(mb)
        with self._shortcuts.recording(tape):
            distribution, policy_loss, exploration_loss, kl_old, kl_loss, value_loss, loss_summaries = (
                self._calculate_losses(mb, num_invalids)
            )
        loss = policy_loss + exploration_loss + kl_loss + value_loss
        mask = SampleMask.make(mb.valids, num_invalids)
        with torch.no_grad():
            if kl_old is None:
                kl_old = kl_divergence_to_old(
                    distribution, old_action_distribution(mb, self.env_info.action_space), mask
                )
            # Replacements of _calculate_losses may return the divergence of the valid samples only.
            kl_mean = mask.mean(kl_old) if kl_old.numel() == mb.valids.numel() else kl_old.mean()
            kl_max = kl_old.max()
        with self.timing.add_time("update"), self.param_server.policy_lock:
            grad_norm, skipped = stepper.apply(loss, lr, tape)
        return AttrDict(
            num_invalids=num_invalids,
            action_distribution=distribution,
            loss=loss,
            policy_loss=policy_loss,
            exploration_loss=exploration_loss,
            kl_loss=kl_loss,
            value_loss=value_loss,
            kl_old=kl_old,
            kl_old_mean=kl_mean,
            kl_old_max=kl_max,
            loss_summaries=loss_summaries,
            grad_norm=grad_norm,
            skipped=skipped,
        )

    def _make_tape(self, mb: AttrDict) -> Tape | None:
        """A tape if autograd is not needed for this minibatch: standard network, losses and method."""
        if not self._has_standard_losses():
            return None
        network = self._shortcuts.network(self.actor_critic)
        return make_tape(network, mb, self.env_info.action_space, self.cfg)

    def _has_standard_losses(self) -> bool:
        return type(self)._calculate_losses is _STANDARD_LOSSES and "_calculate_losses" not in self.__dict__

    def _after_optimizer_step(self) -> None:
        """A new policy version. On a GPU versions are published together, at the end of the iteration."""
        self.train_step += 1
        if self.device.type == "cpu":
            self.param_server.publish(self.train_step)

    def _update_lr(self, minibatch_log: MinibatchLog) -> None:
        assert self.curr_lr is not None
        kls = [float(record.kl) for record in minibatch_log.records()] if self.lr_scheduler.needs_kls else []
        self.curr_lr = self.lr_scheduler.update(self.curr_lr, kls)

    def _finish_iteration(self, stepper: GradientStep, minibatch_log: MinibatchLog) -> bool:
        """Settle what was left on the device: skipped steps, publication, warnings. True if a loss was very high."""
        records = minibatch_log.records()
        has_high_loss = warn_about_high_values(records)
        if stepper.decides_on_device:
            for record in records:
                self._skips.record(record.skipped > 0)
                self.train_step -= int(record.skipped > 0)
        if self.device.type != "cpu":
            self.param_server.publish(self.train_step)

        return has_high_loss

    # --- summaries ---

    def _is_summary_due(self) -> bool:
        interval_sec = self.summary_rate_decay_seconds.at(self.train_step)
        return time.time() - self.last_summary_time >= interval_sec

    def _record_summaries(self, train_loop_vars: AttrDict) -> AttrDict:
        """Statistics ``{name: number}`` of one SGD step; ``train_loop_vars`` is what :meth:`_sgd_step` returned."""
        var = train_loop_vars
        stats: dict[str, Any] = {"env_steps": self.env_steps, "lr": var.lr, "actual_lr": var.actual_lr}
        stats.update(collect_stats(var, self.policy_id, self.actor_critic))
        stats["num_skipped_sgd_steps"] = self._skips.total
        stats["num_rollbacks"] = self._num_rollbacks
        return read_stats(stats)


# Replacements of it, in subclasses or afterwards, may need gradients of anything.
_STANDARD_LOSSES = Learner._calculate_losses
