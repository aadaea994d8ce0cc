"""Action distributions: what a policy's raw outputs ("logits") mean for every supported action space.

=========================== ============== ====================== ==================================================
action space                num_actions    num_action_parameters  distribution
=========================== ============== ====================== ==================================================
Discrete, Discretized       1              n                      :class:`CategoricalActionDistribution`
MultiDiscrete               k              sum of n_i             :class:`TupleActionDistribution` of k categoricals
Box (one dimension)         n              2 n                    :class:`ContinuousActionDistribution`
Tuple                       sum            sum                    :class:`TupleActionDistribution`
=========================== ============== ====================== ==================================================

Discrete actions count from 0; the ``start`` of a space is added where actions reach the environment.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor

from sample_factory.algo.utils.continuous_distribution import ContinuousActionDistribution
from sample_factory.utils.typing import ActionSpace
from sample_factory.utils.utils import log

_FORBIDDEN_LOGIT = -1e9  # added to the logits of forbidden actions; finite, so that 0 * log(0) stays 0

# What an action mask may be: one tensor, or for composite spaces one tensor per sub-space.
ActionMask = Tensor | Sequence[Tensor | None]


class UnsupportedActionSpace(ValueError, NotImplementedError):
    """The action space has no distribution. Both bases: it is a user's mistake, and older code catches the second."""

    def __init__(self, space: Any):
        super().__init__(
            f"Action space {space} is not supported: use Discrete, MultiDiscrete, a one-dimensional Box or a Tuple of "
            "these (wrap the environment to convert its actions)"
        )


def is_continuous_action_space(action_space: ActionSpace) -> bool:
    """Whether the whole space is a Box."""
    return isinstance(action_space, spaces.Box)


def calc_num_actions(action_space: ActionSpace) -> int:
    """How many numbers one action has."""
    if isinstance(action_space, spaces.Discrete):
        return 1
    if isinstance(action_space, (spaces.Tuple, spaces.MultiDiscrete)):
        return sum(calc_num_actions(space) for space in _sub_spaces(action_space))
    if isinstance(action_space, spaces.Box) and len(action_space.shape) == 1:
        return action_space.shape[0]
    raise UnsupportedActionSpace(action_space)


def calc_num_action_parameters(action_space: ActionSpace) -> int:
    """How many outputs the policy needs: logits, and a mean and a log standard deviation per continuous action."""
    if isinstance(action_space, spaces.Discrete):
        return int(action_space.n)
    if isinstance(action_space, (spaces.Tuple, spaces.MultiDiscrete)):
        return sum(calc_num_action_parameters(space) for space in _sub_spaces(action_space))
    if isinstance(action_space, spaces.Box):
        return 2 * math.prod(action_space.shape)
    raise UnsupportedActionSpace(action_space)


def _sub_spaces(action_space: ActionSpace) -> Sequence[spaces.Space]:
    if isinstance(action_space, spaces.MultiDiscrete):
        return _discrete_spaces(tuple(action_space.nvec.ravel().tolist()))
    assert isinstance(action_space, spaces.Tuple)
    return action_space.spaces


@lru_cache(maxsize=64)
def _discrete_spaces(sizes: tuple[int, ...]) -> tuple[spaces.Discrete, ...]:
    return tuple(spaces.Discrete(n) for n in sizes)


def get_action_distribution(
    action_space: ActionSpace, raw_logits: Tensor, action_mask: ActionMask | None = None
) -> CategoricalActionDistribution | TupleActionDistribution | ContinuousActionDistribution:
    """Distribution over actions for ``raw_logits`` ``[b, calc_num_action_parameters(space)]``.

    :param action_mask: non-zero where an action is allowed. Discrete: ``[b, n]``; composite spaces: see
        :class:`TupleActionDistribution`; ignored for Box.
    """
    num_parameters = calc_num_action_parameters(action_space)
    assert num_parameters == raw_logits.shape[-1], f"{action_space} needs {num_parameters} logits, {raw_logits.shape=}"
    if isinstance(action_space, spaces.Discrete):
        assert action_mask is None or isinstance(action_mask, Tensor)
        return CategoricalActionDistribution(raw_logits, action_mask)
    if isinstance(action_space, (spaces.Tuple, spaces.MultiDiscrete)):
        return TupleActionDistribution(action_space, raw_logits, action_mask)
    return ContinuousActionDistribution(raw_logits)


def sample_actions_log_probs(distribution: Any) -> tuple[Tensor, Tensor]:
    """Sampled actions ``[b, k]`` and their log-probabilities ``[b]``."""
    if isinstance(distribution, TupleActionDistribution):
        return distribution.sample_actions_log_probs()
    actions = distribution.sample()
    return actions, distribution.log_prob(actions)


def argmax_actions(distribution: Any) -> Tensor:
    """Most likely actions: ``[b]`` for Discrete, ``[b, k]`` otherwise."""
    if hasattr(distribution, "argmax"):
        return distribution.argmax()
    if hasattr(distribution, "probs"):
        return torch.argmax(distribution.probs, dim=-1)
    if hasattr(distribution, "means"):
        return distribution.means
    raise ValueError(f"Action distribution {type(distribution)} has no argmax(), probs or means")


def _mask_logits(logits: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask != 0, logits, logits + _FORBIDDEN_LOGIT)


def masked_softmax(logits: Tensor, mask: Tensor) -> Tensor:
    """Probabilities of allowed actions (``mask != 0``); rows without any allowed action are all zero."""
    probs = torch.softmax(_mask_logits(logits, mask), dim=-1) * (mask != 0)
    return probs / (probs.sum(dim=-1, keepdim=True) + 1e-13)


def masked_log_softmax(logits: Tensor, mask: Tensor) -> Tensor:
    """Log-probabilities; about -1e9 for forbidden actions."""
    return torch.log_softmax(_mask_logits(logits, mask), dim=-1)


class CategoricalActionDistribution:
    """One discrete action per row of ``raw_logits`` ``[b, n]``, optionally with an ``action_mask`` ``[b, n]``."""

    def __init__(self, raw_logits: Tensor, action_mask: Tensor | None = None):
        self.raw_logits = raw_logits
        self.action_mask = action_mask
        self._indifferent_scores: Tensor | float = 0.0  # what to sample by where nothing is allowed

    @cached_property
    def probs(self) -> Tensor:
        if self.action_mask is None:
            return torch.softmax(self.raw_logits, dim=-1)
        return masked_softmax(self.raw_logits, self.action_mask)

    @cached_property
    def log_probs(self) -> Tensor:
        if self.action_mask is None:
            return torch.log_softmax(self.raw_logits, dim=-1)
        return masked_log_softmax(self.raw_logits, self.action_mask)

    @property
    def p(self) -> Tensor:
        """Short name of ``probs``."""
        return self.probs

    @property
    def log_p(self) -> Tensor:
        """Short name of ``log_probs``."""
        return self.log_probs

    def sample(self) -> Tensor:
        """Actions, int64 ``[b, 1]``; uniform in rows where no action is allowed."""
        scores = self.log_probs.detach()
        if self.action_mask is not None:
            has_choice = (self.action_mask != 0).any(dim=-1, keepdim=True)
            scores = torch.where(has_choice, scores, self._indifferent_scores)
        # NaN anywhere makes the sum NaN. On accelerators reading it would stall the device.
        if scores.device.type == "cpu" and math.isnan(scores.sum().item()):
            raise ValueError("action probabilities contain NaN: bad observations or diverged weights")
        return _gumbel_max(scores).unsqueeze(-1)

    def sample_gumbel(self) -> Tensor:
        """Actions, int64 ``[b]``."""
        return _gumbel_max(self.log_probs.detach())

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probabilities, flattened, of actions ``[b, 1]`` (or ``[b]``; ``[1, k]`` with one row of logits)."""
        if value.dim() < self.raw_logits.dim():
            value = value.unsqueeze(-1)
        return self.log_probs.gather(-1, value.long()).view(-1)

    def entropy(self) -> Tensor:
        """Entropy in nats, ``[b]``."""
        return -(self.probs * self.log_probs).sum(dim=-1)

    def kl_divergence(self, other: CategoricalActionDistribution) -> Tensor:
        """KL(self || other), ``[b]``."""
        return (self.probs * (self.log_probs - other.log_probs)).sum(dim=-1)

    def symmetric_kl_with_uniform_prior(self) -> Tensor:
        """``(KL(p || u) + KL(u || p)) / 2``, ``[b]``, with u uniform over the allowed actions."""
        uniform, log_uniform = self._uniform_prior()
        log_ratio = self.log_probs - log_uniform
        return 0.5 * ((self.probs - uniform) * log_ratio).sum(dim=-1)

    def _allowed(self) -> Tensor | None:
        """Non-zero for allowed actions; ``None`` if that is all of them."""
        return self.action_mask

    def _uniform_prior(self) -> tuple[Tensor | float, Tensor | float]:
        mask = self._allowed()
        if mask is None:
            num_actions = self.raw_logits.shape[-1]
            return 1.0 / num_actions, -math.log(num_actions)
        allowed = (mask != 0).to(self.raw_logits.dtype)
        num_allowed = allowed.sum(dim=-1, keepdim=True).clamp(min=1.0)
        return allowed / num_allowed, -num_allowed.log()

    def dbg_print(self) -> None:
        """Log the entropy and the extremes of logits and probabilities."""
        logits, probs = self.raw_logits, self.probs
        log.debug(
            f"entropy={self.entropy().mean().item():.3f} min_logit={logits.min().item():.3f} "
            f"max_logit={logits.max().item():.3f} min_prob={probs.min().item():.3f} max_prob={probs.max().item():.3f}"
        )


def _gumbel_max(log_probs: Tensor) -> Tensor:
    """One sample per row by the Gumbel-max trick; unlike ``torch.multinomial`` it never waits for the device."""
    return log_probs.sub(torch.empty_like(log_probs).exponential_().log_()).argmax(dim=-1)


class _PaddedCategorical(CategoricalActionDistribution):
    """Categoricals of different sizes: columns that do not ``exist`` have logits so low that they count as nothing."""

    def __init__(self, logits: Tensor, action_mask: Tensor | None, exists: Tensor):
        missing = torch.where(exists, 0.0, _FORBIDDEN_LOGIT)
        super().__init__(logits + missing, None if action_mask is None else action_mask * exists)
        self._exists = exists
        self._indifferent_scores = missing

    def _allowed(self) -> Tensor:
        return self._exists if self.action_mask is None else self.action_mask


class TupleActionDistribution:
    """Independent distributions of several sub-spaces.

    If all are Discrete they are computed as one padded categorical ``[b, k, max n]``: the cost does not grow with k.

    :param logits_flat: ``[b, sum of parameters]``, sub-space after sub-space.
    :param action_mask: a sequence with one mask per sub-space (``None``: everything allowed); or a tensor
        ``[b, sum of n]`` over the discrete sub-spaces; or, for any other tensor, its ``i``-th entry is the mask of
        sub-space ``i``.
    """

    def __init__(self, action_space: ActionSpace, logits_flat: Tensor, action_mask: ActionMask | None = None):
        self._spaces = _sub_spaces(action_space)
        self.logit_lengths = [calc_num_action_parameters(space) for space in self._spaces]
        self.action_lengths = [calc_num_actions(space) for space in self._spaces]
        assert sum(self.logit_lengths) == logits_flat.shape[1], f"{action_space} does not fit {logits_flat.shape=}"
        self._logits_flat = logits_flat
        self._action_mask = action_mask

    @cached_property
    def split_logits(self) -> tuple[Tensor, ...]:
        return torch.split(self._logits_flat, self.logit_lengths, dim=1)

    @cached_property
    def distributions(self) -> list[Any]:
        """One distribution per sub-space."""
        masks = _split_mask(self._action_mask, self._spaces)
        parts = zip(self._spaces, self.split_logits, masks, strict=True)
        return [get_action_distribution(space, logits, mask) for space, logits, mask in parts]

    @cached_property
    def _joint(self) -> CategoricalActionDistribution | None:
        """All sub-spaces as one categorical ``[b, k, max n]``, if all are Discrete."""
        if not all(isinstance(space, spaces.Discrete) for space in self._spaces):
            return None
        mask = None if self._action_mask is None else self._flat_mask()
        shape = (-1, len(self._spaces), max(self.logit_lengths))
        if min(self.logit_lengths) == shape[-1]:
            mask = None if mask is None else mask.reshape(shape)
            return CategoricalActionDistribution(self._logits_flat.reshape(shape), mask)
        columns, exists = _padding(tuple(self.logit_lengths), self._logits_flat.device)
        mask = None if mask is None else mask.index_select(1, columns).reshape(shape)
        return _PaddedCategorical(self._logits_flat.index_select(1, columns).reshape(shape), mask, exists)

    def _flat_mask(self) -> Tensor:
        """The mask as one tensor ``[b, sum of n]``."""
        assert self._action_mask is not None
        batch_size = self._logits_flat.shape[0]
        masks = _split_mask(self._action_mask, self._spaces)
        return torch.cat(
            [
                torch.ones([batch_size, n], dtype=torch.bool, device=self._logits_flat.device)
                if mask is None
                else (mask != 0).expand(batch_size, n)
                for mask, n in zip(masks, self.logit_lengths, strict=True)
            ],
            dim=1,
        )

    def sample(self) -> Tensor:
        """Actions ``[b, k]``: int64 if all sub-spaces are Discrete, else float."""
        if self._joint is not None:
            return self._joint.sample().squeeze(-1)
        return torch.cat([d.sample() for d in self.distributions], dim=1)

    def sample_actions_log_probs(self) -> tuple[Tensor, Tensor]:
        """Actions ``[b, k]`` and log-probabilities ``[b]``."""
        actions = self.sample()
        return actions, self.log_prob(actions)

    def argmax(self) -> Tensor:
        """Most likely action of every sub-space, ``[b, k]``."""
        if self._joint is not None:
            return self._joint.probs.argmax(dim=-1)
        columns = [argmax_actions(d) for d in self.distributions]
        return torch.cat([column.unsqueeze(1) if column.dim() == 1 else column for column in columns], dim=1)

    def log_prob(self, actions: Tensor) -> Tensor:
        """Joint log-probability ``[b]`` of ``actions`` ``[b, k]``."""
        if self._joint is not None:
            return self._joint.log_probs.gather(-1, actions.long().unsqueeze(-1)).squeeze(-1).sum(dim=1)
        parts = torch.split(actions, self.action_lengths, dim=1)
        return _sum([d.log_prob(part) for d, part in zip(self.distributions, parts, strict=True)])

    def entropy(self) -> Tensor:
        if self._joint is not None:
            return self._joint.entropy().sum(dim=1)
        return _sum([d.entropy() for d in self.distributions])

    def kl_divergence(self, other: TupleActionDistribution) -> Tensor:
        if self._joint is not None and other._joint is not None:
            return self._joint.kl_divergence(other._joint).sum(dim=1)
        pairs = zip(self.distributions, other.distributions, strict=True)
        return _sum([mine.kl_divergence(theirs) for mine, theirs in pairs])

    def symmetric_kl_with_uniform_prior(self) -> Tensor:
        if self._joint is not None:
            return self._joint.symmetric_kl_with_uniform_prior().sum(dim=1)
        return _sum([d.symmetric_kl_with_uniform_prior() for d in self.distributions])

    def dbg_print(self) -> None:
        for distribution in self.distributions:
            distribution.dbg_print()


def _sum(tensors: list[Tensor]) -> Tensor:
    return torch.stack(tensors, dim=0).sum(dim=0)


@lru_cache(maxsize=64)
def _padding(sizes: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Which columns of the flat logits make up the padded ones ``[k * max n]``, and which exist ``[k, max n]``."""
    with torch.inference_mode(False):  # also used where gradients are needed
        width = torch.arange(max(sizes))
        lengths = torch.tensor(sizes).unsqueeze(1)
        offsets = lengths.cumsum(dim=0) - lengths
        exists = width < lengths
        return ((offsets + width) * exists).flatten().to(device), exists.to(device)


def _split_mask(action_mask: ActionMask | None, sub_spaces: Sequence[spaces.Space]) -> list[Any]:
    """One mask (or ``None``) per sub-space; the accepted forms are listed at :class:`TupleActionDistribution`."""
    if action_mask is None:
        return [None] * len(sub_spaces)
    if not isinstance(action_mask, Tensor):
        if len(action_mask) != len(sub_spaces):
            raise ValueError(f"action_mask has {len(action_mask)} masks, the action space has {len(sub_spaces)} parts")
        return list(action_mask)
    # Continuous parts have nothing to mask and take no columns.
    sizes = [0 if isinstance(space, spaces.Box) else calc_num_action_parameters(space) for space in sub_spaces]
    if action_mask.dim() == 2 and action_mask.shape[1] == sum(sizes):
        parts = torch.split(action_mask, sizes, dim=1)
        return [part if size > 0 else None for part, size in zip(parts, sizes, strict=True)]
    if len(action_mask) < len(sub_spaces):
        raise ValueError(
            f"action_mask of shape {tuple(action_mask.shape)} does not fit the action space: "
            f"expected [batch, {sum(sizes)}] or one mask for each of its {len(sub_spaces)} parts"
        )
    return [action_mask[i] if size > 0 else None for i, size in enumerate(sizes)]
