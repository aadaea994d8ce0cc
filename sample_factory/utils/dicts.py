"""Walking, copying and merging nested dictionaries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any


def dict_of_lists_append(dict_of_lists: MutableMapping[Any, list], new_data: Mapping[Any, Any]) -> None:
    """Append each value of `new_data` to the list under the same key (created when absent)."""
    for key, value in new_data.items():
        dict_of_lists.setdefault(key, []).append(value)


def dict_of_lists_append_idx(
    dict_of_lists: MutableMapping[Any, list], new_data: Mapping[Any, Sequence[Any]], index: int
) -> None:
    """Like `dict_of_lists_append`, taking element `index` of each value."""
    for key, value in new_data.items():
        dict_of_lists.setdefault(key, []).append(value[index])


def iterate_recursively(d: Mapping[Any, Any]) -> Iterator[tuple[Any, Any, Any]]:
    """Yield `(dictionary, key, leaf)` for every non-dictionary value, depth first."""
    for key, value in d.items():
        if isinstance(value, Mapping):
            yield from iterate_recursively(value)
        else:
            yield d, key, value


def iterate_recursively_with_prefix(
    d: Mapping[Any, Any], prefix: list[Any] | None = None
) -> Iterator[tuple[Any, Any, Any, list[Any]]]:
    """Yield `(dictionary, key, leaf, prefix)`; prefix is the list of keys that leads to the dictionary."""
    prefix = [] if prefix is None else prefix
    for key, value in d.items():
        if isinstance(value, Mapping):
            yield from iterate_recursively_with_prefix(value, prefix + [key])
        else:
            yield d, key, value, prefix


def copy_dict_structure(d: Any) -> Any:
    """A dictionary of the same (sub)types and keys whose leaves are None."""
    copied = type(d)()
    for key, value in d.items():
        copied[key] = copy_dict_structure(value) if isinstance(value, Mapping) else None
    return copied


def iter_dicts_recursively(d1: Mapping[Any, Any], d2: Mapping[Any, Any]) -> Iterator[tuple[Any, Any, Any, Any, Any]]:
    """Yield `(d1, d2, key, value1, value2)` for every leaf of d1; every key of d1 has to be in d2."""
    for key, value in d1.items():
        assert key in d2, f"key {key!r} is missing in the second dictionary (it has {list(d2)})"
        if isinstance(value, Mapping):
            yield from iter_dicts_recursively(value, d2[key])
        else:
            yield d1, d2, key, value, d2[key]


def list_of_dicts_to_dict_of_lists(list_of_dicts: Sequence[Mapping[Any, Any]]) -> dict[Any, Any]:
    """`[{a: 1}, {a: 2}]` -> `{a: [1, 2]}`, recursively; keys come from the first element; `[]` -> `{}`."""
    if not list_of_dicts:
        return {}
    merged: dict[Any, Any] = {}
    for key, value in list_of_dicts[0].items():
        values = [d[key] for d in list_of_dicts]
        merged[key] = list_of_dicts_to_dict_of_lists(values) if isinstance(value, Mapping) else values
    return merged


def get_first_present(d: Mapping[Any, Any], keys: Iterable[Any], default: Any = None) -> Any:
    """The value of the first of `keys` that is in `d`, else `default`."""
    for key in keys:
        if key in d:
            return d[key]
    return default
