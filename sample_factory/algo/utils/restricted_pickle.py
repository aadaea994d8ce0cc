"""Reading pickled spaces without letting the file run code."""

from __future__ import annotations

import copy
import importlib
import pickle
from collections.abc import Iterable
from typing import IO, Any, TypeVar

from gymnasium import spaces

from sample_factory.algo.utils.spaces.discretized import Discretized

_T = TypeVar("_T")

_SPACE_CLASSES = (
    spaces.Box,
    spaces.Dict,
    spaces.Discrete,
    spaces.MultiBinary,
    spaces.MultiDiscrete,
    spaces.Tuple,
    Discretized,
)
# Constructors of arrays and scalars in NumPy 1 and 2; none of them calls anything else.
_NUMPY_NAMES = frozenset(
    {
        ("numpy", "dtype"),
        ("numpy", "ndarray"),
        *(
            (f"numpy.{core}.{module}", name)
            for core in ("core", "_core")
            for module, name in (("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer"))
        ),
    }
)
_NUMPY_SCALARS = frozenset(
    {f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)}
    | {"float16", "float32", "float64", "bool_", "bool"}
)
_PLAIN_NAMES = frozenset({("collections", "OrderedDict"), ("copyreg", "_reconstructor"), ("builtins", "object")})


class _RestrictedUnpickler(pickle.Unpickler):
    """Knows plain containers, NumPy arrays, Gymnasium spaces and the classes it was given; nothing else."""

    def __init__(self, fobj: IO[bytes], classes: Iterable[type]):
        super().__init__(fobj)
        self._classes = {(cls.__module__, cls.__qualname__): cls for cls in classes}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self._classes:
            return self._classes[module, name]
        is_dtype = module == "numpy.dtypes" and name.isidentifier() and name.endswith("DType")
        is_scalar = module == "numpy" and name in _NUMPY_SCALARS
        if is_dtype or is_scalar or (module, name) in _NUMPY_NAMES | _PLAIN_NAMES:
            return getattr(importlib.import_module(module), name)
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed in this file")


def load_restricted(fobj: IO[bytes], extra_classes: Iterable[type] = ()) -> Any:
    """:raises pickle.UnpicklingError: the file names a class or function that is not allowed."""
    return _RestrictedUnpickler(fobj, [*_SPACE_CLASSES, *extra_classes]).load()


def without_rng(obj: _T) -> _T:
    """Copy of ``obj`` whose spaces carry no random generator (its state names many NumPy internals)."""
    obj = copy.deepcopy(obj)
    pending: list[Any] = list(vars(obj).values())
    while pending:
        value = pending.pop()
        if isinstance(value, spaces.Space):
            value._np_random = None  # type: ignore[assignment]
            nested = getattr(value, "spaces", None)
            if nested is not None:
                pending.extend(nested.values() if isinstance(nested, dict) else nested)
    return obj
