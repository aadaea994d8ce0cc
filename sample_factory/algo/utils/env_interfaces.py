"""Interfaces through which training talks to environments: reward shaping, training info, frames per step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from sample_factory.utils.typing import Env

_Interface = TypeVar("_Interface")


class RewardShapingInterface:
    """Mixin for environments whose reward consists of weighted terms; the weights are the *scheme*."""

    def get_default_reward_shaping(self) -> dict[str, Any] | None:
        """The scheme a policy starts with."""
        raise NotImplementedError

    def set_reward_shaping(self, reward_shaping: dict[str, Any], agent_idx: int | slice) -> None:
        """Use this scheme from now on for one agent or a slice of agents."""
        raise NotImplementedError


class TrainingInfoInterface:
    """Mixin for environments that want to know how far training is."""

    def __init__(self) -> None:
        self.training_info: dict[str, Any] = {}

    def set_training_info(self, training_info: dict[str, Any]) -> None:
        self.training_info = training_info


def find_wrapper_interface(env: Env, interface_type: type[_Interface]) -> _Interface | None:
    """The outermost layer of ``env`` that is an ``interface_type``; ``None`` if no layer is."""
    layer = env
    while layer is not None:
        if isinstance(layer, interface_type):
            return layer
        if layer is getattr(layer, "unwrapped", layer):
            return None
        layer = getattr(layer, "env", None)
    return None


def get_default_reward_shaping(env: Env) -> dict[str, Any] | None:
    interface = find_wrapper_interface(env, RewardShapingInterface)
    return None if interface is None else interface.get_default_reward_shaping()


def set_reward_shaping(env: Env, reward_shaping: dict[str, Any] | None, agent_idx: int | slice) -> None:
    """Does nothing without a scheme, or if the environment has no reward shaping."""
    interface = find_wrapper_interface(env, RewardShapingInterface)
    if interface is not None and reward_shaping is not None:
        interface.set_reward_shaping(reward_shaping, agent_idx)


def find_training_info_interface(env: Env) -> TrainingInfoInterface | None:
    return find_wrapper_interface(env, TrainingInfoInterface)


def set_training_info(training_info_interface: TrainingInfoInterface | None, training_info: dict[str, Any]) -> None:
    if training_info_interface is not None:
        training_info_interface.set_training_info(training_info)


def num_env_steps(infos: Iterable[dict[str, Any]]) -> int:
    """Simulated frames behind these infos: an environment that skips frames says so in ``info["num_frames"]``."""
    return sum(info.get("num_frames", 1) for info in infos)
