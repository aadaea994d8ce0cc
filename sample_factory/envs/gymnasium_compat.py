"""What differs between Gymnasium 0.29 and 1.x for people who write environment factories."""

from __future__ import annotations

import importlib
from typing import Any

import gymnasium as gym
from gymnasium import spaces

from sample_factory.algo.utils.gymnasium_utils import convert_space, get_env_attr, patch_non_gymnasium_env
from sample_factory.algo.utils.vector_env_adapter import (
    GYMNASIUM_VERSION,
    AutoresetMode,
    VectorEnvAdapter,
    adapt_vector_env,
    autoreset_mode,
)
from sample_factory.utils.typing import Config, Env

__all__ = [
    "GYMNASIUM_VERSION",
    "AutoresetMode",
    "VectorEnvAdapter",
    "adapt_vector_env",
    "autoreset_mode",
    "convert_space",
    "get_env_attr",
    "gymnasium_wrapper",
    "import_env_plugin",
    "make_gym_env",
    "patch_non_gymnasium_env",
]

# Names since 1.0 -> names in 0.29.
_OLD_WRAPPER_NAMES = {
    "AddRenderObservation": "PixelObservationWrapper",
    "Autoreset": "AutoResetWrapper",
    "DictInfoToList": "VectorListInfo",
    "FrameStackObservation": "FrameStack",
    "GrayscaleObservation": "GrayScaleObservation",
}
# Since 1.0 packages register their environments when they are imported, and nobody else does that.
_PLUGIN_OF_PREFIX = {
    "ALE/": "ale_py",
    "MiniGrid-": "minigrid",
    "BabyAI-": "minigrid",
    "Vizdoom": "vizdoom.gymnasium_wrapper",
}
_PLUGIN_OF_INFIX = {"NoFrameskip-": "ale_py"}
_DISTRIBUTION_OF_PLUGIN = {"ale_py": "ale-py"}


def gymnasium_wrapper(name: str) -> Any:
    """The Gymnasium wrapper with this (1.x) name, whatever it is called in the installed version.

    :raises AttributeError: there is none.
    """
    modules = [gym.wrappers]
    if (hasattr(gym, "vector") and hasattr(gym.vector, "wrappers")) or GYMNASIUM_VERSION >= (1, 0):
        modules.append(importlib.import_module("gymnasium.wrappers.vector"))
    for module in modules:
        for candidate in (name, _OLD_WRAPPER_NAMES.get(name, name)):
            try:
                return getattr(module, candidate)
            except AttributeError:  # 1.x raises one with advice for old names
                continue
    raise AttributeError(f"Gymnasium {gym.__version__} has no wrapper {name!r}")


def import_env_plugin(env_id: str) -> str:
    """Import what registers this Gymnasium id, if known, and return the id without a ``module:`` prefix.

    :raises ImportError: ``env_id`` names a module that cannot be imported, or belongs to a package that is missing.
    """
    if ":" in env_id:
        module_name, _, env_id = env_id.partition(":")
        importlib.import_module(module_name)
        return env_id
    matches = [module for prefix, module in _PLUGIN_OF_PREFIX.items() if env_id.startswith(prefix)]
    matches += [module for infix, module in _PLUGIN_OF_INFIX.items() if infix in env_id]
    for module_name in matches:
        try:
            importlib.import_module(module_name)
        except ImportError as exc:
            if env_id in gym.envs.registry:
                continue  # somebody else has registered it
            package = module_name.partition(".")[0]
            package = _DISTRIBUTION_OF_PLUGIN.get(package, package)
            raise ImportError(f"{env_id} is of the package {package} ({exc}); pip install {package}") from exc
    return env_id


def make_gym_env(
    full_env_name: str, cfg: Config | None = None, env_config: Any = None, render_mode: str | None = None
) -> Env:
    """Factory for any Gymnasium id: ``gym.make``, observations that are no (dict of) arrays flattened to one-hot."""
    env_id = import_env_plugin(full_env_name)
    env = gym.make(env_id, render_mode=render_mode)
    if not _has_array_observations(env.observation_space):
        env = gym.wrappers.FlattenObservation(env)
    return env


def _has_array_observations(space: gym.Space) -> bool:
    if isinstance(space, spaces.Dict):
        return all(isinstance(sub_space, spaces.Box) for sub_space in space.spaces.values())
    return isinstance(space, spaces.Box)
