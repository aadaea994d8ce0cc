"""Products of one matrix with many small ones, as in a recurrence."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def _has_packed_products() -> bool:
    # Operators of torch's compiler; they are not documented.
    names = ("_reorder_linear_weight", "_linear_pointwise")
    return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in names)


class _Threads:
    """Of this process."""

    def __init__(self) -> None:
        self.of_products = 1


_threads = _Threads()


def set_product_threads(number: int) -> None:
    """Let packed products have ``number`` threads where other operations have one, which are too small for more.

    Their results stay the same to the last bit: threads divide rows and columns of the result, not sums. 1: as many as
    other operations have.
    """
    _threads.of_products = number


def product_with(weight: Tensor, num_rows: int) -> Callable[[Tensor], Tensor]:
    """A function that gives ``x weight^T`` for contiguous ``x`` ``[num_rows, D]``; ``weight`` ``[G, D]`` is copied.

    On CPUs the weight is rearranged for oneDNN once, which makes small products about a fifth faster than MKL's, which
    does so each time. Such products have the threads of :func:`set_product_threads`.
    """
    weight = weight.detach()
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or not _has_packed_products():
        transposed = weight.t().contiguous()
        return lambda x: torch.mm(x, transposed)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), num_rows)
    linear = torch.ops.mkldnn._linear_pointwise.default

    def multiply(x: Tensor) -> Tensor:
        if _threads.of_products == 1:
            return linear(x, packed, None, "none", [], "")  # type: ignore[no-any-return]
        torch.set_num_threads(_threads.of_products)
        try:
            return linear(x, packed, None, "none", [], "")  # type: ignore[no-any-return]
        finally:
            torch.set_num_threads(1)

    return multiply
