"""Configurations and spaces for tests that build models."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from sample_factory.utils.attr_dict import AttrDict

_DEFAULTS: dict[str, Any] = {
    "normalize_input": True,
    "normalize_input_keys": None,
    "normalize_returns": True,
    "obs_subtract_mean": 0.0,
    "obs_scale": 1.0,
    "encoder_mlp_layers": [512, 512],
    "encoder_conv_architecture": "convnet_simple",
    "encoder_conv_mlp_layers": [512],
    "use_rnn": True,
    "rnn_size": 512,
    "rnn_type": "gru",
    "rnn_num_layers": 1,
    "decoder_mlp_layers": [],
    "nonlinearity": "elu",
    "policy_initialization": "orthogonal",
    "policy_init_gain": 1.0,
    "actor_critic_share_weights": True,
    "adaptive_stddev": True,
    "continuous_tanh_scale": 0.0,
    "initial_stddev": 1.0,
    "optimizer": "adam",
    "learning_rate": 1e-4,
    "adam_eps": 1e-6,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
}


def model_cfg(**overrides: Any) -> AttrDict:
    """Default values of the flags that models and optimisers read, with some replaced."""
    return AttrDict({**_DEFAULTS, **overrides})


def vector_obs(size: int = 4) -> spaces.Dict:
    return spaces.Dict(obs=spaces.Box(-1.0, 1.0, (size,), np.float32))


def image_obs(*shape: int) -> spaces.Dict:
    return spaces.Dict(obs=spaces.Box(0, 255, shape, np.uint8))


def box_actions(size: int) -> spaces.Box:
    return spaces.Box(-1.0, 1.0, (size,), np.float32)
