"""Parsing, merging and checking of configurations: the entry points that scripts use.

A script parses twice: ``parse_sf_args`` before it has added its own options (their names and defaults may depend on
the environment), and ``parse_full_cfg`` afterwards.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import NoReturn

from sample_factory.cfg.cfg import (
    add_basic_cli_args,
    add_curriculum_args,
    add_default_env_args,
    add_eval_args,
    add_model_args,
    add_pbt_args,
    add_rl_args,
    add_wandb_args,
)
from sample_factory.cfg.flags import FLAGS
from sample_factory.cfg.parser import FlagHelpFormatter, FlagParser, options_given
from sample_factory.cfg.persistence import (
    MACHINE_DEFAULTS_KEY,
    MACHINE_DEPENDENT_FLAGS,
    cfg_dict,
    config_path,
    merge_saved,
    read_or_rebuild_config,
    require_saved_config,
    save_config,
)
from sample_factory.cfg.rules import EnvShape, fitting_heartbeat_interval, resolve_recurrence
from sample_factory.cfg.shadowing import SHADOWED_KEY, record_shadowed
from sample_factory.cfg.validation import collect_problems, command_line_problems, verify_cfg
from sample_factory.utils.attr_dict import AttrDict
from sample_factory.utils.typing import Config
from sample_factory.utils.utils import get_git_commit_hash, log

__all__ = [
    "cfg_dict",
    "cfg_str",
    "checkpoint_override_defaults",
    "default_cfg",
    "load_from_checkpoint",
    "maybe_load_from_checkpoint",
    "parse_full_cfg",
    "parse_sf_args",
    "postprocess_args",
    "preprocess_cfg",
    "save_config",
    "verify_cfg",
]


def parse_sf_args(argv: Sequence[str] | None = None, evaluation: bool = False) -> tuple[ArgumentParser, Namespace]:
    """First pass: a parser with all built-in options, and what it understands of the command line.

    Unknown options are ignored, broken values count as not given; the second pass reports both. Exits with code 2 if
    ``--env`` is missing, unless help is asked for: then ``env`` is an empty string.
    """
    p = FlagParser(
        usage="%(prog)s --env=ENV [--flag=VALUE ...]",  # a list of 140 flags would push the help off the screen
        formatter_class=FlagHelpFormatter,
        add_help=False,
    )
    add_basic_cli_args(p)
    add_rl_args(p)
    add_model_args(p)
    add_default_env_args(p)
    add_wandb_args(p)
    add_pbt_args(p)
    add_curriculum_args(p)
    if evaluation:
        add_eval_args(p)
    argv = list(sys.argv[1:] if argv is None else argv)
    partial_cfg, problems = p.parse_leniently(argv)
    if problems:
        _exit_with(p, problems + command_line_problems(options_given(p, argv), partial_cfg))
    if partial_cfg.env is None:
        # Only with --help. Scripts look at the name before they add options, and should get as far as printing them.
        partial_cfg.env = ""
    return p, partial_cfg


def parse_full_cfg(parser: ArgumentParser, argv: Sequence[str] | None = None) -> Namespace:
    """Second pass: the complete configuration. Exits with code 2 and a list of all problems if there are any."""
    argv = list(sys.argv[1:] if argv is None else argv)
    problems: list[str] = []
    if isinstance(parser, FlagParser):
        args, problems = parser.parse_strictly(argv)
    else:
        args = parser.parse_args(argv)
    args = postprocess_args(args, argv, parser)
    problems += command_line_problems(args.cli_args, args)
    if problems:
        # Nothing will be merged in any more, so what is wrong with combinations of flags can be said, too.
        _exit_with(parser, list(dict.fromkeys(problems + collect_problems(args))))
    return args


def _exit_with(parser: ArgumentParser, problems: list[str]) -> NoReturn:
    """Print all problems, each on its own line, and exit with code 2."""
    parser.error(problems[0] if len(problems) == 1 else "\n  ".join([f"{len(problems)} problems", *problems]))


def postprocess_args(args: Namespace, argv: Sequence[str], parser: ArgumentParser) -> Namespace:
    """Print help and exit if asked to; otherwise record how the program was started.

    Adds ``command_line``, ``cli_args`` (options really given, with parsed values), ``git_hash``, ``git_repo_name`` and
    ``machine_defaults`` (flags whose value is nothing but the default of this machine).
    """
    if getattr(args, "help", False):
        parser.print_help()
        sys.exit(0)
    args.command_line = " ".join(argv)
    args.cli_args = options_given(parser, argv)
    args.git_hash, args.git_repo_name = _git_provenance()
    untouched = [
        name
        for name in MACHINE_DEPENDENT_FLAGS
        if name not in args.cli_args and getattr(args, name, None) == FLAGS[name].default_value()
    ]
    setattr(args, MACHINE_DEFAULTS_KEY, untouched)
    record_shadowed(args, parser)
    return args


def _git_provenance() -> tuple[str, str]:
    """Commit and repository; a broken or missing git must not stop a run."""
    try:
        return get_git_commit_hash()
    except OSError as error:
        log.debug(f"git cannot be asked for the commit: {error}")
        return "unknown", "not a git repository"


def preprocess_cfg(cfg: Config, env_info: EnvShape) -> bool:
    """Replace automatic values in ``cfg`` and those that would end a healthy run, then ``verify_cfg``."""
    cfg.recurrence = resolve_recurrence(cfg.use_rnn, cfg.with_vtrace, cfg.rollout, cfg.recurrence)
    interval = fitting_heartbeat_interval(cfg.heartbeat_interval, cfg.heartbeat_reporting_interval)
    if interval != cfg.heartbeat_interval:
        log.warning(
            f"--heartbeat_interval={cfg.heartbeat_interval} is not below --heartbeat_reporting_interval="
            f"{cfg.heartbeat_reporting_interval}, so healthy components would look dead: {interval:g} is used"
        )
        cfg.heartbeat_interval = interval
    return verify_cfg(cfg, env_info)


def cfg_str(cfg: Config) -> str:
    """One line ``key=value`` per entry."""
    return "\n".join(f"{key}={value}" for key, value in cfg_dict(cfg).items())


def default_cfg(algo: str = "APPO", env: str = "env", experiment: str = "test") -> Namespace:
    """Configuration of a command line that gives only these three options."""
    argv = [f"--algo={algo}", f"--env={env}", f"--experiment={experiment}"]
    parser, _ = parse_sf_args(argv)
    return parse_full_cfg(parser, argv)


def load_from_checkpoint(cfg: Config) -> AttrDict:
    """The saved configuration of an experiment, with values of the new command line on top.

    A broken or missing ``config.json`` is rebuilt from the copy in a checkpoint.

    Raises:
        FileNotFoundError: the experiment has no saved configuration.
        ConfigError: the file is broken for good, or the experiment name leads outside the train dir.
    """
    saved = require_saved_config(cfg)
    log.warning(f"Loading existing experiment configuration from {config_path(cfg)}")
    return merge_saved(cfg, saved)


def maybe_load_from_checkpoint(cfg: Config) -> AttrDict:
    """As ``load_from_checkpoint``; an experiment without a saved configuration uses the new one alone.

    Raises:
        ConfigError: the file is broken for good, or the experiment name leads outside the train dir.
    """
    saved = read_or_rebuild_config(cfg)
    if saved is None:
        log.warning(f"Saved parameter configuration for experiment {cfg.experiment} not found!")
        log.warning(f"Starting experiment from scratch, there is no {config_path(cfg)}")
        return cfg_dict(cfg)
    log.warning(f"Loading existing experiment configuration from {config_path(cfg)}")
    return merge_saved(cfg, saved)


def checkpoint_override_defaults(cfg: Config, parser: ArgumentParser) -> AttrDict:
    """Make the saved values of an experiment the defaults of ``parser``, between the two passes.

    After ``parse_full_cfg`` the command line wins over saved values, and those over defaults of the script. Facts about
    one start of the program are not taken over.

    Raises:
        FileNotFoundError: the experiment has no saved configuration.
        ConfigError: the file is broken for good, or the experiment name leads outside the train dir.
    """
    saved = require_saved_config(cfg)
    loaded = merge_saved(Namespace(**{**cfg_dict(cfg), "cli_args": {}}), saved)
    parser.set_defaults(**{key: value for key, value in loaded.items() if key in saved or key == SHADOWED_KEY})
    return loaded
