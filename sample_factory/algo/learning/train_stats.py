"""What the learner reports about its updates. Everything stays on the device until one single read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sample_factory.algo.learning.losses import SampleMask
from sample_factory.algo.utils.action_distributions import is_continuous_action_space
from sample_factory.utils.attr_dict import AttrDict
from sample_factory.utils.typing import Config
from sample_factory.utils.utils import log

HIGH_LOSS = 30.0
HIGH_KL = 100.0

Scalar = Tensor | float | int


def read_scalars(values: Sequence[Scalar]) -> list[float]:
    """Python floats of scalars, with one transfer for all tensors among them."""
    if all(not isinstance(v, Tensor) or v.device.type == "cpu" for v in values):
        return [float(v.item()) if isinstance(v, Tensor) else float(v) for v in values]
    tensors = [v.detach().reshape(()).to(torch.float64) for v in values if isinstance(v, Tensor)]
    numbers = iter(torch.stack(tensors).tolist() if tensors else [])
    return [next(numbers) if isinstance(v, Tensor) else float(v) for v in values]


@dataclass(frozen=True)
class MinibatchRecord:
    """Scalars of one SGD step that decisions and warnings need: tensors when appended to the log, floats when read."""

    loss: Any
    policy_loss: Any
    value_loss: Any
    exploration_loss: Any
    kl_loss: Any
    kl: Any
    max_kl: Any
    skipped: Any

    @classmethod
    def of(cls, var: Mapping[str, Any]) -> MinibatchRecord:
        """From the variables of an SGD step; keeps none of its graph alive."""
        values = [var[name] for name in _VARIABLES]
        return cls(*(v.detach() if isinstance(v, Tensor) and v.requires_grad else v for v in values))

    @property
    def actor_loss(self) -> Any:
        return self.policy_loss + self.exploration_loss + self.kl_loss


# Where the fields of a record are found among the variables of an SGD step.
_VARIABLES = (
    "loss",
    "policy_loss",
    "value_loss",
    "exploration_loss",
    "kl_loss",
    "kl_old_mean",
    "kl_old_max",
    "skipped",
)


def stack_record(record: MinibatchRecord, device: torch.device) -> Tensor:
    """The fields in their order, ``[8]``, without waiting for the device."""
    values = [getattr(record, field.name) for field in fields(MinibatchRecord)]
    tensors = [v if isinstance(v, Tensor) else torch.full((), float(v), device=device) for v in values]
    return torch.stack([tensor.reshape(()).float() for tensor in tensors])


class MinibatchLog:
    """The records of one training iteration; numbers are fetched from the device in one go when somebody asks."""

    def __init__(self) -> None:
        self._read: list[MinibatchRecord] = []
        self._pending: list[MinibatchRecord | Tensor] = []

    def __len__(self) -> int:
        return len(self._read) + len(self._pending)

    def append(self, record: MinibatchRecord | Tensor) -> None:
        """A record, or the tensor that :func:`stack_record` makes of one."""
        self._pending.append(record)

    def records(self) -> list[MinibatchRecord]:
        """All records so far, as Python floats."""
        pending, self._pending = self._pending, []
        if not pending:
            return self._read
        if any(isinstance(record, Tensor) for record in pending):
            device = next(record.device for record in pending if isinstance(record, Tensor))
            rows = torch.stack([r if isinstance(r, Tensor) else stack_record(r, device) for r in pending]).tolist()
        else:
            names = [field.name for field in fields(MinibatchRecord)]
            numbers = iter(read_scalars([getattr(record, name) for record in pending for name in names]))
            rows = [[next(numbers) for _ in names] for _ in pending]
        self._read += [MinibatchRecord(*row) for row in rows]
        return self._read


def warn_about_high_values(records: Sequence[MinibatchRecord]) -> bool:
    """Log losses and divergences that point to wrong hyperparameters. True if a loss was among them."""
    has_high_loss = False
    for r in records:
        if not abs(r.loss) <= HIGH_LOSS:  # also NaN
            has_high_loss = True
            log.warning(
                f"High loss value: l:{r.loss:.4f} pl:{r.policy_loss:.4f} vl:{r.value_loss:.4f} "
                f"exp_l:{r.exploration_loss:.4f} kl_l:{r.kl_loss:.4f} (consider another --reward_scale)"
            )
        if r.max_kl > HIGH_KL:
            log.warning(f"KL-divergence is very high: {r.max_kl:.4f}")
    return has_high_loss


def choose_summary_position(rng: np.random.Generator, cfg: Config) -> tuple[int, int]:
    """(epoch, minibatch) to report on: the very last one half of the time, otherwise any."""
    if rng.random() < 0.5:
        return int(rng.integers(cfg.num_epochs)), int(rng.integers(cfg.num_batches_per_epoch))
    return cfg.num_epochs - 1, cfg.num_batches_per_epoch - 1


def max_second_moment(optimizer: torch.optim.Optimizer) -> Scalar:
    """Largest element of Adam's or LAMB's second moments, 0 before the first step."""
    maxima = [state["exp_avg_sq"].max() for state in optimizer.state.values() if "exp_avg_sq" in state]
    return torch.stack(maxima).max() if maxima else 0.0


def collect_stats(var: Mapping[str, Any], policy_id: int, actor_critic: Any) -> dict[str, Scalar]:
    """Statistics of one minibatch and its update, still on the device. ``var``: the result of ``Learner._sgd_step``."""
    mask = SampleMask.make(var["mb"].valids, var["num_invalids"])
    stats = _minibatch_stats(var, policy_id, mask)
    stats.update(actor_critic.summaries())
    if is_continuous_action_space(actor_critic.action_space):
        stats.update(var["action_distribution"].summaries())
    if var["is_last"]:
        stats.update(_update_stats(var, mask))
    stats["adam_max_second_moment"] = max_second_moment(var["optimizer"])
    stats.update(_version_stats(var["mb"], policy_id, var["policy_version"]))
    return stats


def _minibatch_stats(var: Mapping[str, Any], policy_id: int, mask: SampleMask) -> dict[str, Scalar]:
    mb, summaries, distribution = var["mb"], var["loss_summaries"], var["action_distribution"]
    return {
        "valids_fraction": mb.valids.float().mean(),
        "same_policy_fraction": (mb.policy_id == policy_id).float().mean(),
        "grad_norm": var["grad_norm"],
        "loss": var["loss"],
        "value": mask.mean(summaries["values"]),
        "entropy": mask.mean(distribution.entropy()),
        "policy_loss": var["policy_loss"],
        "kl_loss": var["kl_loss"],
        "value_loss": var["value_loss"],
        "exploration_loss": var["exploration_loss"],
        "adv_min": mask.min(summaries["adv"]),
        "adv_max": mask.max(summaries["adv"]),
        "adv_std": summaries["adv_std"],
        "adv_mean": summaries["adv_mean"],
        "act_min": mb.actions.min(),
        "act_max": mb.actions.max(),
        "max_abs_logprob": mb.action_logits.abs().max(),
    }


def _update_stats(var: Mapping[str, Any], mask: SampleMask) -> dict[str, Scalar]:
    """How far the last update of an iteration moved the policy and the values from the behaviour policy's."""
    mb, summaries = var["mb"], var["loss_summaries"]
    ratio = summaries["ratio"]
    value_delta = (summaries["values"] - mb["values"]).abs()
    is_clipped = (ratio < summaries["clip_ratio_low"]) | (ratio > summaries["clip_ratio_high"])
    return {
        "kl_divergence": var["kl_old_mean"],
        "kl_divergence_max": var["kl_old_max"],
        "value_delta": mask.mean(value_delta),
        "value_delta_max": mask.max(mask.zero_invalid(value_delta)),
        "fraction_clipped": mask.mean(is_clipped.float()),
        "ratio_mean": mask.mean((1.0 - ratio).abs()),
        "ratio_min": mask.min(ratio),
        "ratio_max": mask.max(ratio),
        "num_sgd_steps": var["num_sgd_steps"],
    }


def _version_stats(mb: AttrDict, policy_id: int, policy_version: int) -> dict[str, Scalar]:
    """Age of the policy's own samples in SGD steps: average, minimum, maximum."""
    own = mb.policy_id == policy_id
    age = policy_version - mb.policy_version  # [B] float
    infinity = age.new_full((), torch.inf)
    return {
        "version_diff_avg": torch.where(own, age, 0.0).sum() / own.sum(),
        "version_diff_min": torch.where(own, age, infinity).min(),
        "version_diff_max": torch.where(own, age, -infinity).max(),
    }


def read_stats(stats: Mapping[str, Scalar]) -> AttrDict:
    """The same names with plain numbers; Python ints stay ints."""
    numbers = read_scalars(list(stats.values()))
    return AttrDict(
        {
            name: value if isinstance(value, int) else number
            for (name, value), number in zip(stats.items(), numbers, strict=True)
        }
    )
