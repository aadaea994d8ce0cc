"""Which models a CUDA graph can stand for: a question of ``--cuda_graphs``."""

from __future__ import annotations

import torch
from torch import nn

from sample_factory.cfg.shadowing import flag_value
from sample_factory.model.dense_stack import has_hooks
from sample_factory.utils.typing import Config

AUTO, ALWAYS, NEVER = "auto", "always", "never"
_OWN_PACKAGES = ("torch.nn.", "sample_factory.")


def cuda_graphs_mode(cfg: Config) -> str:
    """``--cuda_graphs``; configurations of Sample Factory 2 do not have the flag."""
    return str(flag_value(cfg, "cuda_graphs"))


def may_capture(cfg: Config, model: nn.Module, device: torch.device) -> bool:
    """Whether the model computes the same operations every time, as far as anybody knows.

    ``auto``: it is made of parts of this package and of PyTorch, and nobody is told about their calls. ``always``: the
    user says so.
    """
    mode = cuda_graphs_mode(cfg)
    if device.type != "cuda" or mode == NEVER:
        return False
    return mode == ALWAYS or is_made_here(model)


def is_made_here(model: nn.Module) -> bool:
    """Whether all parts are of this package or of PyTorch, and nobody is told about their calls."""
    return all(_is_own(module) for module in model.modules())


def _is_own(module: nn.Module) -> bool:
    return type(module).__module__.startswith(_OWN_PACKAGES) and not has_hooks(module)
