"""Names, shapes and order of the weights: checkpoints of other installations depend on them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from sample_factory.model.actor_critic import create_actor_critic
from tests.model_configs import box_actions, image_obs, model_cfg, vector_obs

Layout = list[tuple[str, tuple[int, ...]]]


def _linear(name: str, out_size: int, in_size: int) -> Layout:
    return [(f"{name}.weight", (out_size, in_size)), (f"{name}.bias", (out_size,))]


def _conv(name: str, out_channels: int, in_channels: int, kernel: int) -> Layout:
    return [(f"{name}.weight", (out_channels, in_channels, kernel, kernel)), (f"{name}.bias", (out_channels,))]


def _rnn(name: str, num_gates: int, in_size: int, size: int, num_layers: int = 1) -> Layout:
    layout: Layout = []
    for layer in range(num_layers):
        layout += [
            (f"{name}.weight_ih_l{layer}", (num_gates * size, in_size if layer == 0 else size)),
            (f"{name}.weight_hh_l{layer}", (num_gates * size, size)),
            (f"{name}.bias_ih_l{layer}", (num_gates * size,)),
            (f"{name}.bias_hh_l{layer}", (num_gates * size,)),
        ]
    return layout


def _heads(size: int, num_parameters: int) -> Layout:
    return _linear("critic_linear", 1, size) + _linear(
        "action_parameterization.distribution_linear", num_parameters, size
    )


def _normalizers(**shapes: tuple[int, ...]) -> Layout:
    layout: Layout = []
    for key, shape in shapes.items():
        prefix = f"obs_normalizer.running_mean_std.running_mean_std.{key}"
        layout += [(f"{prefix}.running_mean", shape), (f"{prefix}.running_var", shape), (f"{prefix}.count", (1,))]
    return layout + [(f"returns_normalizer.{name}", (1,)) for name in ("running_mean", "running_var", "count")]


def _resnet(prefix: str) -> Layout:
    layout: Layout = []
    in_channels = 3
    for stage, channels in enumerate((16, 32, 32)):
        first = 4 * stage
        layout += _conv(f"{prefix}.{first}", channels, in_channels, 3)
        for block in (first + 2, first + 3):
            for conv in (1, 3):
                layout += _conv(f"{prefix}.{block}.res_block_core.{conv}", channels, channels, 3)
        in_channels = channels
    return layout


_MLP, _CNN = "encoder.encoders.obs.mlp_head", "encoder.encoders.obs.enc"
_NO_NORMALIZERS = {"use_rnn": False, "normalize_input": False, "normalize_returns": False}
_F_SPACE = spaces.Dict(
    obs=spaces.Box(0, 255, (3, 64, 64), np.uint8), measurements=spaces.Box(-1.0, 1.0, (21,), np.float32)
)

_CASES: dict[str, tuple[dict[str, Any], spaces.Dict, spaces.Space, Layout, int | None]] = {
    "A_defaults": (
        {},
        vector_obs(4),
        spaces.Discrete(2),
        _normalizers(obs=(4,))
        + _linear(f"{_MLP}.0", 512, 4)
        + _linear(f"{_MLP}.2", 512, 512)
        + _rnn("core.core", 3, 512, 512)
        + _heads(512, 2),
        1842691,
    ),
    "B_fixed_stddev": (
        {"use_rnn": False, "adaptive_stddev": False, "encoder_mlp_layers": [64, 64]},
        vector_obs(17),
        box_actions(6),
        _normalizers(obs=(17,))
        + _linear(f"{_MLP}.0", 64, 17)
        + _linear(f"{_MLP}.2", 64, 64)
        + _linear("critic_linear", 1, 64)
        + [("action_parameterization.learned_stddev", (6,))]
        + _linear("action_parameterization.distribution_linear", 6, 64),
        5773,
    ),
    "B_adaptive_stddev": (
        {"use_rnn": False, "encoder_mlp_layers": [64, 64]},
        vector_obs(17),
        box_actions(6),
        _normalizers(obs=(17,)) + _linear(f"{_MLP}.0", 64, 17) + _linear(f"{_MLP}.2", 64, 64) + _heads(64, 12),
        None,
    ),
    "C_atari": (
        {"use_rnn": False, "encoder_conv_architecture": "convnet_atari"},
        image_obs(4, 84, 84),
        spaces.Discrete(6),
        _normalizers(obs=(4, 84, 84))
        + _conv(f"{_CNN}.conv_head.0", 32, 4, 8)
        + _conv(f"{_CNN}.conv_head.2", 64, 32, 4)
        + _conv(f"{_CNN}.conv_head.4", 64, 64, 3)
        + _linear(f"{_CNN}.mlp_layers.0", 512, 3136)
        + _heads(512, 6),
        1687719,
    ),
    "C_simple": (
        {"use_rnn": False},
        image_obs(3, 72, 128),
        spaces.Discrete(6),
        _normalizers(obs=(3, 72, 128))
        + _conv(f"{_CNN}.conv_head.0", 32, 3, 8)
        + _conv(f"{_CNN}.conv_head.2", 64, 32, 4)
        + _conv(f"{_CNN}.conv_head.4", 128, 64, 3)
        + _linear(f"{_CNN}.mlp_layers.0", 512, 2304)
        + _heads(512, 6),
        None,
    ),
    "C_impala": (
        {"use_rnn": False, "encoder_conv_architecture": "convnet_impala"},
        image_obs(3, 72, 96),
        spaces.Discrete(6),
        _normalizers(obs=(3, 72, 96))
        + _conv(f"{_CNN}.conv_head.0", 16, 3, 8)
        + _conv(f"{_CNN}.conv_head.2", 32, 16, 4)
        + _linear(f"{_CNN}.mlp_layers.0", 512, 2240)
        + _heads(512, 6),
        None,
    ),
    "C_resnet": (
        {"encoder_conv_architecture": "resnet_impala", "encoder_conv_mlp_layers": [256], "rnn_size": 256},
        image_obs(3, 72, 96),
        spaces.Discrete(6),
        _normalizers(obs=(3, 72, 96))
        + _resnet("encoder.encoders.obs.conv_head")
        + _linear("encoder.encoders.obs.mlp_layers.0", 256, 3456)
        + _rnn("core.core", 3, 256, 256)
        + _heads(256, 6),
        1379143,
    ),
    "D_separate": (
        {"encoder_mlp_layers": [32], "rnn_size": 64, "actor_critic_share_weights": False},
        vector_obs(4),
        spaces.Discrete(2),
        _normalizers(obs=(4,))
        + _linear("actor_encoder.encoders.obs.mlp_head.0", 32, 4)
        + _rnn("actor_core.core", 3, 32, 64)
        + _linear("critic_encoder.encoders.obs.mlp_head.0", 32, 4)
        + _rnn("critic_core.core", 3, 32, 64)
        + _heads(64, 2),
        38147,
    ),
    "D_separate_decoders": (
        {
            "encoder_mlp_layers": [32],
            "use_rnn": False,
            "decoder_mlp_layers": [16],
            "actor_critic_share_weights": False,
        },
        vector_obs(4),
        spaces.Discrete(2),
        _normalizers(obs=(4,))
        + _linear("actor_encoder.encoders.obs.mlp_head.0", 32, 4)
        + _linear("critic_encoder.encoders.obs.mlp_head.0", 32, 4)
        + _linear("actor_decoder.mlp.0", 16, 32)
        + _linear("critic_decoder.mlp.0", 16, 32)
        + _heads(16, 2),
        None,
    ),
    "E_lstm": (
        {"encoder_mlp_layers": [16], "rnn_type": "lstm", "rnn_num_layers": 2, "rnn_size": 32},
        vector_obs(4),
        spaces.Discrete(2),
        _normalizers(obs=(4,))
        + _linear(f"{_MLP}.0", 16, 4)
        + _rnn("core.core", 4, 16, 32, num_layers=2)
        + _heads(32, 2),
        15027,
    ),
    "F_dict_and_tuple": (
        {"use_rnn": False, "decoder_mlp_layers": [128, 64], "normalize_input_keys": ["measurements"]},
        _F_SPACE,
        spaces.Tuple([spaces.Discrete(3), spaces.Discrete(5)]),
        _normalizers(measurements=(21,))
        + _linear("encoder.encoders.measurements.mlp_head.0", 512, 21)
        + _linear("encoder.encoders.measurements.mlp_head.2", 512, 512)
        + _conv(f"{_CNN}.conv_head.0", 32, 3, 8)
        + _conv(f"{_CNN}.conv_head.2", 64, 32, 4)
        + _conv(f"{_CNN}.conv_head.4", 128, 64, 3)
        + _linear(f"{_CNN}.mlp_layers.0", 512, 512)
        + _linear("decoder.mlp.0", 128, 1024)
        + _linear("decoder.mlp.2", 64, 128)
        + _heads(64, 8),
        789481,
    ),
    "G_heads_only": (
        {**_NO_NORMALIZERS, "encoder_mlp_layers": []},
        vector_obs(4),
        spaces.Discrete(2),
        _heads(4, 2),
        None,
    ),
    "H_action_mask": (
        {"use_rnn": False, "encoder_mlp_layers": [8]},
        spaces.Dict(obs=spaces.Box(-1.0, 1.0, (4,)), action_mask=spaces.Box(0, 1, (2,), np.int8)),
        spaces.Discrete(2),
        _normalizers(obs=(4,)) + _linear(f"{_MLP}.0", 8, 4) + _heads(8, 2),
        None,
    ),
}


@pytest.mark.parametrize("case", _CASES)
def test_layout(case: str) -> None:
    overrides, obs_space, action_space, layout, num_parameters = _CASES[case]
    model = create_actor_critic(model_cfg(**overrides), obs_space, action_space)
    state = model.state_dict()
    assert [(name, tuple(x.shape)) for name, x in state.items()] == layout
    for name, x in state.items():
        assert x.dtype == (torch.float64 if "normalizer" in name else torch.float32), name
    parameters = [name for name, _ in model.named_parameters()]
    assert parameters == [name for name, _ in layout if "normalizer" not in name], "the optimiser's order"
    if num_parameters is not None:
        assert sum(p.numel() for p in model.parameters()) == num_parameters
