"""What one command-line flag is: the row type of the flag tables."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

from sample_factory.utils.utils import str2bool

__all__ = ["Flag", "Range", "Section", "at_least", "between", "finite", "nearest", "positive", "str2bool"]

_NEAR = 0.7


def nearest(text: str, names: Iterable[str]) -> str | None:
    """What was probably meant: a name that is spelled almost like this, else one that has it as a part."""
    known = list(names)
    similar = difflib.get_close_matches(text, known, n=1, cutoff=_NEAR)
    similar = similar or [name for name in known if f"_{text}_" in f"_{name}_"]
    return similar[0] if similar else None


@dataclass(frozen=True)
class Range:
    """Interval a number has to lie in. NaN is never inside, infinities only with ``allow_inf``.

    ``also`` lists values outside the interval that have a meaning of their own, such as -1 for "automatic".
    """

    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False
    also: tuple[float, ...] = ()
    allow_inf: bool = False

    def contains(self, value: float) -> bool:
        if value in self.also:
            return True
        if math.isnan(value) or (math.isinf(value) and not self.allow_inf):
            return False
        above = value > self.low if self.low_open else value >= self.low
        below = value < self.high if self.high_open else value <= self.high
        return above and below

    def describe(self) -> str:
        """The rule as it stands in error messages and in the docs, for example ``>= 1 or -1``."""
        parts = []
        if self.low > -math.inf:
            parts.append(f"{'>' if self.low_open else '>='} {self.low:g}")
        if self.high < math.inf:
            # Seeds go up to 2**32 - 1, which %g would round.
            high = f"{int(self.high)}" if float(self.high).is_integer() else f"{self.high:g}"
            parts.append(f"{'<' if self.high_open else '<='} {high}")
        text = " and ".join(parts) or "any number"
        exceptions = [f"{value:g}" for value in self.also] + ["inf"] * (self.allow_inf and bool(parts))
        return " or ".join([text, *exceptions])


def at_least(low: float, *, also: tuple[float, ...] = (), allow_inf: bool = False) -> Range:
    return Range(low=low, also=also, allow_inf=allow_inf)


def positive(*, allow_inf: bool = False) -> Range:
    return Range(low=0, low_open=True, allow_inf=allow_inf)


def between(low: float, high: float, *, high_open: bool = False) -> Range:
    return Range(low=low, high=high, high_open=high_open)


def finite(*, allow_inf: bool = False) -> Range:
    return Range(allow_inf=allow_inf)


@dataclass(frozen=True)
class Flag:
    """One command-line flag: everything argparse, the value checks and the reference page need.

    Attributes:
        name: option and configuration key, without dashes.
        type: ``int``, ``float``, ``str`` or ``str2bool``; ``bool`` for flags without a value.
        default: value, or a function without arguments for defaults that depend on the machine.
        help: what the flag does.
        choices: accepted values.
        bounds: accepted interval (of every element of a list).
        nargs: ``"*"`` for lists.
        action: ``"store_true"`` for flags without a value.
        aliases: short options.
        required: must be given on the command line.
        default_text: the default in words where the value depends on the machine or on other flags.
        extension: not a flag of Sample Factory 2.
        quantity: an ``int`` flag that is only compared or waited for, so that code may set any real number.
        open_choices: custom model components may give other values a meaning.
        per_run: belongs to one start of the program, never taken from a saved configuration.
        machine_dependent: the default depends on machine or folder and is computed anew on resume.
        synonyms: what people call a choice elsewhere, for the hint in the error message.
    """

    name: str
    type: Callable[[str], Any]
    default: Any
    help: str
    choices: tuple[str, ...] | None = None
    bounds: Range | None = None
    nargs: str | None = None
    action: str | None = None
    aliases: tuple[str, ...] = ()
    required: bool = False
    default_text: str | None = None
    extension: bool = False
    quantity: bool = False
    open_choices: bool = False
    per_run: bool = False
    machine_dependent: bool = False
    synonyms: Mapping[str, str] = field(default_factory=dict)

    @property
    def option(self) -> str:
        return f"--{self.name}"

    def default_value(self) -> Any:
        """The default on this machine; lists are fresh objects."""
        if callable(self.default):
            return self.default()
        return list(self.default) if isinstance(self.default, list) else self.default

    def argparse_kwargs(self) -> dict[str, Any]:
        """Keyword arguments of ``ArgumentParser.add_argument``."""
        kwargs: dict[str, Any] = {"default": self.default_value(), "help": self.help.replace("%", "%%")}
        if self.action is not None:
            return kwargs | {"action": self.action}
        kwargs["type"] = self.type
        if self.choices is not None:
            kwargs["choices"] = list(self.choices)
        if self.nargs is not None:
            kwargs["nargs"] = self.nargs
        if self.required:
            kwargs["required"] = True
        return kwargs

    def near_choice(self, value: str) -> str | None:
        """The choice that was probably meant."""
        return self.synonyms.get(value) or nearest(value, self.choices or ())

    def problem(self, value: Any) -> str | None:
        """Why ``value`` cannot be used and how to repair it, or None if it is fine."""
        reason = self._reason(value)
        if reason is None:
            return None
        return f"{self.option}={format_value(value)}: {reason}"

    def _reason(self, value: Any) -> str | None:
        if value is None:
            return None if self.default is None and not self.required else f"a value is needed; {self._example()}"
        if self.nargs is None:
            return self._element_reason(value)
        if not isinstance(value, list | tuple):
            return f"must be a list; {self._example()}"
        return next((reason for reason in map(self._element_reason, value) if reason is not None), None)

    def _element_reason(self, value: Any) -> str | None:
        type_reason = self._type_reason(value)
        if type_reason is not None:
            return type_reason
        if self.choices is not None and value not in self.choices:
            return self._choice_reason(str(value))
        if self.bounds is not None and not self.bounds.contains(value):
            return f"must be {self.bounds.describe()}; {self._example()}"
        return None

    def _type_reason(self, value: Any) -> str | None:
        if self.type in (str2bool, bool):
            is_bool = isinstance(value, bool) or (isinstance(value, Integral) and value in (0, 1))
            return None if is_bool else f"must be True or False; {self._example()}"
        if self.type is str:
            is_text = isinstance(value, str) and (value != "" or not self.required)
            return None if is_text else f"must be a {'non-empty ' if self.required else ''}string; {self._example()}"
        number: type = Integral if self.type is int and not self.quantity else Real
        if isinstance(value, bool) or not isinstance(value, number):
            return f"must be {'an integer' if self.type is int else 'a number'}; {self._example()}"
        return None

    def _choice_reason(self, value: str) -> str | None:
        assert self.choices is not None
        near = self.near_choice(value)
        if self.open_choices and not near:
            return None
        hint = f"; did you mean {near}?" if near else ""
        return f"must be one of {', '.join(self.choices)}{hint}"

    def example_of_list(self) -> str:
        """A list as it is typed: the default, or something where that is empty."""
        values = self.default_value() or ([1, 2] if self.type in (int, float) else ["a", "b"])
        return f"{self.option} {' '.join(map(str, values))}"

    def _example(self) -> str:
        """The repair: a command-line value that works."""
        default = self.default_value()
        if default is None:
            return "leave it out if you do not need it" if not self.required else f"add {self.option}=..."
        if self.action is not None:
            return f"write {self.option} alone, or leave it out"
        if isinstance(default, list):
            return f"for example {self.example_of_list()}"
        return f"for example {self.option}={default} (the default)"


@dataclass(frozen=True)
class Section:
    """A group of flags with a heading."""

    key: str
    title: str
    flags: tuple[Flag, ...]


def format_value(value: Any) -> str:
    """A value as one would type it."""
    if isinstance(value, list | tuple):
        return " ".join(map(str, value)) or "(empty)"
    return str(value)
