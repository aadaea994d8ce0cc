"""Products of float32 matrices on the CPU.

Torch multiplies by MKL, which uses half the width of the vector registers of processors that Intel did not make. There
oneDNN, which torch has for convolutions, needs less than half the time for all but small products.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

MIN_FLOPS = 1.2e7
"""Of a product by oneDNN: starting one costs ten microseconds more than by MKL, and transposed factors are copied."""
MIN_SIZE = 16
"""Of a matrix: oneDNN is no faster where one is narrower than a vector register."""


def has_one_dnn() -> bool:
    """Whether torch has the operators its compiler uses for linear layers; they are not documented."""
    names = ("_reorder_linear_weight", "_linear_pointwise")
    return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in names)


@cache
def prefers_one_dnn() -> bool:
    """Whether large products are left to oneDNN in this process: on processors with AVX-512 that are not Intel's."""
    is_wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return is_wide and torch.backends.mkl.is_available() and has_one_dnn() and _vendor() not in ("", "GenuineIntel")


def _vendor() -> str:
    """Of the processor, as it calls itself; empty where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")), "")


def _is_for_one_dnn(factor: Tensor, num_outputs: int) -> bool:
    num_rows, num_inputs = factor.shape
    if min(num_rows, num_inputs, num_outputs) < MIN_SIZE or 2.0 * num_rows * num_inputs * num_outputs < MIN_FLOPS:
        return False
    return factor.dtype == torch.float32 and factor.device.type == "cpu" and prefers_one_dnn()


def _dense(weight: Tensor) -> Tensor:
    """The same matrix without gaps in memory: for others oneDNN has its reference only, a thousand times slower."""
    return weight if weight.is_contiguous() or weight.t().is_contiguous() else weight.contiguous()


def _by_one_dnn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    weight = _dense(weight)
    return torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], "")  # type: ignore[no-any-return]


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """``a b`` for ``a`` ``[m, k]`` and ``b`` ``[k, n]``; not differentiable."""
    return _by_one_dnn(a, b.t(), None) if _is_for_one_dnn(a, b.shape[1]) else torch.mm(a, b)


def product(a: Tensor, b: Tensor, rounded: bool) -> Tensor:
    """:func:`multiply`; ``rounded``: factors and result have the precision of bfloat16."""
    return torch.mm(a.bfloat16(), b.bfloat16()).float() if rounded else multiply(a, b)


def affine(x: Tensor, weight: Tensor, bias: Tensor, rounded: bool = False) -> Tensor:
    """``x weight^T + bias``, see :func:`product`."""
    if rounded:
        return product(x, weight.t(), True).add_(bias)
    if _is_for_one_dnn(x, len(weight)):
        return _by_one_dnn(x, weight, bias)
    return torch.addmm(bias, x, weight.t())


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return affine(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        grad_x = multiply(grad, weight) if ctx.needs_input_grad[0] else None
        return grad_x, multiply(grad.t(), x), grad.sum(0)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``F.linear`` for ``x`` ``[..., D]``; where that is left to oneDNN, it can be differentiated once."""
    rows = x.flatten(0, -2)
    if not _is_for_one_dnn(rows, len(weight)):
        return F.linear(x, weight, bias)
    return _Linear.apply(rows, weight, bias).unflatten(0, x.shape[:-1])  # type: ignore[no-any-return]


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


def product_with(weight: Tensor, num_rows: int, bias: Tensor | None = None) -> Callable[[Tensor], Tensor]:
    """A function that gives ``x weight^T``, plus ``bias`` ``[G]``, for contiguous ``x`` ``[n, D]``.

    On CPUs the weight is rearranged for oneDNN once, which makes small products faster on all of them than MKL's, which
    does so each time. Such products have the threads of :func:`set_product_threads`.

    :param weight: ``[G, D]``, is copied
    :param num_rows: most frequent n
    """
    weight = weight.detach()
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or not has_one_dnn():
        transposed = weight.t().contiguous()
        return lambda x: torch.mm(x, transposed) if bias is None else torch.addmm(bias, x, transposed)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), num_rows)
    linear = torch.ops.mkldnn._linear_pointwise.default

    def multiply(x: Tensor) -> Tensor:
        if _threads.of_products == 1:
            return linear(x, packed, bias, "none", [], "")  # type: ignore[no-any-return]
        torch.set_num_threads(_threads.of_products)
        try:
            return linear(x, packed, bias, "none", [], "")  # type: ignore[no-any-return]
        finally:
            torch.set_num_threads(1)

    return multiply
