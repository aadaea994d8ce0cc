"""What one flag of the UED commands is, and the groups flags come in."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sample_factory.cfg.flags.flag import Flag
from sample_factory.utils.introspection import str2bool

NONE_WORDS = ("none", "None", "null")
_BOOL_WORDS = dict.fromkeys(("yes", "true", "t", "y", "1"), True) | dict.fromkeys(("no", "false", "f", "n", "0"), False)


@dataclass(frozen=True)
class UedFlag(Flag):
    """A flag under its full name, prefix included.

    Attributes:
        value_optional: may be given bare. That means true for switches and "not set" for everything else.
    """

    value_optional: bool = False

    def parse(self, text: str | None) -> Any:
        """Value of the text behind the flag (``None``: the flag was given bare). Raises ValueError with the repair."""
        if text is None:
            return self._bare_value()
        if self.default is None and text in NONE_WORDS:
            return None
        text = text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text  # "*" in files and shells
        try:
            value = parse_bool(text) if self.type is str2bool else self.type(text)
        except (ValueError, KeyError):
            raise ValueError(f"{self.option}={text}: must be {self._kind()}; {self._example()}") from None
        problem = self.problem(value)
        if problem is not None:
            raise ValueError(problem)
        return value

    def _bare_value(self) -> Any:
        if not self.value_optional:
            raise ValueError(f"{self.option} needs a value; {self._example()}")
        return True if self.type is str2bool else None

    def _kind(self) -> str:
        return {int: "an integer", float: "a number", str2bool: "yes or no"}.get(self.type, "a string")  # type: ignore[call-overload]


@dataclass(frozen=True)
class Group:
    """Flags that are active together.

    Attributes:
        title: heading in ``--help``.
        dest: group of the parsed result the values are stored in; ``None``: its top level.
        flags: in the order of the table.
        prefix: removed, with the underscore behind it, from the names under which values are stored.
        condition: flag -> values for which the group is active; all entries must hold. Text is a pattern in which
            ``*`` stands for anything. Flags named here belong to groups further up.
        extension: not there in minimax.
    """

    title: str
    dest: str | None
    flags: tuple[UedFlag, ...]
    prefix: str = ""
    condition: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    extension: bool = False

    def is_active(self, values: Mapping[str, Any]) -> bool:
        """Whether the condition holds for the values of the flags parsed so far."""
        return all(matches_any(values.get(flag), allowed) for flag, allowed in self.condition.items())

    def key_of(self, flag: UedFlag) -> str:
        """Name under which the value of a flag is stored."""
        return flag.name.removeprefix(f"{self.prefix}_") if self.prefix else flag.name

    def condition_text(self) -> str:
        """The condition as one would type it."""
        return " and ".join(f"--{flag}={'|'.join(map(str, allowed))}" for flag, allowed in self.condition.items())


def matches_any(value: Any, allowed: tuple[Any, ...]) -> bool:
    return any(_matches(value, pattern) for pattern in allowed)


def _matches(value: Any, pattern: Any) -> bool:
    if not isinstance(pattern, str):
        return bool(value == pattern)
    regex = ".*".join(map(re.escape, pattern.split("*")))
    return isinstance(value, str) and re.fullmatch(regex, value) is not None


def parse_bool(text: str) -> bool:
    """yes/true/t/y/1 or no/false/f/n/0, any letter case; KeyError for anything else."""
    return _BOOL_WORDS[text.lower()]


def bool_argument(text: str) -> bool:
    """The same for commands that parse with argparse."""
    try:
        return parse_bool(text)
    except KeyError:
        raise argparse.ArgumentTypeError(f"must be yes or no, got {text!r}") from None


# --- short forms for the tables ---


def flag(name: str, type_: Callable[[str], Any], default: Any, help_: str, **more: Any) -> UedFlag:
    return UedFlag(name=name, type=type_, default=default, help=help_, **more)


def switch(name: str, default: bool, help_: str, *, value_optional: bool = False, **more: Any) -> UedFlag:
    return UedFlag(name=name, type=str2bool, default=default, help=help_, value_optional=value_optional, **more)
