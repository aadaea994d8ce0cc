"""Random actions under masks of every form."""

from __future__ import annotations

import numpy as np
import pytest
from gymnasium import spaces

from sample_factory.algo.utils.random_actions import sample_action


@pytest.mark.parametrize("dtype", [np.int8, bool, np.float32, np.int64])
def test_discrete(dtype):
    space = spaces.Discrete(4, seed=0)
    assert {int(sample_action(space, np.array([0, 1, 0, 1], dtype))) for _ in range(50)} == {1, 3}


def test_without_a_mask_everything_is_possible():
    space = spaces.Discrete(3, seed=0)
    assert {int(sample_action(space)) for _ in range(50)} == {0, 1, 2}


@pytest.mark.parametrize("mask", [np.array([1, 0, 0, 1, 0]), ([1, 0], [0, 1, 0])])
def test_tuple_and_multi_discrete(mask):
    tuple_space = spaces.Tuple([spaces.Discrete(2), spaces.Discrete(3)], seed=0)
    multi_space = spaces.MultiDiscrete([2, 3], seed=0)
    for space in (tuple_space, multi_space):
        assert {tuple(int(a) for a in sample_action(space, mask)) for _ in range(20)} == {(0, 1)}


def test_continuous_parts_have_no_entries():
    space = spaces.Tuple([spaces.Discrete(2), spaces.Box(-1, 1, (2,))], seed=0)
    action = sample_action(space, np.array([0, 1]))
    assert action[0] == 1 and space[1].contains(action[1])


def test_mask_of_the_wrong_length():
    with pytest.raises(ValueError, match="3 entries"):
        sample_action(spaces.MultiDiscrete([2, 3]), np.ones(3))
