"""Command-line options for the entries a training script added to its configuration."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any

from sample_factory.cfg.persistence import flags_of_script
from sample_factory.utils.utils import str2bool

# Entries of config.json that describe a run and are no options.
_NOT_OPTIONS = frozenset(
    {"command_line", "cli_args", "git_hash", "git_repo_name", "machine_defaults", "shadowed_flags", "wandb_unique_id"}
)


def add_recorded_args(parser: ArgumentParser, saved: Mapping[str, Any]) -> None:
    """Add an option for every entry of a saved configuration that the parser does not know.

    An evaluation from the command line so takes the custom flags of the training script without importing it; the
    type follows from the recorded value, which is also the default. Where the training script had an option that is
    called like a flag of ours, it is that option.
    """
    known = {action.dest for action in parser._actions} - flags_of_script(saved)
    group = parser.add_argument_group("Recorded by the training script")
    for name, value in saved.items():
        if name not in known and name not in _NOT_OPTIONS and _is_option_value(value):
            group.add_argument(f"--{name}", **_argparse_kwargs(value))


def _is_option_value(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_scalar(item) for item in value)
    return value is None or _is_scalar(value)


def _is_scalar(value: Any) -> bool:
    return isinstance(value, (bool, int, float, str))


def _argparse_kwargs(value: Any) -> dict[str, Any]:
    if isinstance(value, list):
        return {"type": _scalar_type(value[0]) if value else str, "nargs": "*", "default": value}
    return {"type": _scalar_type(value), "default": value}


def _scalar_type(value: Any) -> Any:
    if isinstance(value, bool):
        return str2bool
    # JSON does not tell 1.0 from 1 for flags whose type is float, so whole numbers accept fractions too.
    if isinstance(value, (int, float)):
        return _number
    return str


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)
