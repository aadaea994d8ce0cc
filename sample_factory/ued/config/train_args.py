"""From the command line of the training to its checked configuration."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sample_factory.cfg.errors import ConfigError
from sample_factory.ued.config.checks import problems_of, torch_device
from sample_factory.ued.config.files import as_text, find_config, load_config
from sample_factory.ued.config.nested import Config
from sample_factory.ued.config.parser import Tokens, parse_tokens, tokenize

# Options of mazes that decide what a network gets to see; test environments share them.
_SHAPES_OF_OBSERVATIONS = ("one_hot_obs", "agent_view_size", "obs_agent_pos")


@dataclass(frozen=True)
class TrainArgs:
    """A configuration that passed all checks.

    Attributes:
        config: nested, as it is stored in ``meta.json``.
        values: the same under full flag names.
    """

    config: Config
    values: dict[str, Any]


def parse_train_args(argv: Sequence[str] | None = None) -> TrainArgs:
    """Parse and check; ConfigError with all problems. Imports the module of ``--env_module``."""
    tokens = tokenize(sys.argv[1:] if argv is None else argv)
    texts = dict(tokens)
    if texts.get("config") is not None:
        tokens = _of_file(str(texts["config"]), given=texts) + tokens
        texts = dict(tokens)
    if texts.get("env_module") is not None:
        import_module(str(texts["env_module"]))
    parsed = parse_tokens(tokens)
    # Rules across flags would only repeat what is wrong with a single one.
    problems = parsed.problems or problems_of(parsed.values)
    if problems:
        raise ConfigError(problems)
    parsed.config.device = parsed.values["device"] = torch_device(parsed.values["device"])
    return TrainArgs(complete(parsed.config), parsed.values)


def _of_file(name: str, given: dict[str, str | None]) -> Tokens:
    try:
        args = load_config(find_config(name)).single_args()
    except ValueError as exc:
        raise ConfigError([str(exc)]) from exc
    return [(flag, as_text(value)) for flag, value in args.items() if flag not in given]


def import_module(name: str) -> None:
    """Import a module that registers things; ConfigError if that is impossible."""
    try:
        importlib.import_module(name)
    except (ImportError, ValueError) as exc:  # ValueError: an empty name
        raise ConfigError([f"--env_module={name}: cannot be imported: {exc}"]) from exc


def complete(config: Config) -> Config:
    """Fill in the defaults that depend on other flags.

    A final learning rate of none is the first one; equal rates have no schedule. The teacher takes over what it has
    none of its own.
    """
    args = config.train_runner_args
    if args.lr_final is None:
        args.lr_final = args.lr
    if args.lr_final == args.lr:
        args.lr_anneal_steps = 0
    if config.train_runner == "paired":
        args.teacher_lr = args.lr if args.teacher_lr is None else args.teacher_lr
        args.teacher_lr_final = args.lr_final if args.teacher_lr_final is None else args.teacher_lr_final
        first_lr = args.lr if config.ued_compat == "minimax" else args.teacher_lr
        if first_lr == args.teacher_lr_final:
            args.teacher_lr_anneal_steps = 0
    if config.env_args.sample_n_walls:
        config.env_args.replace_wall_pos = False
    for name in _SHAPES_OF_OBSERVATIONS:
        if name in config.env_args:
            config.eval_env_args[name] = config.env_args[name]
    return config
