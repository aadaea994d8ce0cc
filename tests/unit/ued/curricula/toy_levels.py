"""The smallest levels there can be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sample_factory.ued.envs.tensor_struct import TensorStruct


@dataclass(frozen=True)
class ToyLevels(TensorStruct):
    name: Tensor  # [B] int64


def toy_levels(names: Sequence[int]) -> ToyLevels:
    return ToyLevels(torch.tensor(names, dtype=torch.int64))


def same_name(levels: ToyLevels, others: ToyLevels) -> Tensor:
    return levels.name[:, None] == others.name[None, :]
