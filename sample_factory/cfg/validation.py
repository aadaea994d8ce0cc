"""Checks of a configuration before any process is started; every problem names flag, value and repair."""

from __future__ import annotations

import multiprocessing
from typing import Any

from sample_factory.cfg.errors import ConfigError
from sample_factory.cfg.experiment_path import experiment_problems
from sample_factory.cfg.flags import EVALUATION_FLAGS, FLAGS, TRAINING_FLAGS, Flag, training_defaults
from sample_factory.cfg.persistence import cfg_dict
from sample_factory.cfg.rules import ENV_RULES, EVALUATION_RULES, TRAINING_RULES, EnvShape, Rule, warnings
from sample_factory.cfg.shadowing import builtin_values, shadowed_flags
from sample_factory.utils.attr_dict import AttrDict
from sample_factory.utils.typing import Config
from sample_factory.utils.utils import log

__all__ = [
    "ConfigError",
    "check_cfg_before_evaluation",
    "check_cfg_before_start",
    "collect_problems",
    "command_line_problems",
    "resolve_device",
    "verify_cfg",
]


def collect_problems(cfg: Config, env_info: EnvShape | None = None) -> list[str]:
    """All reasons why training with this configuration cannot work; empty if there are none.

    Flags that the configuration does not have count as their default. Rules that need the number of agents are
    checked only if ``env_info`` is given.
    """
    values = _with_defaults(cfg)
    broken = _flag_problems(values, TRAINING_FLAGS)
    problems = [*broken.values(), *_path_problems(values, broken), *_gpu_problems(values, broken)]
    problems += _rule_problems(TRAINING_RULES, values, broken)
    if env_info is not None:
        applicable = [rule for rule in ENV_RULES if broken.keys().isdisjoint(rule.reads)]
        problems += [text for rule in applicable if (text := rule.check(values, env_info)) is not None]
    return problems


def collect_evaluation_problems(cfg: Config) -> list[str]:
    """All reasons why this configuration cannot be evaluated. How experience is collected in training is ignored."""
    values = AttrDict({name: flag.default_value() for name, flag in EVALUATION_FLAGS.items()} | _with_defaults(cfg))
    broken = _flag_problems(values, FLAGS)
    return [*broken.values(), *_path_problems(values, broken), *_rule_problems(EVALUATION_RULES, values, broken)]


def check_cfg_before_start(cfg: Config) -> None:
    """Check everything that needs no environment.

    Raises:
        ConfigError: with all problems.
    """
    problems = collect_problems(cfg)
    if problems:
        raise ConfigError(problems)


def check_cfg_before_evaluation(cfg: Config) -> None:
    """Check a configuration for evaluation, after the saved one was merged in.

    Raises:
        ConfigError: with all problems.
    """
    problems = collect_evaluation_problems(cfg)
    if problems:
        raise ConfigError(problems)


def verify_cfg(cfg: Config, env_info: EnvShape) -> bool:
    """Log all problems and warnings; never raises.

    Returns:
        True if training can start.
    """
    problems = collect_problems(cfg, env_info)
    for problem in problems:
        for line in problem.splitlines():
            log.error(line)
    if not problems:
        for warning in warnings(_with_defaults(cfg)):
            log.warning(warning)
    return not problems


def command_line_problems(cli_args: dict[str, Any], cfg: Config) -> list[str]:
    """Problems of single values given on the command line.

    Rules over several flags wait for ``check_cfg_before_start``: a saved configuration may be merged in, and scripts
    may still change values.
    """
    names = [name for name in cli_args if name in FLAGS and name not in shadowed_flags(cfg)]
    broken = {name: text for name in names if (text := FLAGS[name].problem(cli_args[name])) is not None}
    problems = list(broken.values())
    if "experiment" in cli_args or "train_dir" in cli_args:
        problems += _path_problems(_with_defaults(cfg), broken)
    return problems


def resolve_device(cfg: Config) -> str:
    """``"gpu"`` or ``"cpu"``: where policies really live. The configuration is left as it is.

    Asking for a GPU on a machine without one is logged once, by the main process.
    """
    if cfg.device == "cpu":
        return "cpu"
    import torch  # not at the top: environment processes read configurations without torch

    if torch.cuda.is_available():
        return "gpu"
    if not _missing_gpu_reported and multiprocessing.parent_process() is None:
        log.warning("No GPU can be used on this machine: --device=gpu falls back to the CPU (--device=cpu)")
        _missing_gpu_reported.append(True)
    return "cpu"


_missing_gpu_reported: list[bool] = []


def _with_defaults(cfg: Config) -> AttrDict:
    return AttrDict(builtin_values({**training_defaults(), **cfg_dict(cfg)}))


def _flag_problems(values: AttrDict, flags: dict[str, Flag]) -> dict[str, str]:
    return {name: text for name, flag in flags.items() if (text := flag.problem(values[name])) is not None}


def _rule_problems(rules: tuple[Rule, ...], values: AttrDict, broken: dict[str, str]) -> list[str]:
    applicable = [rule for rule in rules if broken.keys().isdisjoint(rule.reads)]
    return [text for rule in applicable if (text := rule.check(values)) is not None]


def _path_problems(values: AttrDict, broken: dict[str, str]) -> list[str]:
    if not broken.keys().isdisjoint(("train_dir", "experiment")):
        return []
    return experiment_problems(values.train_dir, values.experiment)


def _gpu_problems(values: AttrDict, broken: dict[str, str]) -> list[str]:
    """GPUs for rollout workers have to exist; the fall-back to the CPU is only for policies."""
    gpus = values.actor_worker_gpus
    if "actor_worker_gpus" in broken or not gpus:
        return []
    import torch  # see resolve_device

    available = torch.cuda.device_count()
    if max(gpus) < available:
        return []
    repair = f"use indices below {available}" if available else "give --actor_worker_gpus without values"
    return [f"--actor_worker_gpus={' '.join(map(str, gpus))}: this machine has {available} GPUs; {repair}"]
