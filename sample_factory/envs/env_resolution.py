"""From ``cfg.env`` to a registered factory, before any process starts."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import json
import re
from collections.abc import Callable
from os.path import isfile
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as gym

from sample_factory.algo.utils.context import global_env_registry
from sample_factory.cfg.shadowing import flag_value
from sample_factory.envs.gymnasium_compat import import_env_plugin, make_gym_env
from sample_factory.utils.attr_dict import AttrDict
from sample_factory.utils.typing import Config
from sample_factory.utils.utils import cfg_file, log

# What scripts call the function that registers their environments and model components.
_HOOK_NAMES = ("register_custom_components", "register_envs")
_HOOK_PATTERN = re.compile(r"register_\w+_(components|envs)")
_MAX_SUGGESTIONS = 8


class UnknownEnvError(ValueError):
    """Nobody knows an environment of this name. Scripts print the message and exit with code 2."""


def resolve_env(cfg: Config) -> None:
    """Make sure that ``cfg.env`` can be created, in this order:

    1. it is registered already;
    2. ``cfg.env_module`` registers it (on import, or through a ``register_*`` function without arguments);
    3. the module recorded as ``env_module`` in the experiment's config.json registers it;
    4. it is a Gymnasium id (``module:id`` imports the module first).

    :raises UnknownEnvError: none of these, the message lists similar names; or a module named on the command line
        cannot be imported.
    """
    registry = global_env_registry()
    if cfg.env in registry:
        return

    problems: list[str] = []
    given_module = flag_value(cfg, "env_module")
    recorded_module = _recorded_env_module(cfg)
    failed = given_module and not _register_from_module(given_module, cfg.env, problems)
    if failed and "env_module" in (getattr(cfg, "cli_args", None) or {}):
        raise UnknownEnvError(f"--env_module={given_module}: {problems[-1]}; check the name and PYTHONPATH")
    if cfg.env not in registry and recorded_module and recorded_module != given_module:
        if _is_inside_experiments(recorded_module, cfg):
            problems.append(f"module {recorded_module} lies inside the train dir and is not imported")
        else:
            _register_from_module(recorded_module, cfg.env, problems)
    if cfg.env in registry:
        return

    if cfg.env and _is_gymnasium_id(cfg.env, problems):
        registry[cfg.env] = make_gym_env
        return
    raise UnknownEnvError(_unknown_env_message(cfg.env, problems))


def _register_from_module(module_name: str, env_name: str, problems: list[str]) -> bool:
    """Import the module and, if that was not enough, call its registration functions. False if one of it failed."""
    registry = global_env_registry()
    try:
        module = importlib.import_module(module_name)
        for hook in _registration_hooks(module):
            if env_name in registry:
                return True
            log.debug("Calling %s.%s() to register environment %s", module_name, hook.__name__, env_name)
            hook()
    except Exception as exc:
        problems.append(f"importing module {module_name} failed: {exc!r}")
        return False
    if env_name not in registry:
        problems.append(f"module {module_name} does not register it")
    return True


def _registration_hooks(module: ModuleType) -> list[Callable[[], Any]]:
    names = [name for name in _HOOK_NAMES if hasattr(module, name)]
    names += [name for name in vars(module) if _HOOK_PATTERN.fullmatch(name) and name not in names]
    hooks = [getattr(module, name) for name in names]
    return [hook for hook in hooks if inspect.isfunction(hook) and _needs_no_arguments(hook)]


def _needs_no_arguments(func: Callable) -> bool:
    optional_kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(func).parameters.values()
    return all(p.default is not inspect.Parameter.empty or p.kind in optional_kinds for p in parameters)


def _recorded_env_module(cfg: Config) -> str | None:
    """``env_module`` of the experiment's config.json; ``None`` if there is no readable one."""
    if not getattr(cfg, "train_dir", None) or not getattr(cfg, "experiment", None):
        return None
    path = cfg_file(cfg, mkdir=False)
    if not isfile(path):
        return None
    try:
        with open(path) as config_json:
            module_name = flag_value(AttrDict(json.load(config_json)), "env_module")
    except (OSError, ValueError, TypeError):
        return None  # a broken config.json is reported by those who need all of it
    return module_name if isinstance(module_name, str) and module_name else None


def _is_inside_experiments(module_name: str, cfg: Config) -> bool:
    """Whether importing the module would run a file of the train dir.

    config.json is data, possibly downloaded with other files: it may name an installed module, but not bring one along.
    """
    train_dir = Path(cfg.train_dir).resolve()
    parts = module_name.split(".")
    for end in range(1, len(parts) + 1):  # a parent package is imported by the look-up of its child
        try:
            spec = importlib.util.find_spec(".".join(parts[:end]))
        except (ImportError, ValueError):
            return False
        if spec is None:
            return False
        locations = [spec.origin] if spec.origin else []
        locations += list(spec.submodule_search_locations or [])
        if any(Path(location).resolve().is_relative_to(train_dir) for location in locations):
            return True
    return False


def _is_gymnasium_id(env_name: str, problems: list[str]) -> bool:
    try:
        env_id = import_env_plugin(env_name)
        gym.spec(env_id)
        return True
    except ImportError as exc:
        problems.append(str(exc))
    except gym.error.Error as exc:
        if f"{env_name}-v" in _versionless_prefixes() and "-v" not in env_name:
            return True  # gym.make takes the newest version
        problems.append(f"Gymnasium: {exc}")
    return False


def _versionless_prefixes() -> set[str]:
    return {re.sub(r"-v\d+$", "-v", env_id) for env_id in gym.envs.registry}


def _unknown_env_message(env_name: str, problems: list[str]) -> str:
    known = {name.lower(): name for name in [*gym.envs.registry, *global_env_registry()]}
    matches = difflib.get_close_matches(str(env_name).lower(), known, n=_MAX_SUGGESTIONS, cutoff=0.6)
    lines = [f"Unknown environment --env={env_name}."]
    if matches:
        lines.append(f"Similar names: {', '.join(known[match] for match in matches)}.")
    lines += [f"  ({problem})" for problem in problems]
    lines.append(
        "Use a Gymnasium id, or name the module that calls register_env: --env_module=package.module "
        "(in a script of your own: call register_env before run_rl)."
    )
    return "\n".join(lines)
