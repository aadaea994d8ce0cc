"""Levels whose meaning is known to somebody else."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sample_factory.ued.envs.tensor_struct import TensorStruct


@dataclass(frozen=True)
class StoredBytes(TensorStruct):
    """One level per row."""

    data: Tensor  # [B, n] uint8
