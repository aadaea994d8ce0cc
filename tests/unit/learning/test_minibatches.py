from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sample_factory.algo.learning.minibatches import split_into_minibatches, take_minibatch
from sample_factory.algo.utils.tensor_dict import TensorDict


def split(**kwargs: Any) -> list[Any]:
    defaults: dict[str, Any] = {
        "experience_size": 48,
        "batch_size": 16,
        "num_minibatches": 3,
        "rollout": 8,
        "recurrence": 4,
        "shuffle": False,
        "rng": np.random.default_rng(0),
    }
    return split_into_minibatches(**(defaults | kwargs))


def test_one_minibatch_is_everything_and_never_shuffled() -> None:
    assert split(num_minibatches=1, shuffle=True) == [slice(0, 48)]


def test_unshuffled_minibatches_are_views() -> None:
    assert split() == [slice(0, 16), slice(16, 32), slice(32, 48)]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 4), st.integers(2, 5), st.integers(0, 1000))
def test_shuffling_permutes_whole_blocks(recurrence: int, blocks: int, num_minibatches: int, seed: int) -> None:
    batch_size = recurrence * blocks
    size = batch_size * num_minibatches
    parts = split(
        experience_size=size,
        batch_size=batch_size,
        num_minibatches=num_minibatches,
        rollout=batch_size,
        recurrence=recurrence,
        shuffle=True,
        rng=np.random.default_rng(seed),
    )
    assert [len(part) for part in parts] == [batch_size] * num_minibatches
    assert sorted(np.concatenate(parts)) == list(range(size))
    for part in parts:
        rows = part.reshape(-1, recurrence)
        assert (rows[:, 0] % recurrence == 0).all()
        assert (np.diff(rows, axis=1) == 1).all()


def test_shuffling_is_redrawn_and_seeded() -> None:
    rng = np.random.default_rng(3)
    first, second = np.concatenate(split(shuffle=True, rng=rng)), np.concatenate(split(shuffle=True, rng=rng))
    assert (first != second).any()
    again = np.concatenate(split(shuffle=True, rng=np.random.default_rng(3)))
    assert (again == first).all()


def test_q27_sizes_that_do_not_fit_name_the_flag() -> None:
    with pytest.raises(ValueError, match=r"48 is not a multiple of --batch_size=20"):
        split(batch_size=20)
    with pytest.raises(ValueError, match=r"--rollout=8 is not a multiple of --recurrence=3"):
        split(recurrence=3)


@pytest.mark.parametrize("indices", [slice(2, 5), np.array([4, 0, 2])])
def test_take_minibatch(indices: Any) -> None:
    dataset = TensorDict(a=torch.arange(6), nested=TensorDict(b=torch.arange(12).reshape(6, 2)))
    mb = take_minibatch(dataset, indices)
    expected = np.arange(6)[indices]
    np.testing.assert_array_equal(mb.a, expected)
    np.testing.assert_array_equal(mb.nested["b"][:, 0], 2 * expected)
