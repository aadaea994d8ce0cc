"""Registration of environments, and the interfaces environments may implement."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from sample_factory.algo.utils.context import global_env_registry, sf_global_context
from sample_factory.algo.utils.env_interfaces import (
    RewardShapingInterface,
    TrainingInfoInterface,
    find_training_info_interface,
    find_wrapper_interface,
    get_default_reward_shaping,
    num_env_steps,
    set_reward_shaping,
    set_training_info,
)
from sample_factory.algo.utils.levels import LevelInterface, MutableLevelInterface, find_level_interface
from sample_factory.utils.typing import CreateEnvFunc
from sample_factory.utils.utils import is_module_available, log

__all__ = [
    "EnvCriticalError",
    "LevelInterface",
    "MutableLevelInterface",
    "RewardShapingInterface",
    "TrainingInfoInterface",
    "find_level_interface",
    "find_training_info_interface",
    "find_wrapper_interface",
    "get_default_reward_shaping",
    "num_env_steps",
    "register_env",
    "retry",
    "set_reward_shaping",
    "set_training_info",
    "vizdoom_available",
]


class EnvCriticalError(Exception):
    """The environment is broken beyond repair by a reset."""


def register_env(env_name: str, make_env_func: CreateEnvFunc) -> None:
    """Make ``env_name`` known.

    :param make_env_func: picklable ``(full_env_name, cfg=None, env_config=None, render_mode=None) -> env``: a
        module-level function, ``functools.partial``, bound method or class.

    The calling module is remembered, so that an evaluation started later can import it again.
    """
    assert callable(make_env_func), f"{make_env_func=} must be callable"
    registry = global_env_registry()
    if env_name in registry:
        log.warning("Environment %s already registered, overwriting...", env_name)
    registry[env_name] = make_env_func

    module_name = importable_name(sys._getframe(1).f_globals)
    if module_name is not None:
        sf_global_context().env_modules[env_name] = module_name


def importable_name(module_globals: dict[str, Any]) -> str | None:
    """Name under which the module with these globals can be imported later; best effort for scripts."""
    name = module_globals.get("__name__")
    if name not in ("__main__", "__mp_main__"):
        return name
    spec = module_globals.get("__spec__")
    if spec is not None and spec.name not in ("__main__", "__mp_main__"):  # python -m package.module
        return spec.name.removesuffix(".__main__")
    file = module_globals.get("__file__")
    if file is None:
        return None
    path = Path(file).resolve().with_suffix("")
    # `python folder/script.py`: commands started later have the working directory on their path, not the folder
    relative = path.relative_to(Path.cwd()).parts if path.is_relative_to(Path.cwd()) else (path.name,)
    return ".".join(relative) if all(part.isidentifier() for part in relative) else None


def vizdoom_available() -> bool:
    return is_module_available("vizdoom")


def retry(
    exception_class: type[Exception] | tuple[type[Exception], ...] = Exception,
    num_attempts: int = 3,
    sleep_time: float = 1,
) -> Callable:
    """Decorator: try up to ``num_attempts`` times, ``sleep_time`` seconds apart; the last exception is raised."""

    def decorator(func: Callable) -> Callable:
        @wraps(func)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            for attempt in range(1, num_attempts + 1):
                try:
                    return func(*args, **kwargs)
                except exception_class as exc:
                    if attempt == num_attempts:
                        raise
                    log.error("Attempt %d of %d of %s failed: %r", attempt, num_attempts, func.__name__, exc)
                    time.sleep(sleep_time)

        return wrapper

    return decorator
