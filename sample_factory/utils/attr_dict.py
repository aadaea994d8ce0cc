"""A dictionary whose entries can also be read and written as attributes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any


class AttrDict(dict):
    """``d.key`` and ``d["key"]`` are the same entry.

    Keys shadow methods: after ``d["items"] = 1`` the expression ``d.items`` is 1. Reading an absent attribute raises
    AttributeError, so ``hasattr`` and ``getattr`` with a default work.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> AttrDict:
        obj = super().__new__(cls)
        # The instance dictionary *is* the mapping: attribute access stays at C speed, which matters for cfg and Timing.
        obj.__dict__ = obj
        return obj

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # Without this, pickle and copy would save the entries twice (as items and as instance state).
        return _new, (type(self),), None, None, iter(dict.items(self))

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

        def __setattr__(self, name: str, value: Any) -> None: ...


def _new(cls: type[AttrDict]) -> AttrDict:
    """Rebuild an empty object while unpickling or copying; entries are filled in by the caller."""
    return cls.__new__(cls)
