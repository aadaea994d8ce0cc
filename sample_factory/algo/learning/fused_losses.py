"""The PPO losses of a categorical policy on the CPU as one differentiable operation with a written-out gradient.

The formulas are those of :mod:`losses`, which stays the definition and serves every other case; a test compares the
two. Here the work is done by NumPy on rows of contiguous numbers (action by action), because on minibatches of a
thousand samples the time goes into starting operators and recording them, not into arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.autograd.function import once_differentiable

from sample_factory.algo.learning.losses import MAX_RATIO, MIN_ADVANTAGE_STD, MIN_RATIO, LossOutput
from sample_factory.algo.learning.preparation import ACTION_MASK_KEY
from sample_factory.algo.utils.action_distributions import CategoricalActionDistribution
from sample_factory.model.dense_stack import RecordedHeads
from sample_factory.model.standard_network import StandardNetwork
from sample_factory.utils.attr_dict import AttrDict
from sample_factory.utils.typing import ActionDistribution, ActionSpace, Config

# (ratio [B], values [B]) -> (advantages [B], targets [B])
EstimateReturns = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]

_USED = ("actions", "log_prob_actions", "action_logits", "values")


def can_fuse(distribution: ActionDistribution, values: Tensor, mb: AttrDict, cfg: Config) -> bool:
    """Whether :func:`fused_losses` covers this minibatch."""
    if type(distribution) is not CategoricalActionDistribution or distribution.action_mask is not None:
        return False
    logits = distribution.raw_logits
    is_flat = logits.dim() == 2 and mb["actions"].numel() == len(logits)
    return is_flat and cfg.exploration_loss == "entropy" and _are_plain(logits, values) and _is_plain_minibatch(mb)


def make_tape(network: StandardNetwork | None, mb: AttrDict, action_space: ActionSpace, cfg: Config) -> Tape | None:
    """A tape if network and losses of this minibatch can do without autograd, else ``None``."""
    if network is None or not network.is_recordable or type(action_space) is not spaces.Discrete:
        return None
    if ACTION_MASK_KEY in mb or cfg.exploration_loss != "entropy" or not _is_plain_minibatch(mb):
        return None
    return Tape()


def _is_plain_minibatch(mb: AttrDict) -> bool:
    return _are_plain(*(mb[key] for key in _USED))


def _are_plain(*tensors: Tensor) -> bool:
    return all(x.device.type == "cpu" and x.dtype == torch.float32 for x in tensors)


@dataclass(frozen=True)
class Coefficients:
    """What the configuration says about the losses."""

    clip_low: float
    clip_high: float
    clip_value: float
    entropy: float
    kl: float
    value: float

    @classmethod
    def of(cls, cfg: Config) -> Coefficients:
        high = 1.0 + cfg.ppo_clip_ratio
        return cls(
            clip_low=1.0 / high,
            clip_high=high,
            clip_value=cfg.ppo_clip_value,
            entropy=cfg.exploration_loss_coeff,
            kl=cfg.kl_loss_coeff,
            value=cfg.value_loss_coeff,
        )


class _Data(NamedTuple):
    """One minibatch; ``chosen [B]``: position of the taken actions in a flat ``[A, B]``."""

    chosen: np.ndarray
    old_log_prob: np.ndarray  # [B]
    old_log_probs: np.ndarray  # [A, B]
    old_values: np.ndarray  # [B]
    valid: np.ndarray | None  # [B] bool
    num_valid: int
    estimate: EstimateReturns


@lru_cache(maxsize=8)
def _column(size: int) -> np.ndarray:
    return np.arange(size)


def _log_softmax(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities and probabilities ``[A, B]`` of logits ``[A, B]``."""
    log_probs = logits - np.maximum.reduce(logits, axis=0)
    probs = np.exp(log_probs)
    total = np.add.reduce(probs, axis=0)
    log_probs -= np.log(total)
    probs /= total
    return log_probs, probs


class _Step:
    """Everything about one minibatch, from the numbers of the network to the gradient."""

    def __init__(self, logits: np.ndarray, values: np.ndarray, data: _Data, coefficients: Coefficients) -> None:
        self.values, self.data, self.c = values, data, coefficients
        self.log_probs, self.probs = _log_softmax(logits)
        self.raw_ratio = np.exp(self.log_probs.ravel()[data.chosen] - data.old_log_prob)
        self.ratio = np.clip(self.raw_ratio, MIN_RATIO, MAX_RATIO)
        self.raw_advantages, self.targets = data.estimate(self.ratio, values)
        self.advantages, self.adv_mean, self.adv_std = self._normalize(self.raw_advantages)

    def _sum(self, x: np.ndarray) -> np.floating[Any]:
        return np.add.reduce(x if self.data.valid is None else np.where(self.data.valid, x, np.float32(0.0)))

    def _mean(self, x: np.ndarray) -> np.floating[Any]:
        return self._sum(x) / np.float32(self.data.num_valid)

    def _normalize(self, advantages: np.ndarray) -> tuple[np.ndarray, np.floating[Any], np.floating[Any]]:
        mean = self._mean(advantages)
        deviations = advantages - mean
        if self.data.valid is not None:
            deviations = np.where(self.data.valid, deviations, np.float32(0.0))
        std = np.sqrt(np.dot(deviations, deviations) / np.float32(max(self.data.num_valid - 1, 1)))
        return deviations / np.maximum(std, np.float32(MIN_ADVANTAGE_STD)), mean, std

    def policy_loss(self) -> np.floating[Any]:
        self.surrogate = self.ratio * self.advantages
        self.clipped = np.clip(self.ratio, self.c.clip_low, self.c.clip_high) * self.advantages
        return -self._mean(np.minimum(self.surrogate, self.clipped))

    def entropy_loss(self) -> np.floating[Any]:
        self.entropy = -np.add.reduce(self.probs * self.log_probs, axis=0)
        return -np.float32(self.c.entropy) * self._mean(self.entropy)

    def kl_to_old(self) -> np.ndarray:
        self.log_ratios = self.log_probs - self.data.old_log_probs
        self.kl = np.add.reduce(self.probs * self.log_ratios, axis=0)
        return self.kl if self.data.valid is None else np.where(self.data.valid, self.kl, np.float32(0.0))

    def value_loss(self) -> np.floating[Any]:
        change = self.values - self.data.old_values
        limit = self.c.clip_value
        clipped_change = np.clip(change, -limit, limit)
        self.is_inside = change == clipped_change
        self.error = self.values - self.targets
        self.clipped_error = self.data.old_values + clipped_change - self.targets
        self.square, self.clipped_square = self.error * self.error, self.clipped_error * self.clipped_error
        return np.float32(self.c.value) * self._mean(np.maximum(self.square, self.clipped_square))

    def gradient(self, policy: float = 1.0, entropy: float = 1.0, kl: float = 1.0, value: float = 1.0) -> np.ndarray:
        """Gradients of logits and, in the last row, values ``[A + 1, B]``, given those of the four losses."""
        scale = 1.0 / self.data.num_valid
        is_free = self.raw_ratio == self.ratio  # not clamped to [MIN_RATIO, MAX_RATIO]
        is_unclipped = self.surrogate <= self.clipped
        of_chosen = self.surrogate * np.float32(-policy * scale)  # d exp(x) = exp(x) dx
        of_chosen *= is_free & is_unclipped

        inner: np.ndarray | None = None
        if entropy != 0.0 and self.c.entropy != 0.0:
            inner = (self.log_probs + self.entropy) * np.float32(entropy * self.c.entropy * scale)
        if kl != 0.0 and self.c.kl != 0.0:
            of_kl = (self.log_ratios - self.kl) * np.float32(kl * self.c.kl * scale)
            inner = of_kl if inner is None else inner + of_kl
        heads = np.empty((len(self.probs) + 1, len(of_chosen)), dtype=np.float32)
        logits, values = heads[:-1], heads[-1]
        np.multiply(self.probs, -of_chosen if inner is None else inner - of_chosen, out=logits)
        heads.ravel()[self.data.chosen] += of_chosen
        weight = np.float32(2.0 * value * self.c.value * scale)
        error = np.where(self.square >= self.clipped_square, self.error, self.clipped_error * self.is_inside)
        np.multiply(error, weight, out=values)
        if self.data.valid is not None:
            heads[:, ~self.data.valid] = 0.0
        return heads

    def losses(self) -> tuple[list[Tensor], Tensor]:
        """Policy, entropy, value and KL loss; and the divergence from the old policy ``[B]``."""
        values = [self.policy_loss(), self.entropy_loss(), self.value_loss()]
        kl_old = self.kl_to_old()
        values.append(np.float32(self.c.kl) * (np.add.reduce(kl_old) / np.float32(self.data.num_valid)))
        return [torch.tensor(x) for x in values], torch.from_numpy(kl_old)


class _FusedLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, values: Tensor, data: _Data, coefficients: Coefficients, out: list[Any]
    ) -> Any:
        with np.errstate(all="ignore"):
            ctx.step = _make_step(logits, values, data, coefficients)
            losses, kl_old = ctx.step.losses()
        out += [ctx.step, kl_old]
        return tuple(losses)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, policy: Tensor, entropy: Tensor, value: Tensor, kl: Tensor) -> Any:
        with np.errstate(all="ignore"):
            heads = ctx.step.gradient(policy.item(), entropy.item(), kl.item(), value.item())
        return torch.from_numpy(heads[:-1].T), torch.from_numpy(heads[-1]), None, None, None


def _make_step(logits: Tensor, values: Tensor, data: _Data, coefficients: Coefficients) -> _Step:
    rows = np.ascontiguousarray(logits.detach().numpy().T)
    return _Step(rows, values.detach().numpy(), data, coefficients)


class Tape:
    """The way back through a minibatch for which autograd recorded nothing.

    The forward pass and the losses leave here what they need, :meth:`backward` sets the gradients of the parameters.
    """

    def __init__(self) -> None:
        self.heads: RecordedHeads | None = None
        self.step: _Step | None = None

    def backward(self) -> None:
        assert self.heads is not None and self.step is not None, "run the forward pass and the losses first"
        with torch.no_grad(), np.errstate(all="ignore"):
            self.heads.backward(torch.from_numpy(self.step.gradient()))


def fused_losses(
    distribution: CategoricalActionDistribution,
    values: Tensor,
    mb: AttrDict,
    num_invalids: int,
    cfg: Config,
    estimate: EstimateReturns,
    tape: Tape | None = None,
) -> LossOutput:
    """All losses of one minibatch, as ``policy_update.minibatch_losses`` computes them.

    Differentiable once, or by ``tape`` if there is one. ``kl_old`` is always given and has no gradient of its own: that
    of ``kl_loss`` is all there is.
    """
    logits = distribution.raw_logits
    size = len(logits)
    actions = mb["actions"].numpy().reshape(-1).astype(np.intp)
    data = _Data(
        chosen=actions * size + _column(size),
        old_log_prob=mb["log_prob_actions"].numpy(),
        old_log_probs=_log_softmax(np.ascontiguousarray(mb["action_logits"].numpy().T))[0],
        old_values=mb["values"].numpy(),
        valid=mb["valids"].numpy() if num_invalids > 0 else None,
        num_valid=size - num_invalids,
        estimate=estimate,
    )
    coefficients = Coefficients.of(cfg)
    if tape is not None:
        with np.errstate(all="ignore"):
            step = tape.step = _make_step(logits, values, data, coefficients)
            (policy_loss, entropy_loss, value_loss, kl_loss), kl_old = step.losses()
    else:
        out: list[Any] = []
        policy_loss, entropy_loss, value_loss, kl_loss = _FusedLosses.apply(logits, values, data, coefficients, out)
        step, kl_old = out
    return LossOutput(
        policy_loss=policy_loss,
        exploration_loss=entropy_loss if cfg.exploration_loss_coeff != 0.0 else 0.0,
        kl_old=kl_old,
        kl_loss=kl_loss if cfg.kl_loss_coeff != 0.0 else 0.0,
        value_loss=value_loss,
        summaries={
            "ratio": torch.from_numpy(step.ratio),
            "clip_ratio_low": step.c.clip_low,
            "clip_ratio_high": step.c.clip_high,
            "values": values.detach(),
            "adv": torch.from_numpy(step.raw_advantages),
            "adv_std": torch.tensor(step.adv_std),
            "adv_mean": torch.tensor(step.adv_mean),
        },
    )
