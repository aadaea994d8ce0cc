"""Products with a rearranged matrix, with and without the operators that rearrange it."""

from __future__ import annotations

import pytest
import torch

from sample_factory.ued.models import packed


@pytest.mark.parametrize("has_operators", [True, False])
@pytest.mark.parametrize("rows, inputs, outputs", [(1, 3, 5), (32, 32, 64), (7, 40, 9)])
def test_products(monkeypatch, has_operators, rows, inputs, outputs):
    if not has_operators:
        monkeypatch.setattr(packed, "_has_packed_products", lambda: False)
    generator = torch.Generator().manual_seed(0)
    weight, x = (torch.randn(shape, generator=generator) for shape in ([outputs, inputs], [rows, inputs]))
    expected = (x.double() @ weight.double().t()).float()
    multiply = packed.product_with(weight, rows)
    assert torch.allclose(multiply(x), expected, atol=1e-5)
    transposed = packed.product_with(weight.t().contiguous().t(), rows)
    weight.zero_()  # it has been copied
    assert torch.allclose(multiply(x), expected, atol=1e-5)
    assert torch.allclose(transposed(x), expected, atol=1e-5)
