"""Weight initialisers for custom models: they act on one linear or convolutional layer and leave others alone."""

from __future__ import annotations

from torch import nn


def orthogonal_init(module: nn.Module, gain: float = 1.0) -> nn.Module:
    """Orthogonal weights (Saxe et al. 2014) times ``gain``, zero bias. Returns the module."""
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        nn.init.orthogonal_(module.weight, gain)
        _clear_bias(module)
    return module


def he_normal_init(module: nn.Module) -> nn.Module:
    """Normal weights for rectifiers (He et al. 2015), zero bias. Returns the module."""
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        _clear_bias(module)
    return module


def _clear_bias(module: nn.Linear | nn.Conv2d) -> None:
    if module.bias is not None:
        nn.init.zeros_(module.bias)
