"""What can be chosen about a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from sample_factory.ued.models.init import ACTIVATION_GAINS

RECURRENT_ARCHS = ("gru", "lstm", "s5")
BASE_ACTIVATIONS = ("relu", "gelu", "crelu", "leaky_relu")
S5_ACTIVATIONS = ("half_glu1", "half_glu2", "full_glu", "gelu")
S5_LAYERNORM_POSITIONS = ("pre", "post")


@dataclass(frozen=True)
class ModelOptions:
    """Options of the convolutional actor-critic; named like the flags without their prefix.

    ``n_scalar_embeddings``: rows of every embedding table; ``None`` = as many as the scalar has values; 0 = a dense
    layer on the scaled scalar instead, or nothing if ``scalar_embed_dim`` is 0, too.
    ``constant_policy_init``: all weights of the last policy layer are 0.01, so that the first policy is exactly
    uniform, but all hidden units get the same gradient from every action. Otherwise they are orthogonal with gain 0.01.
    """

    recurrent_arch: str | None = None
    recurrent_hidden_dim: int = 0
    hidden_dim: int = 32
    n_hidden_layers: int = 1
    n_conv_filters: int = 16
    n_scalar_embeddings: int | None = 4
    scalar_embed_dim: int = 5
    base_activation: str = "relu"
    value_ensemble_size: int = 1
    s5_n_blocks: int = 1
    s5_n_layers: int = 4
    s5_layernorm_pos: str | None = None
    s5_activation: str = "half_glu1"
    constant_policy_init: bool = False

    @classmethod
    def from_mapping(cls, options: Mapping[str, Any]) -> Self:
        """Options by name; those that are missing or ``None`` keep their default.

        :raises ValueError: for names that do not exist
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(options) - known)
        if unknown:
            raise ValueError(f"unknown model options {', '.join(unknown)}; there are {', '.join(sorted(known))}")
        return cls(**{name: value for name, value in options.items() if value is not None})

    def __post_init__(self) -> None:
        _check_choice("recurrent_arch", self.recurrent_arch, (None, *RECURRENT_ARCHS))
        _check_choice("base_activation", self.base_activation, BASE_ACTIVATIONS)
        _check_choice("s5_activation", self.s5_activation, S5_ACTIVATIONS)
        _check_choice("s5_layernorm_pos", self.s5_layernorm_pos, (None, *S5_LAYERNORM_POSITIONS))
        for name in ("hidden_dim", "n_conv_filters", "value_ensemble_size", "s5_n_blocks", "s5_n_layers"):
            _check_at_least(name, getattr(self, name), 1)
        for name in ("n_hidden_layers", "scalar_embed_dim", "n_scalar_embeddings", "recurrent_hidden_dim"):
            _check_at_least(name, getattr(self, name), 0)
        if self.n_scalar_embeddings and not self.scalar_embed_dim:
            raise ValueError(
                f"n_scalar_embeddings={self.n_scalar_embeddings} needs scalar_embed_dim > 0; set both to 0 for a "
                "network that does not see scalars"
            )
        if self.recurrent_arch is not None and self.recurrent_hidden_dim < 1:
            raise ValueError(
                f"recurrent_arch={self.recurrent_arch} needs recurrent_hidden_dim > 0, got {self.recurrent_hidden_dim}"
            )
        if self.recurrent_arch == "s5" and self.recurrent_hidden_dim % (2 * self.s5_n_blocks):
            raise ValueError(
                f"recurrent_hidden_dim={self.recurrent_hidden_dim} must be a multiple of 2 * s5_n_blocks = "
                f"{2 * self.s5_n_blocks}: every block of the state matrix consists of conjugate pairs"
            )

    @property
    def activation_gain(self) -> float:
        return ACTIVATION_GAINS[self.base_activation]


def _check_choice(name: str, value: str | None, choices: tuple[str | None, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}={value!r} is not one of {', '.join(str(choice) for choice in choices)}")


def _check_at_least(name: str, value: int | None, minimum: int) -> None:
    if value is not None and value < minimum:
        raise ValueError(f"{name}={value} must be at least {minimum}")
