"""Which layers get the chosen initialisation."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from sample_factory.algo.utils.context import global_model_factory, reset_global_context
from sample_factory.model.actor_critic import ActorCritic, ActorCriticSharedWeights, create_actor_critic
from sample_factory.model.encoder import Encoder
from sample_factory.model.model_utils import create_mlp
from sample_factory.model.utils import he_normal_init, orthogonal_init
from tests.model_configs import image_obs, model_cfg, vector_obs


def _is_orthogonal(weight: Tensor, gain: float = 1.0) -> bool:
    matrix = weight.detach().flatten(1)
    if matrix.shape[0] > matrix.shape[1]:
        matrix = matrix.t()
    return torch.allclose(matrix @ matrix.t(), gain**2 * torch.eye(matrix.shape[0]), atol=1e-4)


def _is_torch_default(weight: Tensor) -> bool:
    """Kaiming uniform as PyTorch calls it: bounded by 1/sqrt(fan_in), which neither other scheme respects here."""
    bound = 1.0 / math.sqrt(weight.detach().flatten(1).shape[1])
    return bool(weight.abs().max() <= bound) and bool(weight.abs().max() > 0.9 * bound)


def _model(**overrides: Any) -> ActorCritic:
    torch.manual_seed(0)
    cfg = model_cfg(encoder_mlp_layers=[32, 24], decoder_mlp_layers=[20], rnn_size=16, **overrides)
    return create_actor_critic(cfg, vector_obs(), spaces.Discrete(5))


def _stacks(model: Any) -> list[nn.Linear]:
    head = model.encoder.encoders["obs"].mlp_head
    return [head[0], head[2], model.decoder.mlp[0]]


def _heads(model: Any) -> list[nn.Linear]:
    return [model.critic_linear, model.action_parameterization.distribution_linear]


@pytest.mark.parametrize("scope", [{}, {"weight_init_scope": "effective"}])
def test_q04_effective_scope_leaves_built_in_stacks_at_the_default(scope: dict[str, str]) -> None:
    """Configurations written before the flag existed behave like the original."""
    model = _model(policy_init_gain=2.0, **scope)
    assert all(_is_torch_default(layer.weight) for layer in _stacks(model))
    assert all(_is_orthogonal(layer.weight, gain=2.0) for layer in _heads(model))


def test_q04_all_scope_reaches_every_layer() -> None:
    model = _model(weight_init_scope="all")
    assert all(_is_orthogonal(layer.weight) for layer in [*_stacks(model), *_heads(model)])


def test_q04_convolutional_stacks() -> None:
    for scope, check in (("effective", _is_torch_default), ("all", _is_orthogonal)):
        cfg = model_cfg(use_rnn=False, encoder_conv_mlp_layers=[8], weight_init_scope=scope)
        model: Any = create_actor_critic(cfg, image_obs(3, 64, 64), spaces.Discrete(2))
        layers = [m for m in model.encoder.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
        assert len(layers) == 4 and all(check(layer.weight) for layer in layers)


@pytest.mark.parametrize("scope", ["effective", "all"])
def test_resnet_gets_the_chosen_scheme(scope: str) -> None:
    cfg = model_cfg(
        use_rnn=False,
        encoder_conv_architecture="resnet_impala",
        encoder_conv_mlp_layers=[8],
        weight_init_scope=scope,
    )
    model: Any = create_actor_critic(cfg, image_obs(3, 20, 20), spaces.Discrete(2))
    layers = [m for m in model.encoder.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len(layers) == 3 + 12 + 1 and all(_is_orthogonal(layer.weight) for layer in layers)


class _OwnEncoder(Encoder):
    def __init__(self, cfg: Any, obs_space: spaces.Dict):
        super().__init__(cfg)
        self.layers = create_mlp([24], 4, nn.ReLU())

    def forward(self, obs_dict: dict[str, Tensor]) -> Tensor:
        return self.layers(obs_dict["obs"])

    def get_out_size(self) -> int:
        return 24


def test_layers_of_a_custom_encoder_get_the_chosen_scheme() -> None:
    try:
        global_model_factory().register_encoder_factory(_OwnEncoder)
        model: Any = _model()
        assert _is_orthogonal(model.encoder.layers[0].weight)
    finally:
        reset_global_context()


@pytest.mark.parametrize("scheme", ["orthogonal", "xavier_uniform", "torch_default"])
def test_biases_are_zero_except_in_recurrent_layers(scheme: str) -> None:
    model = _model(policy_initialization=scheme)
    for name, p in model.named_parameters():
        if name.startswith("core."):
            bound = 1.0 / math.sqrt(16)
            assert 0.8 * bound < p.abs().max() <= bound, name
        elif name.endswith("bias"):
            assert not p.any(), name


def test_xavier_uniform_has_the_gain() -> None:
    weight = _model(policy_initialization="xavier_uniform", policy_init_gain=3.0).critic_linear.weight
    bound = 3.0 * math.sqrt(6.0 / (20 + 1))
    assert 0.8 * bound < weight.abs().max() <= bound


def test_torch_default_keeps_the_weights() -> None:
    assert all(_is_torch_default(layer.weight) for layer in _heads(_model(policy_initialization="torch_default")))


def test_names_that_only_a_custom_model_knows_keep_the_weights() -> None:
    assert all(_is_torch_default(layer.weight) for layer in _heads(_model(policy_initialization="he")))


def test_initialize_weights_can_be_overridden() -> None:
    class OwnInit(ActorCriticSharedWeights):
        def initialize_weights(self, layer: nn.Module) -> None:
            if isinstance(layer, nn.Linear):
                nn.init.constant_(layer.weight, 0.25)

    model = OwnInit(global_model_factory(), vector_obs(), spaces.Discrete(5), model_cfg(use_rnn=False))
    assert (model.critic_linear.weight == 0.25).all()


def test_public_initialisers() -> None:
    layer = nn.Linear(6, 4)
    nn.init.ones_(layer.bias)
    assert orthogonal_init(layer, gain=2.0) is layer
    assert _is_orthogonal(layer.weight, gain=2.0) and not layer.bias.any()
    conv = nn.Conv2d(16, 64, 3)
    assert he_normal_init(conv) is conv and not conv.bias.any()  # type: ignore[union-attr]
    assert conv.weight.std().item() == pytest.approx(math.sqrt(2.0 / (16 * 9)), rel=0.05)
    no_bias, other = nn.Linear(2, 2, bias=False), nn.GRU(2, 2)
    weight = other.weight_ih_l0.detach().clone()
    assert orthogonal_init(no_bias) is no_bias and he_normal_init(other) is other
    assert torch.equal(other.weight_ih_l0, weight)
