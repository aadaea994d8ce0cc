"""Helpers that take torch tensors and NumPy arrays alike, and the torch helpers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sample_factory.algo.utils.tensor_utils import (
    cat_tensors,
    clone_tensor,
    dict_of_lists_cat,
    ensure_numpy_array,
    ensure_torch_tensor,
    unsqueeze_tensor,
)
from sample_factory.algo.utils.torch_utils import (
    calc_num_elements,
    inference_context,
    init_torch_runtime,
    masked_select,
    to_scalar,
    to_torch_dtype,
)
from sample_factory.utils.attr_dict import AttrDict


@pytest.mark.parametrize("kind", [Tensor, np.ndarray])
def test_both_kinds(kind: type) -> None:
    x: Any = torch.ones(2, 3) if kind is Tensor else np.ones((2, 3))
    copy = clone_tensor(x)
    assert isinstance(copy, kind)
    copy[0, 0] = 5.0
    assert x[0, 0] == 1.0
    assert unsqueeze_tensor(x, 1).shape == (2, 1, 3) and unsqueeze_tensor(x, -1).shape == (2, 3, 1)
    joined = cat_tensors([x, x])
    assert isinstance(joined, kind) and joined.shape == (4, 3)
    assert isinstance(ensure_torch_tensor(x), Tensor) and isinstance(ensure_numpy_array(x), np.ndarray)


def test_conversions_share_memory() -> None:
    array = np.zeros(2)
    ensure_torch_tensor(array)[0] = 1.0
    assert array[0] == 1.0
    tensor = torch.zeros(2, requires_grad=True)
    assert ensure_torch_tensor(tensor) is tensor
    assert ensure_numpy_array(tensor).tolist() == [0.0, 0.0]


def test_dict_of_lists_cat_works_in_place() -> None:
    d = {"a": [torch.ones(2), torch.zeros(1)], "b": {"c": [np.ones(1), np.ones(2)]}}
    dict_of_lists_cat(d)
    assert d["a"].tolist() == [1.0, 1.0, 0.0] and d["b"]["c"].shape == (3,)  # type: ignore[attr-defined,call-overload]


@pytest.mark.parametrize(
    ("numpy_dtype", "expected"),
    [
        (np.dtype("uint8"), torch.uint8),
        (np.float32, torch.float32),
        (np.float64, torch.float64),
        (np.bool_, torch.bool),
        ("int32", torch.int32),
        (np.int64, torch.int64),
        (np.float16, torch.float16),
    ],
    ids=str,
)
def test_to_torch_dtype(numpy_dtype: Any, expected: torch.dtype) -> None:
    assert to_torch_dtype(numpy_dtype) is expected


def test_to_torch_dtype_refuses_text() -> None:
    with pytest.raises(TypeError):
        to_torch_dtype(np.dtype("U5"))


def test_calc_num_elements_leaves_the_random_stream_alone() -> None:
    torch.manual_seed(1)
    module = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.Flatten())
    state = torch.get_rng_state()
    assert calc_num_elements(module, (3, 9, 9)) == 4 * 4 * 4
    assert torch.equal(torch.get_rng_state(), state)
    assert calc_num_elements(nn.Flatten(), (3, 5)) == 15


def test_to_scalar() -> None:
    assert to_scalar(torch.tensor([1.5])) == 1.5 and type(to_scalar(torch.tensor(2))) is int
    assert to_scalar(3) == 3 and to_scalar(np.float32(0.5)) == 0.5


def test_masked_select() -> None:
    x, mask = torch.arange(4.0), torch.tensor([True, False, True, True])
    assert masked_select(x, mask, 1).tolist() == [0.0, 2.0, 3.0]
    assert masked_select(x, mask, 0) is x


def test_inference_context() -> None:
    with inference_context(is_serial=True):
        assert not torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    with inference_context(is_serial=False):
        assert torch.is_inference_mode_enabled()


def test_init_torch_runtime_sets_threads() -> None:
    num_threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        init_torch_runtime(AttrDict(device="cpu"), max_num_threads=None)
        assert torch.get_num_threads() == 2
        init_torch_runtime(AttrDict(device="cpu"))
        assert torch.get_num_threads() == 1
        assert not torch.backends.cudnn.benchmark
        assert torch.multiprocessing.get_sharing_strategy() == "file_system"
    finally:
        torch.set_num_threads(num_threads)
