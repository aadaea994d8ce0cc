"""Type aliases shared by all packages. Imports no torch, so environment processes stay light."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gymnasium as gym

from sample_factory.utils.attr_dict import AttrDict

if TYPE_CHECKING:
    import torch

Config = Namespace | AttrDict
StatusCode = int

PolicyID = int
Device = str

MpQueue = Any
MpLock = Any

Env = Any
ObsSpace = gym.spaces.Space | gym.spaces.Dict
ActionSpace = gym.spaces.Space | gym.spaces.Tuple
ActionDistribution = Any

# (full_env_name, cfg, env_config, render_mode) -> environment
CreateEnvFunc = Callable[[str, Config | None, AttrDict | None, str | None], Env]

# (policy_id, state_dict, device, policy_version)
InitModelData = tuple[PolicyID, dict, "torch.device", int]
