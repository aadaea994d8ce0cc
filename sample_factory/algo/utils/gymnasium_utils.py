"""Differences between environment interfaces: attribute look-up through wrappers, conversion of legacy gym objects."""

from __future__ import annotations

import inspect
from typing import Any

import gymnasium as gym

from sample_factory.utils.typing import ActionSpace, Env, ObsSpace

_MISSING = object()


def get_env_attr(env: Env, name: str, default: Any = None) -> Any:
    """Attribute ``name`` of the outermost layer of ``env`` that has it, else ``default``.

    Gymnasium 0.29 forwards attributes through wrappers (with a warning), 1.x does not. This function walks the layers
    itself, so it answers the same on both.
    """
    layer = env
    while layer is not None:
        value = _layer_attr(layer, name)
        if value is not _MISSING:
            return value
        inner = _layer_attr(layer, "env")
        layer = None if inner is _MISSING or inner is layer else inner
    return default


def _layer_attr(layer: Any, name: str) -> Any:
    """Attribute of this layer alone: a Gymnasium wrapper is not asked to forward."""
    try:
        if isinstance(layer, gym.Wrapper) and inspect.getattr_static(layer, name, _MISSING) is _MISSING:
            return _MISSING
        return getattr(layer, name, _MISSING)
    except AttributeError:
        return _MISSING


def _is_legacy(obj: Any) -> bool:
    """Whether the class of ``obj`` comes from the old ``gym`` package (without importing that)."""
    return any(cls.__module__.split(".")[0] == "gym" for cls in type(obj).__mro__)


def _shimmy_compatibility() -> Any:
    try:
        from shimmy import openai_gym_compatibility
    except ImportError as exc:
        raise ImportError(
            "This environment uses the legacy gym interface. Install the converter with `pip install shimmy`."
        ) from exc
    return openai_gym_compatibility


def convert_space(space: Any) -> ObsSpace | ActionSpace:
    """Gymnasium spaces pass through, spaces of the old ``gym`` are converted.

    :raises ImportError: legacy space, but shimmy is not installed.
    :raises ValueError: neither a Gymnasium nor a gym space.
    """
    if isinstance(space, gym.spaces.Space):
        return space
    if _is_legacy(space):
        return _shimmy_compatibility()._convert_space(space)
    raise ValueError(f"Unknown space {space!r} of type {type(space)}: use a space from gymnasium.spaces")


def patch_non_gymnasium_env(env: Any) -> Env:
    """Gymnasium environments (vectorised ones too) pass through, environments of the old ``gym`` are converted.

    ``num_agents`` and ``is_multiagent`` survive the conversion.

    :raises ImportError: legacy environment, but shimmy is not installed.
    :raises ValueError: neither a Gymnasium nor a gym environment.
    """
    if isinstance(env, (gym.Env, gym.vector.VectorEnv)):
        return env
    if not _is_legacy(env):
        raise ValueError(f"Unknown environment type {type(env)}: derive the environment from gymnasium.Env")

    compatibility = _shimmy_compatibility()
    converter = compatibility.GymV26CompatibilityV0 if _legacy_gym_is_new() else compatibility.GymV21CompatibilityV0
    converted = converter(env=env)
    for name in ("num_agents", "is_multiagent"):
        value = getattr(env, name, None)
        if value is not None:
            setattr(converted, name, value)
    return converted


def _legacy_gym_is_new() -> bool:
    """gym 0.26 returns five values from ``step``, older versions four."""
    import gym as legacy_gym

    major, minor = (int(part) for part in legacy_gym.__version__.split(".")[:2])
    return (major, minor) >= (0, 26)
