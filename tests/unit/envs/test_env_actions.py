from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from sample_factory.algo.utils.action_distributions import calc_num_actions
from sample_factory.algo.utils.env_actions import make_action_converter, preprocess_actions, process_action_space
from sample_factory.algo.utils.spaces.discretized import Discretized

MIXED = spaces.Tuple([spaces.Discrete(3), spaces.Box(-1, 1, (2,)), spaces.MultiDiscrete([4, 5])])


def rows(*values: Any) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def env_info(action_space: Any, gpu_actions: bool = False) -> Any:
    return SimpleNamespace(action_space=action_space, gpu_actions=gpu_actions)


@pytest.mark.parametrize(
    "space",
    [spaces.Discrete(7), Discretized(7, -1.0, 1.0), spaces.Tuple([spaces.Discrete(7)]), spaces.MultiDiscrete([7])],
)
def test_single_discrete_actions_are_ints(space: Any) -> None:
    convert = make_action_converter(space, batched=False)
    assert convert(rows(5)) == 5 and type(convert(rows(5))) is int
    many = convert.many(rows([5], [0], [6]))
    assert many == [5, 0, 6] and all(type(action) is int for action in many)


def test_start_of_discrete_is_added() -> None:
    space = spaces.Discrete(3, start=-2)
    convert = make_action_converter(space, batched=False)
    assert [convert(row) for row in rows([0], [2])] == [-2, 0]
    assert convert.many(rows([0], [1], [2])) == [-2, -1, 0]
    assert all(space.contains(action) for action in convert.many(rows([0], [2])))
    batched = make_action_converter(space, batched=True)
    assert batched(torch.tensor([[0.0], [2.0]])).tolist() == [-2, 0]
    assert preprocess_actions(env_info(space), torch.tensor([[0.0], [2.0]])).tolist() == [-2, 0]


def test_start_of_multi_discrete_is_added() -> None:
    try:
        space = spaces.MultiDiscrete([3, 4], start=[1, 10])
    except TypeError:  # Gymnasium 0.29 has no start
        space = spaces.Tuple([spaces.Discrete(3, start=1), spaces.Discrete(4, start=10)])
    convert = make_action_converter(space, batched=False)
    assert convert(rows(0, 3)).tolist() == [1, 13]
    assert make_action_converter(space, batched=True)(torch.tensor([[0.0, 3.0]])).tolist() == [[1, 13]]


@pytest.mark.parametrize(
    "space", [spaces.Tuple([spaces.Discrete(3), spaces.Discrete(4)]), spaces.MultiDiscrete([3, 4])], ids=str
)
def test_several_discrete_actions_are_one_int_array(space: Any) -> None:
    convert = make_action_converter(space, batched=False)
    action = convert(rows(2, 3))
    assert action.dtype == np.int32 and action.tolist() == [2, 3]
    many = convert.many(rows([2, 3], [0, 1]))
    assert [a.tolist() for a in many] == [[2, 3], [0, 1]] and many[0].dtype == np.int32


def test_box_actions_keep_their_shape_and_are_not_clipped() -> None:
    convert = make_action_converter(spaces.Box(-1, 1, (1,)), batched=False)
    assert convert(rows(3.5)).tolist() == [3.5] and convert(rows(3.5)).shape == (1,)
    matrix = make_action_converter(spaces.Box(-1, 1, (2, 3)), batched=False) if _supports_matrix_actions() else None
    if matrix is not None:
        assert matrix.many(np.zeros((4, 6), np.float32))[0].shape == (2, 3)


def _supports_matrix_actions() -> bool:
    from sample_factory.algo.utils.action_distributions import calc_num_actions

    try:
        return calc_num_actions(spaces.Box(-1, 1, (2, 3))) == 6
    except (ValueError, AssertionError):
        return False


@pytest.mark.parametrize("space", [spaces.Box(-1, 1, (2,)), spaces.MultiDiscrete([9, 9]), MIXED], ids=str)
def test_converted_actions_survive_the_next_write(space: Any) -> None:
    slab = np.ones((3, 5 if space is MIXED else 2), np.float32)
    actions = make_action_converter(space, batched=False).many(slab)
    slab[:] = 2
    first = actions[0][1] if space is MIXED else actions[0]
    assert np.all(np.asarray(first) == 1)


def test_mixed_tuple_is_a_list_per_agent() -> None:
    convert = make_action_converter(MIXED, batched=False)
    discrete, box, multi = convert(rows(2, 0.25, -0.75, 3, 4))
    assert discrete == 2 and type(discrete) is int
    assert box.tolist() == [0.25, -0.75]
    assert multi.tolist() == [3, 4] and multi.dtype == np.int32
    many = convert.many(rows([2, 0.25, -0.75, 3, 4], [1, 0.5, 0.5, 0, 0]))
    assert len(many) == 2 and many[1][0] == 1 and many[1][2].tolist() == [0, 0]


def test_batched_formats() -> None:
    actions = torch.tensor([[1.0, 2.0], [0.0, 3.0]])
    discrete = make_action_converter(spaces.Discrete(3), batched=True)(actions[:, :1])
    assert discrete.shape == (2,) and discrete.dtype == np.int32
    several = preprocess_actions(env_info(spaces.MultiDiscrete([3, 4])), actions)
    assert several.tolist() == [[1, 2], [0, 3]] and several.dtype == np.int32
    box = preprocess_actions(env_info(spaces.Box(-1, 1, (1,))), actions[:, :1])
    assert box.shape == (2, 1) and box.dtype == np.float32
    parts = preprocess_actions(env_info(MIXED), torch.tensor([[2, 0.25, -0.75, 3, 4]]))
    assert isinstance(parts, list)
    assert parts[0].tolist() == [2] and parts[1].tolist() == [[0.25, -0.75]] and parts[2].tolist() == [[3, 4]]


def test_batched_tensors_stay_tensors_on_request() -> None:
    actions = torch.tensor([[1.0], [0.0]])
    on_device = preprocess_actions(env_info(spaces.Discrete(3), gpu_actions=True), actions)
    assert isinstance(on_device, torch.Tensor) and on_device.dtype == torch.int32 and on_device.shape == (2,)
    not_numpy = preprocess_actions(env_info(spaces.Discrete(3)), actions, to_numpy=False)
    assert isinstance(not_numpy, torch.Tensor)
    assert isinstance(process_action_space(actions, False, is_discrete=True), np.ndarray)
    assert process_action_space(actions, False, is_discrete=False).shape == (2, 1)


def test_batched_accepts_numpy() -> None:
    assert preprocess_actions(env_info(spaces.Discrete(3)), np.array([[1.0], [2.0]], np.float32)).tolist() == [1, 2]


@pytest.mark.parametrize(
    "space",
    [spaces.MultiBinary(3), spaces.Dict(a=spaces.Discrete(2)), spaces.Text(4), spaces.Box(-1, 1, (2, 3))],
    ids=str,
)
@pytest.mark.parametrize("nested", [False, True])
def test_unsupported_spaces_are_named(space: Any, nested: bool) -> None:
    action_space = spaces.Tuple([spaces.Discrete(2), space]) if nested else space
    with pytest.raises(ValueError, match="not supported"):
        make_action_converter(action_space, batched=False)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(7),
        spaces.Discrete(3, start=-2),
        spaces.MultiDiscrete([3, 4]),
        spaces.Box(-1, 1, (2,)),
        spaces.Tuple([spaces.Discrete(3), spaces.Discrete(4)]),
        MIXED,
    ],
    ids=str,
)
def test_batched_arrays_are_converted_like_tensors(space: Any) -> None:
    convert = make_action_converter(space, batched=True)
    stored = np.random.default_rng(0).integers(0, 3, (5, calc_num_actions(space))).astype(np.float32)
    from_array, from_tensor = convert(stored), convert(torch.from_numpy(stored.copy()))
    parts, expected = ([x] if isinstance(x, np.ndarray) else x for x in (from_array, from_tensor))
    for got, wanted in zip(parts, expected, strict=True):
        assert got.dtype == wanted.dtype and got.shape == wanted.shape and (got == wanted).all()
        assert not np.shares_memory(got, stored)  # environments may keep or change their actions
