"""Copying rows of trajectory memory, which is stored step after step, into training batches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from sample_factory.algo.learning.batcher import copy_rows, copyable
from sample_factory.algo.utils.env_info import EnvInfo
from sample_factory.algo.utils.shared_buffers import alloc_trajectory_tensors

OBS_SPACES = {
    "pair": spaces.Box(-1, 1, (2,)),
    "four": spaces.Box(-1, 1, (4,)),
    "five": spaces.Box(-1, 1, (5,)),
    "bytes": spaces.Box(0, 255, (2,), "uint8"),
    "image": spaces.Box(0, 255, (3, 2, 2), "uint8"),
    "double": spaces.Box(-1, 1, (2,), "float64"),
    "id": spaces.Discrete(5),
}


def tensors(num_rows: int, time_major: bool) -> dict[str, Any]:
    actions = spaces.Tuple([spaces.Discrete(3), spaces.Box(-1, 1, (2,))])
    env_info = EnvInfo(spaces.Dict(OBS_SPACES), actions, 1, False, False, None, None, 1)
    return alloc_trajectory_tensors(env_info, num_rows, 8, 4, "cpu", share=False, time_major=time_major)


def leaves(d: dict[str, Any]) -> list[torch.Tensor]:
    return [leaf for value in d.values() for leaf in (leaves(value) if isinstance(value, dict) else [value])]


@pytest.mark.parametrize("rows", [slice(4, 9), np.array([11, 3, 4, 0, 7])], ids=["slice", "indices"])
def test_arrays_are_copied_like_tensors(rows: Any) -> None:
    source, by_array, by_tensor = tensors(12, True), tensors(7, False), tensors(7, False)
    generator = torch.Generator().manual_seed(0)
    for tensor in leaves(source):
        bits = torch.randint(0, 2 if tensor.dtype == torch.bool else 100, tensor.shape, generator=generator)
        tensor.copy_(bits)
    source["values"][5, 2], source["obs"]["four"][4, 1, 3] = torch.nan, -torch.inf
    copy_rows(copyable(source), rows, copyable(by_array), slice(1, 6))
    copy_rows(source, rows, by_tensor, slice(1, 6))
    for got, expected, stored in zip(leaves(by_array), leaves(by_tensor), leaves(source), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(got[1:6], stored[rows], rtol=0, atol=0, equal_nan=True)


def test_vectors_with_the_size_of_a_number_become_one_item() -> None:
    shapes = {key: array.shape for key, array in copyable(tensors(12, True))["obs"].items()}
    assert shapes["pair"] == shapes["four"] == shapes["bytes"] == shapes["double"] == shapes["id"] == (12, 9)
    assert shapes["five"] == (12, 9, 5) and shapes["image"] == (12, 9, 3, 2, 2)


def test_steps_of_a_row_do_not_lie_a_power_of_two_apart() -> None:
    """They would compete for the same lines of the cache."""
    for tensor in leaves(tensors(1024, True)):
        stride = tensor.stride(1) * tensor.element_size()
        assert stride % 4096 != 0 or tensor.element_size() * tensor[0, 0].numel() >= 64
