"""The processes of a run: one per device, each with its part of the environments.

Data parallelism over environments. Every rank has the same weights, its own levels, buffers and random numbers, and
the ranks average gradients before these are clipped. Decisions that lead to collective operations - to update, to
save, to stop - are the same on all ranks, or they would wait for each other for ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

Stats = dict[str, float | None]

_NCCL, _GLOO = "nccl", "gloo"


class Ranks:
    """This process among all. With one process nothing is sent."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank = rank
        self.size = size
        self._control: Any = None  # gloo group for what lives on the CPU

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def connect(self, init_file: str, device: torch.device) -> None:
        """Meet the other processes at a file all of them can reach."""
        if self.size == 1:
            return
        backend = _NCCL if device.type == "cuda" else _GLOO
        dist.init_process_group(backend, init_method=f"file://{init_file}", rank=self.rank, world_size=self.size)
        self._control = dist.group.WORLD if backend == _GLOO else dist.new_group(backend=_GLOO)

    def disconnect(self) -> None:
        if self._control is not None:
            dist.destroy_process_group()
            self._control = None

    def average(self, tensors: list[Tensor]) -> None:
        """Replace tensors by their means over all ranks, in place. Same shapes everywhere; the means are equal bit by
        bit on all ranks.
        """
        if self.size == 1 or not tensors:
            return
        # One message instead of one per tensor. Complex ones travel as pairs of real numbers.
        reals = [torch.view_as_real(t) if t.is_complex() else t for t in tensors]
        flat = torch.cat([t.reshape(-1) for t in reals])
        dist.all_reduce(flat)
        flat /= self.size
        for tensor, part in zip(reals, flat.split([t.numel() for t in reals]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def average_stats(self, stats: Mapping[str, float | None]) -> Stats:
        """Means over the ranks that have a value, whole numbers for counts; None where no rank has one."""
        if self.size == 1:
            return dict(stats)
        names = list(stats)
        table = torch.zeros(2, len(names), dtype=torch.float64)
        for i, name in enumerate(names):
            value = stats[name]
            if value is not None:
                table[:, i] = torch.tensor([value, 1.0], dtype=torch.float64)
        dist.all_reduce(table, group=self._control)
        sums, counts = table.tolist()
        means: Stats = {n: s / c if c else None for n, s, c in zip(names, sums, counts, strict=True)}
        return {n: round(m) if m is not None and isinstance(stats[n], int) else m for n, m in means.items()}

    def any(self, flag: bool) -> bool:
        """Whether it is true on some rank; the same answer everywhere."""
        return self._reduced(flag, largest=True)

    def all(self, flag: bool) -> bool:
        """Whether it is true on every rank; the same answer everywhere."""
        return self._reduced(flag, largest=False)

    def of_main(self, flag: bool) -> bool:
        """What it is on rank 0; the same answer everywhere."""
        return self._reduced(flag and self.is_main, largest=True)

    def gather(self, value: Any) -> list[Any] | None:
        """Values of all ranks in their order, on rank 0; None on the others."""
        if self.size == 1:
            return [value]
        values: list[Any] | None = [None] * self.size if self.is_main else None
        dist.gather_object(value, values, dst=0, group=self._control)
        return values

    def _reduced(self, flag: bool, *, largest: bool) -> bool:
        if self.size == 1:
            return flag
        number = torch.tensor([int(flag)])
        dist.all_reduce(number, op=dist.ReduceOp.MAX if largest else dist.ReduceOp.MIN, group=self._control)
        return bool(number.item())
