from __future__ import annotations

import argparse
import sys

import numpy as np
import pytest

from sample_factory.utils.utils import (
    ensure_contigious,
    is_module_available,
    max_with_idx,
    min_with_idx,
    numpy_all_the_way,
    numpy_flatten,
    scale_to_range,
    set_attr_if_exists,
    static_vars,
    str2bool,
)


def test_arrays():
    np.testing.assert_array_equal(scale_to_range(np.array([1.0, 2.0, 3.0]), -1, 1), [-1, 0, 1])
    np.testing.assert_array_equal(scale_to_range(np.array([5, 5]), -1, 1), [-1, -1])
    assert (min_with_idx([3, 1, 2, 1]), max_with_idx([3, 1, 3])) == ((1, 1), (3, 0))
    parts = [np.array([1, 2]), np.array([3, 4])]
    np.testing.assert_array_equal(numpy_all_the_way(parts), [[1, 2], [3, 4]])
    np.testing.assert_array_equal(numpy_flatten(parts), [1, 2, 3, 4])
    transposed = np.zeros((2, 3)).T
    assert ensure_contigious(transposed).flags.c_contiguous and not transposed.flags.c_contiguous


@pytest.mark.parametrize(
    ("value", "expected"), [("True", True), ("false", False), ("TRUE", True), (True, True), (False, False)]
)
def test_str2bool(value, expected):
    assert str2bool(value) is expected


@pytest.mark.parametrize("value", ["yes", "1", "", "x", 1])
def test_str2bool_refuses_everything_else(value):
    with pytest.raises(argparse.ArgumentTypeError, match="True or False"):
        str2bool(value)


def test_module_availability_does_not_import():
    assert is_module_available("wave") and "wave" not in sys.modules
    assert not is_module_available("no_such_module_anywhere")
    assert not is_module_available("no_such_module_anywhere.child")


def test_attributes():
    class Thing:
        a = 1

    thing = Thing()
    set_attr_if_exists(thing, "a", 2)
    set_attr_if_exists(thing, "b", 2)
    assert thing.a == 2 and not hasattr(thing, "b")

    @static_vars(count=5)
    def func() -> None: ...

    assert func.count == 5
