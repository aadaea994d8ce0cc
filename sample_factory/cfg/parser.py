"""The argument parser: reports all errors of a command line at once and resolves abbreviations itself.

Scripts parse twice: a first pass before they have added their own options, and a strict second pass. argparse alone
stops at the first error, lets a custom option that is a prefix of built-in ones break the first pass, and demands
required options even if only help is wanted.
"""

from __future__ import annotations

import argparse
import copy
import re
import sys
from collections.abc import Collection, Sequence
from typing import Any, NoReturn

from sample_factory.cfg.flags import EVALUATION_FLAGS, FLAGS
from sample_factory.cfg.flags.flag import nearest
from sample_factory.cfg.shadowing import ShadowableFlags

_ERROR_OF_OPTION = re.compile(r"^argument (?P<option>-\S+?)(/\S+)?: (?P<reason>.*)$", re.DOTALL)


class FlagHelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Help with the default of each option, where there is something to say."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.required:
            return f"{action.help} (required)"
        if action.nargs == 0:  # a switch is off unless it is given
            return action.help
        return super()._get_help_string(action)


class _ParsingStopped(Exception):
    """argparse met an error while errors are being collected."""


class FlagParser(ShadowableFlags, argparse.ArgumentParser):
    """An ``ArgumentParser`` that collects errors.

    Abbreviations work as in argparse, with one difference: options that Sample Factory 2 does not have never make an
    abbreviation ambiguous that was unique there.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.shadowed = set()
        super().__init__(*args, **kwargs)
        self.allow_abbrev = False  # resolved by expand_abbreviations instead
        self._collecting = False

    def error(self, message: str) -> NoReturn:
        """Print the message and exit with code 2. The usage of 140 flags would only hide the message."""
        if self._collecting:
            raise _ParsingStopped(message)
        self.exit(2, f"{self.prog}: error: {message}\n(all flags: {self.prog} --help)\n")

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As in argparse, but reports all errors at once."""
        parsed, extras, problems = self._parse_collecting(args, namespace)
        if problems:
            self.error("\n".join(problems))
        return _adopt(parsed, namespace), extras

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """As in argparse, but reports all errors at once, unknown options with the nearest known one."""
        parsed, problems = self.parse_strictly(args, namespace)
        if problems:
            self.error("\n".join(problems))
        return _adopt(parsed, namespace)

    def parse_strictly(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse what can be parsed and return it with the list of all problems, unknown options among them."""
        parsed, extras, problems = self._parse_collecting(args, namespace)
        if not getattr(parsed, "help", False):
            problems += self._unknown_options(extras)
        return parsed, problems

    def parse_leniently(self, args: Sequence[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
        """First pass: ignore unknown and broken options, which the second pass reports.

        Returns:
            What could be parsed, and all problems if an option is missing without which the script cannot go on to
            the second pass; otherwise an empty list.
        """
        parsed, _, problems = self._parse_collecting(args, None)
        missing = _missing_options(_required_actions(self), parsed)
        return parsed, problems if missing else []

    def _parse_collecting(
        self, args: Sequence[str] | None, namespace: argparse.Namespace | None
    ) -> tuple[argparse.Namespace, list[str], list[str]]:
        """Drop each broken option in turn and parse again, until nothing is left to complain about."""
        tokens = expand_abbreviations(self, _tokens(args))
        help_wanted = any(token in ("-h", "--help") for token in tokens)
        required = _required_actions(self)
        broken: set[str] = set()
        problems: list[str] = []
        self._collecting = True
        for action in required:
            action.required = False
        try:
            while True:
                parsed = copy.copy(namespace) if namespace is not None else argparse.Namespace()
                try:
                    parsed, extras = super().parse_known_args(tokens, parsed)
                    break
                except _ParsingStopped as stop:
                    option, problem = _explain(str(stop), tokens, self.shadowed)
                    problems.append(problem)
                    shorter = _without_option(tokens, option)
                    if shorter == tokens:
                        extras = []
                        break
                    broken.add(option)
                    tokens = shorter
        finally:
            self._collecting = False
            for action in required:
                action.required = True
        problems += _missing_options(required, parsed, broken)
        return parsed, extras, [] if help_wanted else problems

    def _unknown_options(self, extras: list[str]) -> list[str]:
        """One line per unknown option, with the values that followed it."""
        groups: list[list[str]] = []
        for token in extras:
            if not groups or token.startswith("-") or "=" in groups[-1][0]:
                groups.append([])
            groups[-1].append(token)
        return [self._unknown_option(" ".join(group)) for group in groups]

    def _unknown_option(self, text: str) -> str:
        name = re.split(r"[=\s]", text, maxsplit=1)[0]
        matches = matching_options(self, name)
        if len(matches) > 1:
            return f"ambiguous option: {text} could match {', '.join(matches)}"
        return f"unrecognized arguments: {text}; {self._hint(name)}"

    def _hint(self, option: str) -> str:
        known = [name.removeprefix("--") for name in option_strings(self)]
        name = option.removeprefix("--")
        if option.startswith("--") and name in EVALUATION_FLAGS and name not in known:
            return "a flag of evaluation, not of training"
        near = nearest(name, known) if option.startswith("--") else None
        return f"did you mean --{near}?" if near else "see --help for all flags"


def option_strings(parser: argparse.ArgumentParser) -> list[str]:
    """All option strings of a parser, in the order of registration."""
    # argparse has no public list of actions; this attribute is as old as argparse itself.
    return [option for action in parser._actions for option in action.option_strings]


def matching_options(parser: argparse.ArgumentParser, prefix: str) -> list[str]:
    """Long options that ``prefix`` abbreviates. Original ones win against extensions of ours."""
    if not prefix.startswith("--") or len(prefix) == 2:
        return []
    matches = [option for option in option_strings(parser) if option.startswith(prefix)]
    original = [option for option in matches if not _is_extension(parser, option)]
    return original if len(original) == 1 else matches


def _is_extension(parser: argparse.ArgumentParser, option: str) -> bool:
    name = option.removeprefix("--")
    flag = FLAGS.get(name)
    return flag is not None and flag.extension and name not in getattr(parser, "shadowed", ())


def expand_abbreviations(parser: argparse.ArgumentParser, tokens: Sequence[str]) -> list[str]:
    """Replace unique abbreviations by full option names. Ambiguous ones stay: a script may still add such an option."""
    known = set(option_strings(parser))
    expanded: list[str] = []
    for position, token in enumerate(tokens):
        if token == "--":
            return expanded + list(tokens[position:])
        name, equals, value = token.partition("=")
        if name not in known and token not in known:
            matches = matching_options(parser, name)
            if len(matches) == 1:
                token = f"{matches[0]}{equals}{value}"
        expanded.append(token)
    return expanded


def options_given(parser: argparse.ArgumentParser, args: Sequence[str]) -> dict[str, Any]:
    """Options that are really on the command line, in the order of registration, with parsed values.

    Every destination starts as None instead of its default; what is still None afterwards was not given.
    """
    destinations = [action.dest for action in parser._actions if action.dest != argparse.SUPPRESS]
    blank = argparse.Namespace(**dict.fromkeys(destinations))
    if isinstance(parser, FlagParser):
        parsed, _ = parser.parse_strictly(args, blank)
    else:
        parsed = parser.parse_args(args, blank)
    values = {dest: getattr(parsed, dest) for dest in destinations}
    return {dest: value for dest, value in values.items() if value is not None}


def _tokens(args: Sequence[str] | None) -> list[str]:
    return list(sys.argv[1:] if args is None else args)


def _adopt(parsed: argparse.Namespace, namespace: argparse.Namespace | None) -> argparse.Namespace:
    """Return the caller's namespace object, as argparse does."""
    if namespace is None:
        return parsed
    vars(namespace).update(vars(parsed))
    return namespace


def _explain(message: str, tokens: list[str], shadowed: Collection[str]) -> tuple[str, str]:
    """Option an argparse message is about ("" if none) and the message with value and repair added."""
    match = _ERROR_OF_OPTION.match(message)
    if match is None:
        return "", message
    option = match["option"]
    value = _first_value(tokens, option)
    given = "" if value is None or repr(value) in message else f" (got {value!r})"
    repair = "" if option.removeprefix("--") in shadowed else _repair(option, match["reason"])
    return option, message + given + repair


def _first_value(tokens: list[str], option: str) -> str | None:
    for position, token in enumerate(tokens):
        if token.startswith(f"{option}="):
            return token.partition("=")[2]
        if token == option and position + 1 < len(tokens) and not tokens[position + 1].startswith("--"):
            return tokens[position + 1]
    return None


def _repair(option: str, reason: str) -> str:
    flag = FLAGS.get(option.removeprefix("--"))
    if flag is None:
        return ""
    given = re.search(r"'([^']*)'", reason)
    if given is not None and flag.nargs is not None:
        kind = "whole numbers" if flag.type is int else "numbers" if flag.type is float else "words"
        return f"; write {kind} with spaces between them, for example {flag.example_of_list()}"
    if given is not None and flag.type is int:
        return f"; write digits only, for example {option}={_as_integer(given[1], flag.default_value())}"
    if given is not None and flag.choices is not None:
        near = flag.near_choice(given[1])
        return f"; did you mean {option}={near}?" if near else ""
    example = flag.default_value()
    return f"; for example {option}={example}" if flag.action is None and example not in (None, []) else ""


def _as_integer(text: str, default: Any) -> Any:
    """What a number such as 1e6 looks like as an integer."""
    try:
        return int(float(text))
    except (ValueError, OverflowError):
        return default if isinstance(default, int) else 1


def _without_option(tokens: list[str], option: str) -> list[str]:
    """The tokens without all occurrences of an option and its values."""
    if not option:
        return tokens
    kept: list[str] = []
    dropping = False
    for token in tokens:
        if token == option or token.startswith(f"{option}="):
            dropping = "=" not in token
            continue
        if token.startswith("-") and not re.fullmatch(r"-\d+|-\d*\.\d+", token):
            dropping = False
        if not dropping:
            kept.append(token)
    return kept


def _required_actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in parser._actions if action.required and action.dest != argparse.SUPPRESS]


def _missing_options(
    required: list[argparse.Action], parsed: argparse.Namespace, broken: Collection[str] = ()
) -> list[str]:
    """Problems for required options without a value; those with a broken value are reported already."""
    problems = []
    for action in required:
        if getattr(parsed, action.dest, None) is None and not set(action.option_strings) & set(broken):
            name = "/".join(action.option_strings) or action.dest
            example = "; for example --env=CartPole-v1" if name == "--env" else ""
            problems.append(f"the following arguments are required: {name}{example}")
    return problems
