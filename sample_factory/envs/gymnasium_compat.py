"""What differs between Gymnasium 0.29 and 1.x for people who write environment factories."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sample_factory.algo.utils.context import global_model_factory
from sample_factory.algo.utils.env_layer import OBS_KEY
from sample_factory.algo.utils.gymnasium_utils import convert_space, get_env_attr, patch_non_gymnasium_env
from sample_factory.algo.utils.vector_env_adapter import (
    GYMNASIUM_VERSION,
    AutoresetMode,
    VectorEnvAdapter,
    adapt_vector_env,
    autoreset_mode,
)
from sample_factory.utils.logging import log
from sample_factory.utils.typing import Config, Env

__all__ = [
    "GYMNASIUM_VERSION",
    "ArrayObservations",
    "AutoresetMode",
    "VectorEnvAdapter",
    "adapt_observations",
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
    "BabyAI-": "minigrid",
    "MiniGrid-": "minigrid",
    "NetHack": "nle",
    "Vizdoom": "vizdoom.gymnasium_wrapper",
    "dm_control/": "shimmy",
}
_PLUGIN_OF_INFIX = {"NoFrameskip-": "ale_py"}
_DISTRIBUTION_OF_PLUGIN = {"ale_py": "ale-py"}
# Of images whose channels are last.
_NUM_IMAGE_CHANNELS = (1, 3, 4)


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
    """Factory for any Gymnasium id: ``gym.make``, and :func:`adapt_observations` for the built-in encoders.

    A registered encoder gets arrays as the environment gives them.
    """
    env_id = import_env_plugin(full_env_name)
    env = gym.make(env_id, render_mode=render_mode)
    is_test_instance = env_config is None
    return adapt_observations(env, arrays=not global_model_factory().has_own_encoder, say_so=is_test_instance)


def adapt_observations(env: Env, arrays: bool = True, say_so: bool = True) -> Env:
    """Observations for the built-in encoders.

    Texts of a Dict space are left out. If there are other components than arrays, all are flattened to one vector
    (one-hot); else images get their channels first and scalars a dimension.

    :param arrays: False leaves images and scalars as they are.
    :param say_so: warn about what is left out.
    :raises ValueError: there is nothing that could be flattened.
    """
    space = env.observation_space
    if isinstance(space, spaces.Dict):
        texts = [key for key, sub_space in space.spaces.items() if _is_text(sub_space)]
        if texts:
            if say_so:
                log.warning(
                    "Observations %s are text and left out; register an environment that encodes them to use them",
                    texts,
                )
            env = gym.wrappers.FilterObservation(env, [key for key in space.spaces if key not in texts])
            space = env.observation_space
    if not _has_array_observations(space):
        return _flattened(env)
    if arrays and any(_array_adapter(sub_space) is not None for sub_space in _components(space).values()):
        return ArrayObservations(env)
    return env


def _flattened(env: Env) -> Env:
    try:
        return gym.wrappers.FlattenObservation(env)
    except NotImplementedError as exc:
        raise ValueError(
            f"Observations of the space {env.observation_space} cannot be flattened: register an environment that "
            "turns them into arrays"
        ) from exc


def _is_text(space: gym.Space) -> bool:
    return space.dtype is not None and space.dtype.kind == "U"  # spaces.Text, and those that packages make for strings


def _has_array_observations(space: gym.Space) -> bool:
    return all(isinstance(sub_space, spaces.Box) for sub_space in _components(space).values())


def _components(space: gym.Space) -> dict[str, gym.Space]:
    return dict(space.spaces) if isinstance(space, spaces.Dict) else {OBS_KEY: space}


def _channels_first(image: np.ndarray) -> np.ndarray:
    return np.transpose(image, (2, 0, 1))


def _array_adapter(space: gym.Space) -> Callable[[Any], np.ndarray] | None:
    """What observations of this space need; ``None`` if they are fine."""
    shape = space.shape
    assert shape is not None
    if shape == ():
        return np.atleast_1d
    is_image = len(shape) == 3 and shape[2] in _NUM_IMAGE_CHANNELS and shape[0] > max(_NUM_IMAGE_CHANNELS)
    return _channels_first if is_image else None


class ArrayObservations(gym.ObservationWrapper):
    """Images ``[H, W, C]`` become ``[C, H, W]``, scalars ``[1]``; also as components of a Dict space."""

    def __init__(self, env: Env):
        super().__init__(env)
        space = env.observation_space
        components = _components(space)
        self._is_dict = isinstance(space, spaces.Dict)
        self._adapters = {key: _array_adapter(sub_space) for key, sub_space in components.items()}
        adapted = {key: self._adapted_space(key, sub_space) for key, sub_space in components.items()}
        self.observation_space = spaces.Dict(adapted) if self._is_dict else adapted[OBS_KEY]

    def observation(self, observation: Any) -> Any:
        if not self._is_dict:
            return self._adapted(OBS_KEY, observation)
        return {key: self._adapted(key, value) for key, value in observation.items()}

    def _adapted(self, key: str, value: Any) -> Any:
        adapter = self._adapters[key]
        return value if adapter is None else adapter(value)

    def _adapted_space(self, key: str, space: gym.Space) -> gym.Space:
        if self._adapters[key] is None:
            return space
        assert isinstance(space, spaces.Box)
        return spaces.Box(self._adapted(key, space.low), self._adapted(key, space.high), dtype=space.dtype)  # type: ignore
