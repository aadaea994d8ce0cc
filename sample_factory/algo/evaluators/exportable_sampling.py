"""Sampling of actions inside an exported graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def exportable_sample(distribution: Any) -> Tensor:
    """Random actions [b, num_actions] by operations that exist in ONNX, which the sampling in training does not use."""
    if hasattr(distribution, "distributions"):
        return torch.cat([exportable_sample(part) for part in distribution.distributions], dim=1)
    if hasattr(distribution, "means"):
        return distribution.means + distribution.stddevs * torch.randn_like(distribution.means)
    gumbel_noise = -torch.log(-torch.log(torch.rand_like(distribution.log_probs).clamp(1e-20, 1.0 - 1e-7)))
    return (distribution.log_probs + gumbel_noise).argmax(dim=-1, keepdim=True)
