"""Reading and writing dicts of tensors by index."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sample_factory.algo.utils.misc import MAGIC_FLOAT, MAGIC_INT
from sample_factory.algo.utils.tensor_dict import (
    TensorDict,
    cat_tensordicts,
    clone_tensordict,
    find_invalid_data,
    shallow_recursive_copy,
    tensor_dict_to_numpy,
    to_numpy,
)


def _buffers(as_numpy: bool) -> TensorDict:
    d = TensorDict(
        actions=torch.zeros(4, 3, 2),
        obs=TensorDict(image=torch.zeros(4, 3, 5, dtype=torch.uint8), speed=torch.zeros(4, 3)),
    )
    return tensor_dict_to_numpy(d) if as_numpy else d


def _as(x: Any, as_numpy: bool) -> Tensor | np.ndarray:
    tensor = torch.as_tensor(x)
    return tensor.numpy() if as_numpy else tensor


def test_string_keys_are_a_plain_dict() -> None:
    d = TensorDict(a=torch.ones(2))
    d["b"] = torch.zeros(2)
    assert list(d) == ["a", "b"] and isinstance(d, dict)
    assert pickle.loads(pickle.dumps(d)).keys() == d.keys()


def test_reading_indexes_every_leaf() -> None:
    d = TensorDict(a=torch.arange(6).view(3, 2), b={"c": torch.arange(3)})
    row = d[1]
    assert isinstance(row, TensorDict) and isinstance(row["b"], TensorDict)
    assert row["a"].tolist() == [2, 3] and row["b"]["c"].item() == 1
    row["a"].fill_(7)
    assert d["a"][1].tolist() == [7, 7], "int and slice indices give views"
    assert d[1:]["a"].shape == (2, 2) and d[[0, 2]]["b"]["c"].tolist() == [0, 2]


@pytest.mark.parametrize("to_numpy_destination", [False, True])
@pytest.mark.parametrize("from_numpy_source", [False, True])
@pytest.mark.parametrize(
    "index",
    [2, (1, 2), slice(1, 3), (slice(None), 0), [0, 3], ([0, 3, 1], [2, 0, 1]), torch.tensor([3, 1]), np.array([0, 2])],
    ids=str,
)
def test_q31_writing_reaches_the_storage(to_numpy_destination: bool, from_numpy_source: bool, index: Any) -> None:
    if to_numpy_destination and isinstance(index, Tensor):
        index = index.numpy()
    d = _buffers(to_numpy_destination)
    expected_actions = np.zeros((4, 3, 2), dtype=np.float32)
    target = expected_actions[index.numpy() if isinstance(index, Tensor) else index]
    values = np.arange(1, target.size + 1, dtype=np.float64).reshape(target.shape)  # another dtype than the buffer's
    expected_actions[index.numpy() if isinstance(index, Tensor) else index] = values
    d[index] = {"actions": _as(values, from_numpy_source), "obs": {"speed": _as(3, from_numpy_source)}}
    np.testing.assert_array_equal(np.asarray(d["actions"]), expected_actions)
    assert np.asarray(d["obs"]["speed"]).sum() == 3 * target[..., 0].size


def test_unknown_names_are_ignored_and_others_stay() -> None:
    d = _buffers(as_numpy=False)
    d[0] = {"new_rnn_states": torch.ones(3, 8), "obs": {"unknown": torch.ones(3), "speed": torch.ones(3)}}
    assert list(d) == ["actions", "obs"] and list(d["obs"]) == ["image", "speed"]
    assert d["obs"]["speed"][0].all() and not d["actions"].any()


def test_arrays_with_negative_strides_can_be_written() -> None:
    d = _buffers(as_numpy=False)
    d[0] = {"obs": {"speed": np.array([1.0, 2.0, 3.0])[::-1]}}
    assert d["obs"]["speed"][0].tolist() == [3.0, 2.0, 1.0]


@pytest.mark.parametrize("as_numpy", [False, True])
@pytest.mark.parametrize("value", [[1.0, 2.0], 3.0])
def test_other_sources_are_refused(as_numpy: bool, value: Any) -> None:
    d = _buffers(as_numpy)
    with pytest.raises(ValueError, match="not supported in set_data_func"):
        d[0] = {"actions": value}


def test_copies() -> None:
    d = TensorDict(a=torch.ones(2, requires_grad=True), b=TensorDict(c=np.ones(2)))
    deep, shallow = clone_tensordict(d), shallow_recursive_copy(d)
    assert not deep["a"].requires_grad and deep["b"]["c"] is not d["b"]["c"]
    assert shallow["a"] is d["a"] and shallow["b"] is not d["b"] and shallow["b"]["c"] is d["b"]["c"]


def test_numpy_views_share_memory() -> None:
    d = TensorDict(a=torch.zeros(2), b=TensorDict(c=torch.zeros(2)))
    arrays = to_numpy(d)
    arrays["b"]["c"][0] = 5.0
    assert d["b"]["c"][0] == 5.0
    to_numpy(d["a"])[1] = 4.0
    assert d["a"][1] == 4.0
    with pytest.raises(AssertionError):
        tensor_dict_to_numpy(TensorDict(a=np.ones(2)))


def test_concatenation() -> None:
    parts = [TensorDict(a=torch.full((n, 2), float(n)), b=TensorDict(c=np.full((n,), n))) for n in (1, 2)]
    joined = cat_tensordicts(parts)
    assert joined["a"][:, 0].tolist() == [1.0, 2.0, 2.0] and joined["b"]["c"].tolist() == [1, 2, 2]
    assert cat_tensordicts([]) == TensorDict()


def test_invalid_floats_are_found() -> None:
    d = TensorDict(
        nan=torch.tensor([1.0, float("nan")]),
        nested=TensorDict(inf=torch.tensor([float("inf")])),
        poison=torch.tensor([MAGIC_FLOAT, 0.0]),
        good=torch.ones(2),
        flags=torch.zeros(2, dtype=torch.bool),
    )
    found = find_invalid_data(d, "test")
    assert found.keys() == {"nan", "nested.inf", "poison"}
    assert found["nan"].tolist() == [False, True] and found["poison"].tolist() == [True, False]
    assert find_invalid_data(d, keys=["good", "poison"]).keys() == {"poison"}


def test_q45_poisoned_integers_are_found() -> None:
    d = TensorDict(
        ids=torch.tensor([0, MAGIC_INT], dtype=torch.int32),
        image=torch.full((2, 3, 3), MAGIC_INT, dtype=torch.uint8),
        pixel=torch.tensor([[MAGIC_INT, 0], [1, 2]], dtype=torch.uint8),
    )
    found = find_invalid_data(d)
    assert found.keys() == {"ids", "image"}, "a single byte may well have that value"
    assert found["ids"].tolist() == [False, True] and found["image"].all()
