"""Questions about modules, objects and command-line values."""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def is_module_available(module_name: str) -> bool:
    """True if the module can be imported; it is not imported (parents of a dotted name are)."""
    try:
        return importlib.util.find_spec(module_name) is not None
    except (ImportError, ValueError):  # the parent package is missing, or __spec__ is None
        return False


def set_attr_if_exists(obj: Any, attr_name: str, attr_value: Any) -> None:
    """Assign the attribute only if the object already has it."""
    if hasattr(obj, attr_name):
        setattr(obj, attr_name, attr_value)


def static_vars(**kwargs: Any) -> Callable[[F], F]:
    """Decorator that stores keyword arguments as attributes of the function."""

    def decorate(func: F) -> F:
        for name, value in kwargs.items():
            setattr(func, name, value)
        return func

    return decorate


def str2bool(v: bool | str) -> bool:
    """Parse the command-line values `true` and `false` (any case); bools pass through.

    Anything else raises `argparse.ArgumentTypeError`.
    """
    if isinstance(v, bool):
        return v
    if isinstance(v, str) and v.lower() in ("true", "false"):
        return v.lower() == "true"
    raise argparse.ArgumentTypeError(f"expected True or False, got {v!r}")
