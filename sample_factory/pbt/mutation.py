"""Random changes of tuned values: hyperparameters and reward shaping of one policy.

Everything here is a pure function of its arguments and of the generator it is given, so a seeded
generator makes a population reproducible. Inputs are never modified.
"""

from __future__ import annotations

import copy
import numbers
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from sample_factory.utils.typing import Config
from sample_factory.utils.utils import log

# Chance that a value that was about to be mutated returns to its default instead, so that no value is lost for ever.
RESET_TO_DEFAULT_PROBABILITY = 0.01

# Shared by callers that bring no generator; independent of the global `random` and `numpy.random` streams.
_unseeded_rng = np.random.default_rng()


@dataclass(frozen=True)
class MutationSettings:
    """How often values change and by which factor: probability per value and range of the factor (at least 1)."""

    mutation_rate: float
    perturb_min: float
    perturb_max: float

    @classmethod
    def from_cfg(cls, cfg: Config) -> MutationSettings:
        return cls(cfg.pbt_mutation_rate, cfg.pbt_perturb_min, cfg.pbt_perturb_max)


def perturb_float(x: float, perturb_amount: float = 1.2, rng: np.random.Generator | None = None) -> float:
    """`x` divided or multiplied by `perturb_amount`, each with probability 1/2."""
    rng = rng or _unseeded_rng
    return x / perturb_amount if rng.random() < 0.5 else x * perturb_amount


def perturb_vtrace(x: float, cfg: Config, rng: np.random.Generator | None = None) -> float:
    """V-trace clipping thresholds are sensitive: they move by half a percent."""
    return perturb_float(x, perturb_amount=1.005, rng=rng)


def perturb_exponential_decay(
    x: float,
    cfg: Config,
    perturb_amount_min: float = 1.01,
    perturb_amount_max: float = 1.2,
    rng: np.random.Generator | None = None,
) -> float:
    """Values close to one (discount, Adam betas): the distance to one, i.e. the inverse horizon, is what changes."""
    rng = rng or _unseeded_rng
    factor = rng.uniform(perturb_amount_min, perturb_amount_max)
    return max(1e-8, 1.0 - perturb_float(1.0 - x, factor, rng))


def perturb_batch_size(x: int, cfg: Config, rng: np.random.Generator | None = None) -> int:
    """A multiple of `rollout`, at least one rollout and at most 1.5 times the configured batch size."""
    capped = min(perturb_float(x, perturb_amount=1.2, rng=rng), 1.5 * cfg.batch_size)
    return max(cfg.rollout, int(capped) // cfg.rollout * cfg.rollout)


SPECIAL_PERTURBATION: dict[str, Callable[..., Any]] = {
    "gamma": perturb_exponential_decay,
    "adam_beta1": perturb_exponential_decay,
    "vtrace_rho": perturb_vtrace,
    "vtrace_c": perturb_vtrace,
    "batch_size": perturb_batch_size,
}


def mutate_value(
    name: str, value: Any, default: Any, settings: MutationSettings, cfg: Config, rng: np.random.Generator
) -> Any:
    """Maybe change one value; sequences change element by element and become tuples.

    Raises:
        RuntimeError: the value is neither a number, nor a bool, nor a sequence of these.
    """
    if isinstance(value, (tuple, list)):
        defaults = _aligned_defaults(value, default)
        return tuple(mutate_value(name, v, d, settings, cfg, rng) for v, d in zip(value, defaults, strict=True))

    if rng.random() >= settings.mutation_rate:
        return value

    if value != default and rng.random() < RESET_TO_DEFAULT_PROBABILITY:
        new_value = default
    elif name in SPECIAL_PERTURBATION:
        new_value = SPECIAL_PERTURBATION[name](value, cfg, rng=rng)
    elif isinstance(value, (bool, np.bool_)):
        new_value = not value
    elif _is_number(value):
        new_value = float(perturb_float(value, rng.uniform(settings.perturb_min, settings.perturb_max), rng))
    else:
        raise RuntimeError(f"Cannot perturb {name}={value!r}: only numbers, bools and sequences of them can be tuned")

    log.debug("Param %s changed from %.6f to %.6f", name, value, new_value)
    return new_value


def mutate_hyperparams(
    params: dict[str, Any],
    defaults: dict[str, Any],
    tuned: Collection[str],
    settings: MutationSettings,
    cfg: Config,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """A copy of `params` in which the `tuned` entries may have changed."""
    mutated = copy.deepcopy(params)
    # Sorted: the order of a set of strings differs between processes, a seeded population must not.
    for name in sorted(set(tuned) & params.keys()):
        mutated[name] = mutate_value(name, params[name], defaults.get(name, params[name]), settings, cfg, rng)
    return mutated


def mutate_reward_shaping(
    scheme: dict[str, Any] | None,
    defaults: dict[str, Any] | None,
    categories: Collection[str] | None,
    settings: MutationSettings,
    cfg: Config,
    rng: np.random.Generator,
) -> dict[str, Any] | None:
    """A copy of a (nested) shaping scheme in which numeric leaves may have changed.

    Args:
        categories: names of the only entries (with everything below them) that may change; None means all.
    """
    if scheme is None:
        return None
    defaults = defaults if isinstance(defaults, dict) else {}
    mutated: dict[str, Any] = {}
    for name, value in scheme.items():
        is_tuned = categories is None or name in categories
        default = defaults.get(name, value)
        if isinstance(value, dict):
            below = None if is_tuned else categories
            mutated[name] = mutate_reward_shaping(value, default, below, settings, cfg, rng)
        elif is_tuned and _is_tunable_leaf(value):
            mutated[name] = mutate_value(name, value, default, settings, cfg, rng)
        else:
            mutated[name] = copy.deepcopy(value)
    return mutated


def _aligned_defaults(value: tuple[Any, ...] | list[Any], default: Any) -> tuple[Any, ...] | list[Any]:
    """The default for every element; the values themselves where the default has another form."""
    if isinstance(default, (tuple, list)) and len(default) == len(value):
        return default
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real)


def _is_tunable_leaf(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(_is_tunable_leaf(v) for v in value)
    return _is_number(value) or isinstance(value, np.bool_)
