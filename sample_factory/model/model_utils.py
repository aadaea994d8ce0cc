"""Building blocks shared by encoders, cores and decoders."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from sample_factory.cfg.configurable import Configurable
from sample_factory.utils.typing import Config


def get_rnn_size(cfg: Config) -> int:
    """Numbers one agent's recurrent state takes: all layers, both LSTM states, both networks if weights are separate.

    Without a recurrent core the state is a dummy of size 1. It doubles like a real one, because the shapes of stored
    data depend on it.
    """
    size = cfg.rnn_size * cfg.rnn_num_layers if cfg.use_rnn else 1
    if cfg.rnn_type == "lstm":
        size *= 2
    if not cfg.actor_critic_share_weights:
        size *= 2
    return size


def nonlinearity(cfg: Config, inplace: bool = False) -> nn.Module:
    """The activation module named by ``cfg.nonlinearity``."""
    if cfg.nonlinearity == "elu":
        return nn.ELU(inplace=inplace)
    if cfg.nonlinearity == "relu":
        return nn.ReLU(inplace=inplace)
    if cfg.nonlinearity == "tanh":
        return nn.Tanh()
    raise ValueError(f"Unknown nonlinearity={cfg.nonlinearity!r}: use elu, relu or tanh")


def fc_layer(in_features: int, out_features: int, bias: bool = True, spec_norm: bool = False) -> nn.Module:
    """Linear layer, with spectral normalisation of its weight if asked for."""
    layer = nn.Linear(in_features, out_features, bias)
    return nn.utils.spectral_norm(layer) if spec_norm else layer


def create_mlp(layer_sizes: Sequence[int], input_size: int, activation: nn.Module) -> nn.Module:
    """Linear layers, each followed by the (shared) activation; the identity if there are none."""
    layers: list[nn.Module] = []
    for size in layer_sizes:
        layers += [fc_layer(input_size, size), activation]
        input_size = size
    return nn.Sequential(*layers) if layers else nn.Identity()


def keep_default_weights(stack: nn.Module) -> nn.Module:
    """Mark the layers of a built-in stack: the model keeps PyTorch's weights here and only clears the biases.

    This is how Sample Factory 2 effectively initialised its MLP and convolutional stacks whatever
    ``policy_initialization`` said, and published results depend on it. ``weight_init_scope=all`` ignores the mark.
    """
    for module in stack.modules():
        module.keeps_default_weights = True  # type: ignore[assignment]
    return stack


class ModelModule(nn.Module, Configurable):
    """A part of the model that knows the size of its output."""

    def __init__(self, cfg: Config):
        nn.Module.__init__(self)
        Configurable.__init__(self, cfg)

    def get_out_size(self) -> int:
        """Number of features in the output."""
        raise NotImplementedError(f"{type(self).__name__} must implement get_out_size()")


def model_device(model: nn.Module) -> torch.device | None:
    """Device of the first parameter; ``None`` if there are no parameters."""
    first = _first_parameter(model)
    return None if first is None else first.device


def _first_parameter(module: nn.Module) -> nn.Parameter | None:
    # What next(module.parameters()) finds, without its generators: this is asked for every observation.
    for parameter in module._parameters.values():
        if parameter is not None:
            return parameter
    for child in module._modules.values():
        first = None if child is None else _first_parameter(child)
        if first is not None:
            return first
    return None
