"""Products of one matrix with many small ones, as in a recurrence."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def _has_packed_products() -> bool:
    # Operators of torch's compiler; they are not documented.
    names = ("_reorder_linear_weight", "_linear_pointwise")
    return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in names)


def product_with(weight: Tensor, num_rows: int) -> Callable[[Tensor], Tensor]:
    """A function that gives ``x weight^T`` for contiguous ``x`` ``[num_rows, D]``; ``weight`` ``[G, D]`` is copied.

    On CPUs the weight is rearranged for oneDNN once, which makes small products about a fifth faster than MKL's, which
    does so each time.
    """
    weight = weight.detach()
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or not _has_packed_products():
        transposed = weight.t().contiguous()
        return lambda x: torch.mm(x, transposed)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), num_rows)
    multiply = torch.ops.mkldnn._linear_pointwise.default
    return lambda x: multiply(x, packed, None, "none", [], "")  # type: ignore[no-any-return]
