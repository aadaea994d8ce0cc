"""Gymnasium's MuJoCo environments (``pip install gymnasium[mujoco]``)."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Any

import gymnasium as gym

from sample_factory.utils.typing import Config, Env
from sample_factory.utils.utils import is_module_available

_PREFERRED_VERSION = "-v4"
_FALLBACK_VERSION = "-v5"


def mujoco_available() -> bool:
    """Whether MuJoCo is installed (there is no support for macOS on ARM)."""
    is_mac_arm = platform.system() == "Darwin" and platform.machine() == "arm64"
    return is_module_available("mujoco") and not is_mac_arm


@dataclass
class MujocoSpec:
    """Name of an environment here, and its Gymnasium id."""

    name: str
    env_id: str


MUJOCO_ENVS = [
    MujocoSpec("mujoco_hopper", "Hopper-v4"),
    MujocoSpec("mujoco_halfcheetah", "HalfCheetah-v4"),
    MujocoSpec("mujoco_humanoid", "Humanoid-v4"),
    MujocoSpec("mujoco_ant", "Ant-v4"),
    MujocoSpec("mujoco_standup", "HumanoidStandup-v4"),
    MujocoSpec("mujoco_doublependulum", "InvertedDoublePendulum-v4"),
    MujocoSpec("mujoco_pendulum", "InvertedPendulum-v4"),
    MujocoSpec("mujoco_reacher", "Reacher-v4"),
    MujocoSpec("mujoco_walker", "Walker2d-v4"),
    MujocoSpec("mujoco_pusher", "Pusher-v4"),
    MujocoSpec("mujoco_swimmer", "Swimmer-v4"),
]


def mujoco_env_by_name(name: str) -> MujocoSpec:
    """:raises ValueError: unknown name."""
    for spec in MUJOCO_ENVS:
        if spec.name == name:
            return spec
    raise ValueError(f"Unknown Mujoco env {name!r}, known: {[spec.name for spec in MUJOCO_ENVS]}")


def make_mujoco_env(
    env_name: str, _cfg: Config | None, _env_config: Any, render_mode: str | None = None, **kwargs: Any
) -> Env:
    env_id = mujoco_env_by_name(env_name).env_id
    if env_id not in gym.envs.registry:  # deprecated versions are removed from Gymnasium from time to time
        env_id = env_id.replace(_PREFERRED_VERSION, _FALLBACK_VERSION)
    return gym.make(env_id, render_mode=render_mode, **kwargs)
