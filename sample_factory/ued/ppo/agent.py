"""One agent: a network, its optimiser, and how a rollout improves it. A population is a list of agents."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from sample_factory.algo.utils.optimizers import PortableAdam
from sample_factory.algo.utils.torch_utils import keep_freed_memory
from sample_factory.ued.models.actor_critic import ActorCritic
from sample_factory.ued.models.distinct import DistinctObservations
from sample_factory.ued.ppo.captured_step import CapturedStep
from sample_factory.ued.ppo.gae import generalised_advantages
from sample_factory.ued.ppo.losses import categorical, ppo_losses
from sample_factory.ued.ppo.minibatches import Minibatch, split_indices
from sample_factory.ued.rollouts import Rollout

STAT_NAMES = (
    "total_loss",
    "actor_loss",
    "value_loss",
    "entropy",
    "mean_value",
    "mean_target",
    "mean_gae",
    "grad_norm",
)
_ADAM_BETAS = (0.9, 0.999)

GradientSync = Callable[[list[Tensor]], None]
"""Replaces tensors by their mean over all processes, in place."""


@dataclass(frozen=True)
class PPOConfig:
    """``lr_final``: end of a linear schedule of ``lr_anneal_steps`` optimiser steps. The rate is constant if the former
    is ``None`` or the latter 0.
    """

    n_epochs: int = 5
    n_minibatches: int = 1
    clip_eps: float = 0.2
    clip_value_loss: bool = True
    value_loss_coef: float = 0.5
    entropy_coef: float = 0.0
    discount: float = 0.995
    gae_lambda: float = 0.95
    max_grad_norm: float = 0.5
    adam_eps: float = 1e-5
    lr: float = 1e-4
    lr_final: float | None = None
    lr_anneal_steps: int = 0

    def __post_init__(self) -> None:
        for name in ("n_epochs", "n_minibatches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.max_grad_norm <= 0:
            raise ValueError(f"max_grad_norm={self.max_grad_norm} must be positive")

    def learning_rate(self, num_steps_done: int) -> float:
        """Rate of the optimiser step after ``num_steps_done`` of them."""
        if self.lr_final is None or self.lr_anneal_steps == 0:
            return self.lr
        return self.lr + (self.lr_final - self.lr) * min(num_steps_done / self.lr_anneal_steps, 1.0)


class PPOAgent:
    """Learns from rollouts of its own ``model``.

    ``gradient_sync``, if set, is called once per minibatch with all gradients and one tensor of statistics, before
    gradients are clipped, and averages them over processes.
    """

    def __init__(self, model: ActorCritic, config: PPOConfig) -> None:
        self.model, self.config = model, config
        self.n_updates = 0
        self.n_grad_updates = 0
        self.gradient_sync: GradientSync | None = None
        if model.device.type == "cpu":
            keep_freed_memory()
        self._parameters: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
        self._optimizer = PortableAdam(
            self._parameters, lr=config.lr, betas=_ADAM_BETAS, eps=config.adam_eps, fused=True
        )
        self._captured = CapturedStep(self._train_on, self._train_recorded, self._tensors)

    def advantages(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """Advantages and value targets ``[T, B, K]``."""
        return generalised_advantages(
            rollout.rewards,
            rollout.dones,
            rollout.values,
            rollout.last_values,
            self.config.discount,
            self.config.gae_lambda,
            rollout.truncated,
            rollout.final_values,
        )

    def update(self, rollout: Rollout, advantages: Tensor, targets: Tensor, generator: Generator) -> dict[str, float]:
        """All epochs over one rollout; returns statistics averaged over all minibatches, ``STAT_NAMES``."""
        sums = torch.zeros(len(STAT_NAMES), dtype=torch.float64, device=rollout.rewards.device)
        num_minibatches = 0
        obs = self.model.prepare(rollout.obs, batch_ndim=2)
        train_on = self._choose_step()
        for _ in range(self.config.n_epochs):
            for minibatch in self.minibatches(rollout, obs, advantages, targets, generator):
                sums += train_on(minibatch, self.config.learning_rate(self.n_grad_updates))
                self.n_grad_updates += 1
                num_minibatches += 1
        self.n_updates += 1
        return dict(zip(STAT_NAMES, (sums / num_minibatches).tolist(), strict=True))

    def minibatches(
        self,
        rollout: Rollout,
        obs: DistinctObservations,
        advantages: Tensor,
        targets: Tensor,
        generator: Generator,
    ) -> Iterator[Minibatch]:
        """A new random division of the rollout: of its environments if the network is recurrent, else of all steps."""
        whole = Minibatch(
            obs,
            rollout.actions,
            rollout.log_probs,
            rollout.values,
            advantages,
            targets,
            rollout.initial_carry,
            rollout.resets,
        )
        num_parts = self.config.n_minibatches
        if self.model.is_recurrent:
            for idx in split_indices(rollout.num_envs, num_parts, "environments", generator):
                yield whole if idx is None else _select(whole, (slice(None), idx), idx)
            return
        flat = _select(whole, None, None)
        for idx in split_indices(rollout.num_steps * rollout.num_envs, num_parts, "transitions", generator):
            yield flat if idx is None else _select(flat, idx, idx)

    def _choose_step(self) -> Callable[[Minibatch, float], Tensor]:
        """What makes a step with a minibatch and a learning rate; returns the statistics, float32 ``[8]``.

        On a GPU it is recorded where the network does the same every time, and no other process takes part.
        """
        if not self.model.is_capturable or self.gradient_sync is not None:
            return self._train_on
        self._captured.start()
        return self._captured.run

    def _train_on(self, batch: Minibatch, lr: float) -> Tensor:
        """One optimiser step."""
        stats, grads = self._gradients(batch)
        norm = self._clip(grads)
        for parameter, grad in zip(self._parameters, grads, strict=True):
            parameter.grad = grad
        self._optimizer.param_groups[0]["lr"] = lr
        self._optimizer.step()
        return torch.cat([stats, norm.view(1)])

    def _train_recorded(self, batch: Minibatch, lr: Tensor) -> Tensor:
        """The same on a GPU, after the first step: nothing is read back."""
        stats, grads = self._gradients(batch)
        norm = self._clip(grads)
        self._optimizer.step_on_device(self._parameters, grads, lr, torch.zeros_like(lr))
        return torch.cat([stats, norm.view(1)])

    def _gradients(self, batch: Minibatch) -> tuple[Tensor, list[Tensor]]:
        """All statistics but the last one, and gradients of all parameters."""
        config = self.config
        values, logits = self.model.sequence(batch.obs, batch.initial_carry, batch.resets)
        log_probs, entropy = categorical(logits, batch.actions)
        losses = ppo_losses(
            log_probs,
            entropy,
            values,
            batch.log_probs,
            batch.values,
            batch.advantages[..., 0],
            batch.targets,
            clip_eps=config.clip_eps,
            clip_value_loss=config.clip_value_loss,
            value_loss_coef=config.value_loss_coef,
            entropy_coef=config.entropy_coef,
        )
        self._optimizer.zero_grad(set_to_none=True)
        losses.total.backward()
        with torch.no_grad():
            means = values.mean(), batch.targets.mean(), batch.advantages[..., 0].mean()
            stats = torch.stack([losses.total, losses.actor, losses.value, losses.entropy, *means])
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self._parameters]
        if self.gradient_sync is not None:
            self.gradient_sync([*grads, stats])
        return stats, grads

    @torch.no_grad()
    def _clip(self, grads: list[Tensor]) -> Tensor:
        """Limit the global norm of the gradients, in place; returns what it was."""
        norm, most = torch.nn.utils.get_total_norm(grads), self.config.max_grad_norm
        if norm.is_cuda:
            torch._foreach_mul_(grads, (most / norm).clamp(max=1.0))
        elif norm > most:
            torch._foreach_mul_(grads, most / norm)
        return norm

    def _tensors(self) -> list[Tensor]:
        """Everything that a step changes or takes for granted."""
        states = [x for state in self._optimizer.state.values() for x in state.values() if isinstance(x, Tensor)]
        return [*self._parameters, *self.model.buffers(), *states]

    def state_dict(self) -> dict[str, Any]:
        """Everything that an exact continuation needs."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "n_updates": self.n_updates,
            "n_grad_updates": self.n_grad_updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._optimizer.param_groups[0]["eps"] = self.config.adam_eps  # settings are those of this run
        self.n_updates, self.n_grad_updates = state["n_updates"], state["n_grad_updates"]


def _select(batch: Minibatch, idx: Any, carry_idx: Any) -> Minibatch:
    """Elements of all tensors; ``idx`` ``None``: time and environments become one axis, and there is no carry."""

    def pick(x: Tensor) -> Tensor:
        return x.flatten(0, 1) if idx is None else x[idx]

    return Minibatch(
        obs=batch.obs.flatten() if idx is None else batch.obs[idx],
        actions=pick(batch.actions),
        log_probs=pick(batch.log_probs),
        values=pick(batch.values),
        advantages=pick(batch.advantages),
        targets=pick(batch.targets),
        initial_carry=tuple(part[carry_idx] for part in batch.initial_carry),
        resets=pick(batch.resets),
    )
