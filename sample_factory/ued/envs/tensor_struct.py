"""Batches of things made of tensors: levels, environment states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import Field, fields
from typing import Any, ClassVar, Self

import torch
from torch import Tensor


class TensorStruct:
    """Base of frozen dataclasses whose fields are tensors with the same leading batch axis.

    The tensors themselves may be written to: ``struct[idx]`` with a slice gives views, ``struct.put(idx, other)``
    writes rows in place.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def as_dict(self) -> dict[str, Tensor]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_dict(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Inverse of :meth:`as_dict`; this is how levels are stored in checkpoints."""
        return cls(**tensors)

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def __getitem__(self, idx: Any) -> Self:
        return type(self)(**{k: v[idx] for k, v in self.as_dict().items()})

    def put(self, idx: Any, rows: Self) -> None:
        """Overwrite the rows ``idx`` in place."""
        for name, tensor in self.as_dict().items():
            tensor[idx] = getattr(rows, name)

    def repeat_interleave(self, copies: int) -> Self:
        """Rows ``0 0 .. 1 1 ..``: the copies of one level lie side by side."""
        return type(self)(**{k: v.repeat_interleave(copies, dim=0) for k, v in self.as_dict().items()})

    def clone(self) -> Self:
        return type(self)(**{k: v.clone() for k, v in self.as_dict().items()})

    def to(self, device: torch.device | str) -> Self:
        return type(self)(**{k: v.to(device) for k, v in self.as_dict().items()})

    @classmethod
    def cat(cls, parts: Sequence[Self]) -> Self:
        return cls(**{f.name: torch.cat([getattr(p, f.name) for p in parts]) for f in fields(cls)})  # type: ignore[arg-type]

    def empty(self, size: int) -> Self:
        """Zeroed storage for ``size`` rows of the same kind."""
        return type(self)(**{k: v.new_zeros([size, *v.shape[1:]]) for k, v in self.as_dict().items()})
