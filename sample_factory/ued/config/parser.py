"""The conditional parser: which flags exist depends on the values of flags that come before them in the tables.

A group of flags is active when its condition holds. A flag of an inactive group is an error that names the condition,
so a command line never holds a value that nobody reads. All errors are reported at once.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sample_factory.cfg.errors import ConfigError
from sample_factory.ued.config.flag import Group, UedFlag
from sample_factory.ued.config.nested import Config
from sample_factory.ued.config.tables import BUILT_IN_GROUPS, PLACEHOLDERS

_EXTRA_GROUPS: list[Group] = []
_MAX_NEAR_MATCHES = 3

Tokens = list[tuple[str, str | None]]  # flag without dashes, text behind it


@dataclass
class ParsedFlags:
    """Result of parsing.

    Attributes:
        config: the nested configuration.
        values: every active flag under its full name.
        given: the flags that were on the command line.
        problems: what is wrong, one entry per error.
    """

    config: Config = field(default_factory=Config)
    values: dict[str, Any] = field(default_factory=dict)
    given: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)


def register_flag_group(group: Group) -> None:
    """Add flags of an environment or network of your own.

    Use the condition to make them active for it alone, for example ``{"env_name": ("MyEnv*",)}``, and
    ``dest="env_args"`` to hand the values to its builder. Raises ValueError if one of the names is taken; registering
    an equal group again changes nothing.
    """
    if group in _EXTRA_GROUPS:
        return
    taken = {flag.name for known in all_groups() for flag in known.flags}
    for flag in group.flags:
        if flag.name in taken:
            raise ValueError(f"--{flag.name} of the group {group.title!r} exists already; choose another prefix")
    _EXTRA_GROUPS.append(group)


def all_groups() -> tuple[Group, ...]:
    return (*BUILT_IN_GROUPS, *_EXTRA_GROUPS)


def tokenize(argv: Sequence[str]) -> Tokens:
    """Split a command line into flags and the texts behind them. Raises ConfigError for anything else."""
    tokens: Tokens = []
    stray: list[str] = []
    for text in argv:
        if text.startswith("--") and len(text) > 2:
            name, equals, value = text[2:].partition("=")
            tokens.append((name, value if equals else None))
        elif tokens and tokens[-1][1] is None:
            tokens[-1] = (tokens[-1][0], text)
        else:
            stray.append(text)
    if stray:
        raise ConfigError([f"unknown argument {text!r}; write --flag=value" for text in stray])
    return tokens


def parse(argv: Sequence[str], groups: Iterable[Group] | None = None) -> ParsedFlags:
    """Parse a command line and collect all problems."""
    return parse_tokens(tokenize(argv), groups)


def parse_tokens(tokens: Tokens, groups: Iterable[Group] | None = None) -> ParsedFlags:
    """Parse flags and texts; of several texts for one flag the last one wins."""
    groups = all_groups() if groups is None else tuple(groups)
    texts = dict(tokens)
    result = ParsedFlags(given=set(texts))
    for group in groups:
        if group.is_active(result.values):
            _parse_group(group, texts, result)
    for name in PLACEHOLDERS:
        result.config.group(name)
    if result.values.get("train_runner") == "paired":
        result.config.group("teacher_model_args")
    result.problems += [_unknown(name, groups, result.values) for name in texts if name not in result.values]
    return result


def _parse_group(group: Group, texts: dict[str, str | None], result: ParsedFlags) -> None:
    target = result.config if group.dest is None else result.config.group(group.dest)
    for flag in group.flags:
        value = flag.default_value()
        if flag.name in texts:
            try:
                value = flag.parse(texts[flag.name])
            except ValueError as exc:
                result.problems.append(str(exc))
        result.values[flag.name] = value
        target[group.key_of(flag)] = value


def _unknown(name: str, groups: Sequence[Group], values: dict[str, Any]) -> str:
    inactive = [group for group in groups if any(flag.name == name for flag in group.flags)]
    if inactive:
        conditions = " or ".join(group.condition_text() for group in inactive)
        now = ", ".join(f"--{flag}={values.get(flag)}" for flag in inactive[0].condition)
        return f"unknown argument --{name}: it belongs to {conditions}, but this run has {now}"
    near = difflib.get_close_matches(name, [f.name for g in groups for f in g.flags], n=_MAX_NEAR_MATCHES)
    hint = f"did you mean {' or '.join(f'--{n}' for n in near)}?" if near else "see --help for all flags"
    return f"unknown argument --{name}: no such flag; {hint}"


def help_text(prog: str, groups: Iterable[Group] | None = None) -> str:
    """All flags, under the conditions on which they exist."""
    lines = [f"usage: python -m {prog} [--flag=value ...]"]
    for group in all_groups() if groups is None else groups:
        condition = f" [with {group.condition_text()}]" if group.condition else ""
        lines += ["", f"{group.title}{condition}"]
        lines += [f"  {_usage(flag)}\n        {flag.help}" for flag in group.flags]
    return "\n".join(lines)


def _usage(flag: UedFlag) -> str:
    kind = "{" + ",".join(flag.choices) + "}" if flag.choices else flag.type.__name__.replace("str2bool", "bool")
    return f"--{flag.name}={kind} (default: {flag.default_value()})"
