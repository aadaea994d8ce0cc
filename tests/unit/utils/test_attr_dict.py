from __future__ import annotations

import copy
import json
import pickle

import pytest

from sample_factory.utils.attr_dict import AttrDict


def test_items_and_attributes_are_the_same_entries():
    d = AttrDict(a=1)
    d.b = 2
    d["c"] = 3
    assert (d["b"], d.c) == (2, 3)
    assert list(d) == ["a", "b", "c"]
    del d.a
    assert "a" not in d


def test_keys_shadow_methods():
    assert AttrDict(items=3).items == 3


def test_absent_attribute_raises_attribute_error():
    d = AttrDict(a=1)
    with pytest.raises(AttributeError, match="nope"):
        _ = d.nope
    assert getattr(d, "nope", 5) == 5
    assert not hasattr(d, "nope")


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda d: pickle.loads(pickle.dumps(d))])
def test_copies_are_independent_attr_dicts(clone):
    d = AttrDict(a=1, nested=AttrDict(x=[1]), items=5, get=6)
    cloned = clone(d)
    cloned.a = 7
    assert type(cloned) is AttrDict and type(cloned.nested) is AttrDict
    assert (d.a, cloned["a"], cloned.nested.x, cloned.items) == (1, 7, [1], 5)


def test_it_is_a_plain_mapping_for_other_code():
    d = AttrDict(a=1, b=[2])
    assert json.loads(json.dumps(d)) == {"a": 1, "b": [2]}
    assert vars(d) == {"a": 1, "b": [2]}
    assert d == {"a": 1, "b": [2]}
