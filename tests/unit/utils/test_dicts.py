from __future__ import annotations

from collections import OrderedDict

import pytest

from sample_factory.utils.dicts import (
    copy_dict_structure,
    dict_of_lists_append,
    dict_of_lists_append_idx,
    get_first_present,
    iter_dicts_recursively,
    iterate_recursively,
    iterate_recursively_with_prefix,
    list_of_dicts_to_dict_of_lists,
)

NESTED = {"a": 1, "b": {"c": 2, "d": {"e": 3}}}


def test_appending():
    lists: dict = {}
    dict_of_lists_append(lists, {"a": 1, "b": 2})
    dict_of_lists_append(lists, {"a": 3})
    assert lists == {"a": [1, 3], "b": [2]}

    dict_of_lists_append_idx(lists, {"a": [10, 20], "c": [30, 40]}, 1)
    assert lists == {"a": [1, 3, 20], "b": [2], "c": [40]}


def test_iteration_yields_leaves_with_their_dictionary():
    assert [(key, leaf) for _, key, leaf in iterate_recursively(NESTED)] == [("a", 1), ("c", 2), ("e", 3)]
    assert [(p, k) for _, k, _, p in iterate_recursively_with_prefix(NESTED)] == [
        ([], "a"),
        (["b"], "c"),
        (["b", "d"], "e"),
    ]
    copied = {"a": 1, "b": {"c": 2}}
    for d, key, leaf in iterate_recursively(copied):
        d[key] = leaf * 10
    assert copied == {"a": 10, "b": {"c": 20}}


def test_structure_is_copied_with_its_types():
    source = OrderedDict(x=1, y={"z": 2})
    copied = copy_dict_structure(source)
    assert type(copied) is OrderedDict
    assert copied == {"x": None, "y": {"z": None}}


def test_parallel_iteration():
    other = {"a": 10, "b": {"c": 20, "d": {"e": 30}}, "extra": 0}
    assert [(k, v1, v2) for _, _, k, v1, v2 in iter_dicts_recursively(NESTED, other)] == [
        ("a", 1, 10),
        ("c", 2, 20),
        ("e", 3, 30),
    ]
    with pytest.raises(AssertionError, match="extra"):
        list(iter_dicts_recursively(other, NESTED))


def test_list_of_dicts():
    assert list_of_dicts_to_dict_of_lists([]) == {}
    assert list_of_dicts_to_dict_of_lists([{"a": 1, "b": {"c": 2}}, {"a": 3, "b": {"c": 4}}]) == {
        "a": [1, 3],
        "b": {"c": [2, 4]},
    }


def test_first_present():
    assert get_first_present({"b": 1, "c": 2}, ["a", "c", "b"]) == 2
    assert get_first_present({}, ["a"], default="none") == "none"
