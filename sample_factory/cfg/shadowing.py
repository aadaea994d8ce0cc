"""Flags whose names a script uses for options of its own.

Scripts for Sample Factory 2 may have options that are called like the flags it does not have (``Flag.extension``), for
example ``--curriculum``. They keep them: our flag of that name does not exist in such a script, and the configuration
holds the value of the script. ``shadowed_flags`` in the configuration, and so in config.json, lists these names, also
for child processes, resumed runs and evaluation. The package reads flags of its own through ``flag_value``.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from sample_factory.cfg.flags import FLAGS
from sample_factory.utils.typing import Config
from sample_factory.utils.utils import log

SHADOWED_KEY = "shadowed_flags"
_ABSENT = object()

EXTENSIONS = tuple(name for name, flag in FLAGS.items() if flag.extension)


def shadowed_flags(cfg: Config) -> frozenset[str]:
    """Names that belong to the script in this configuration."""
    return frozenset(getattr(cfg, SHADOWED_KEY, ()))


def flag_value(cfg: Config, name: str) -> Any:
    """Value of one of our own flags: the default if the configuration lacks it or the name belongs to the script."""
    if name in shadowed_flags(cfg):
        return FLAGS[name].default_value()
    value = getattr(cfg, name, _ABSENT)
    return FLAGS[name].default_value() if value is _ABSENT else value


def builtin_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration as the package reads it: names that belong to the script have the default of our flag."""
    defaults = {name: FLAGS[name].default_value() for name in values.get(SHADOWED_KEY, ())}
    return {**values, **defaults}


class ShadowableFlags(argparse._ActionsContainer):
    """Parsers and groups of options in which options and defaults of scripts replace flags of ours."""

    # Shared by a parser and its groups.
    shadowed: set[str]

    def add_argument(self, *args: Any, **kwargs: Any) -> argparse.Action:
        """As in argparse; an option whose name or destination is that of a flag of ours takes its place."""
        for text in (*args, kwargs.get("dest")):
            if isinstance(text, str):
                self._shadow(text.lstrip("-").replace("-", "_"))
        return super().add_argument(*args, **kwargs)

    def set_defaults(self, **kwargs: Any) -> None:
        """As in argparse; a value that our flag cannot have is one the script means for itself."""
        for name, value in kwargs.items():
            if name in EXTENSIONS and FLAGS[name].problem(value) is not None:
                self._shadow(name)
        super().set_defaults(**kwargs)

    def add_argument_group(self, *args: Any, **kwargs: Any) -> Any:
        group = _Group(self, *args, **kwargs)
        group.shadowed = self.shadowed
        self._action_groups.append(group)
        return group

    def add_mutually_exclusive_group(self, **kwargs: Any) -> Any:
        group = _ExclusiveGroup(self, **kwargs)
        group.shadowed = self.shadowed
        self._mutually_exclusive_groups.append(group)
        return group

    def _shadow(self, name: str) -> None:
        """Take our flag out of the parser, once: a second option of the script with that name is an error."""
        action = self._option_string_actions.get(f"--{name}")
        if name not in EXTENSIONS or name in self.shadowed or action is None:
            return
        del self._option_string_actions[f"--{name}"]
        action.container._remove_action(action)  # type: ignore[attr-defined]  # set by argparse for this purpose
        self.shadowed.add(name)


class _Group(ShadowableFlags, argparse._ArgumentGroup):
    """A titled group."""


class _ExclusiveGroup(ShadowableFlags, argparse._MutuallyExclusiveGroup):
    """Options of which one may be given."""


def record_shadowed(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """List the names that belong to the script in its configuration, and say so in one line."""
    names: set[str] = getattr(parser, "shadowed", set())
    if names:
        options = ", ".join(f"--{name}" for name in EXTENSIONS if name in names)
        log.warning(f"{options}: used by this script for values of its own, the built-in flags are not available")
    # Defaults taken from a saved configuration may name some already. What is given is ours again if we still have it.
    known = (shadowed_flags(args) - set(args.cli_args)) | names
    if known or hasattr(args, SHADOWED_KEY):
        setattr(args, SHADOWED_KEY, sorted(known))
