"""Products of matrices by either library, and with a rearranged matrix."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sample_factory.algo.utils import products


def matrices(*shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def expected_product(a: Tensor, b: Tensor) -> Tensor:
    return (a.double() @ b.double()).float()


@pytest.fixture(params=[True, False], ids=["one_dnn", "mkl"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if request.param and not products.has_one_dnn():
        pytest.skip("this build of torch has no such operators")
    monkeypatch.setattr(products, "prefers_one_dnn", lambda: request.param)
    return bool(request.param)


@pytest.mark.parametrize("size", [(1, 1, 1), (0, 5, 7), (300, 200, 150), (1024, 4, 64), (2000, 256, 256)])
def test_both_libraries_multiply(library: bool, size: tuple[int, int, int]) -> None:
    num_rows, num_inputs, num_outputs = size
    x, weight, bias = matrices((num_rows, num_inputs), (num_outputs, num_inputs), (num_outputs,))
    expected = expected_product(x, weight.t())
    assert torch.allclose(products.multiply(x, weight.t()), expected, atol=1e-3)
    assert torch.allclose(products.affine(x, weight, bias), expected + bias, atol=1e-3)


def test_factors_may_be_parts_of_others_or_transposed(library: bool) -> None:
    a, b = matrices((900, 700), (700, 500))
    assert torch.allclose(products.multiply(a[:, :256], b[:256]), expected_product(a[:, :256], b[:256]), atol=1e-3)
    assert torch.allclose(products.multiply(a[::2], b[:, 3:403]), expected_product(a[::2], b[:, 3:403]), atol=1e-3)
    transposed = a[:700].t()
    assert torch.allclose(products.multiply(transposed, b), expected_product(transposed, b), atol=1e-3)


def test_matrices_with_gaps_are_copied() -> None:
    """Else a product of some milliseconds takes seconds."""
    (whole,) = matrices((60, 50))
    for matrix in (whole[:, :20], whole[:, 3:20].t(), whole[::2, ::2], whole[:1].expand(60, 50)):
        copy = products._dense(matrix)
        assert torch.equal(copy, matrix) and copy.is_contiguous()
    for matrix in (whole, whole.t(), whole[10:20], whole[10:20].t()):
        assert products._dense(matrix) is matrix


def test_only_large_products_are_for_one_dnn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "prefers_one_dnn", lambda: pytest.fail("was asked"))
    a, b, narrow = matrices((1024, 64), (64, 64), (4096, 8))
    products.multiply(a, b)
    products.multiply(narrow, matrices((8, 4096))[0])
    with pytest.raises(pytest.fail.Exception):
        products.multiply(matrices((1024, 256))[0], matrices((256, 256))[0])


@pytest.mark.parametrize(
    "capability, vendor, has_operators, expected",
    [
        ("AVX512", "AuthenticAMD", True, True),
        ("AVX2", "AuthenticAMD", True, False),
        ("AVX512", "GenuineIntel", True, False),
        ("AVX512", "", True, False),
        ("AVX512", "AuthenticAMD", False, False),
    ],
)
def test_one_dnn_is_preferred_where_mkl_uses_half_the_registers(
    monkeypatch: pytest.MonkeyPatch, capability: str, vendor: str, has_operators: bool, expected: bool
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(products, "has_one_dnn", lambda: has_operators)
    monkeypatch.setattr(products, "_vendor", lambda: vendor)
    assert products.prefers_one_dnn.__wrapped__() is expected


@pytest.mark.parametrize("size", [(3, 5, 7), (900, 256, 64)])
def test_linear_layers_and_their_gradients(library: bool, size: tuple[int, int, int]) -> None:
    """The larger one is left to oneDNN where that is preferred."""
    num_rows, num_inputs, num_outputs = size
    values = matrices((2, num_rows, num_inputs), (num_outputs, num_inputs), (num_outputs,))
    (direction,) = matrices((2, num_rows, num_outputs))

    def results(function: Callable[..., Tensor]) -> list[Tensor]:
        tensors = [value.clone().requires_grad_() for value in values]
        output = function(*tensors)
        return [output.detach(), *torch.autograd.grad(output, tensors, direction)]

    for actual, expected in zip(results(products.linear), results(F.linear), strict=True):
        torch.testing.assert_close(actual, expected, atol=2e-3, rtol=1e-4)


def test_rounded_products_have_the_precision_of_bfloat16(library: bool) -> None:
    x, weight, bias = matrices((300, 200), (150, 200), (150,))
    exact = expected_product(x, weight.t()) + bias
    rounded = products.affine(x, weight, bias, rounded=True)
    assert 1e-3 < (rounded - exact).abs().max() < 1.0


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("has_operators", [True, False])
@pytest.mark.parametrize("rows, inputs, outputs", [(1, 3, 5), (32, 32, 64), (7, 40, 9)])
def test_products_with_one_matrix(
    monkeypatch: pytest.MonkeyPatch, with_bias: bool, has_operators: bool, rows: int, inputs: int, outputs: int
) -> None:
    if not has_operators:
        monkeypatch.setattr(products, "has_one_dnn", lambda: False)
    weight, x, other, bias = matrices((outputs, inputs), (rows, inputs), (rows + 9, inputs), (outputs,))
    added = bias if with_bias else torch.zeros(outputs)
    expected, for_other = (expected_product(factor, weight.t()) + added for factor in (x, other))
    multiply = products.product_with(weight, rows, bias if with_bias else None)
    assert torch.allclose(multiply(x), expected, atol=1e-5)
    assert torch.allclose(multiply(other), for_other, atol=1e-5)  # another number of rows than announced
    transposed = products.product_with(weight.t().contiguous().t(), rows, bias if with_bias else None)
    weight.zero_()  # it has been copied
    assert torch.allclose(multiply(x), expected, atol=1e-5)
    assert torch.allclose(transposed(x), expected, atol=1e-5)
