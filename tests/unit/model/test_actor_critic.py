"""The interface of models: outputs, masks, factories, devices, subclasses of old scripts."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from sample_factory.algo.utils.context import global_model_factory, reset_global_context
from sample_factory.algo.utils.tensor_dict import TensorDict
from sample_factory.model.action_parameterization import (
    ActionParameterizationContinuousNonAdaptiveStddev,
    ActionParameterizationDefault,
)
from sample_factory.model.actor_critic import (
    ActorCritic,
    ActorCriticSeparateWeights,
    ActorCriticSharedWeights,
    create_actor_critic,
    obs_space_without_action_mask,
)
from sample_factory.model.core import ModelCore, ModelCoreIdentity, ModelCoreRNN, default_make_core_func
from sample_factory.model.decoder import Decoder, MlpDecoder
from sample_factory.model.encoder import ConvEncoderImpl, Encoder, MultiInputEncoder, make_img_encoder
from sample_factory.model.model_factory import ModelFactory
from sample_factory.model.model_utils import create_mlp, fc_layer, get_rnn_size, model_device, nonlinearity
from sample_factory.utils.attr_dict import AttrDict
from tests.model_configs import box_actions, image_obs, model_cfg, vector_obs


@pytest.fixture(autouse=True)
def _clean_context() -> Any:
    torch.manual_seed(0)
    yield
    reset_global_context()


def _small(**overrides: Any) -> AttrDict:
    return model_cfg(**{"encoder_mlp_layers": [8], "rnn_size": 6, **overrides})


@pytest.mark.parametrize("use_rnn", [False, True])
@pytest.mark.parametrize("share_weights", [True, False])
@pytest.mark.parametrize(
    ("action_space", "num_actions"),
    [
        (spaces.Discrete(3), 1),
        (spaces.Discrete(3, start=5), 1),
        (box_actions(2), 2),
        (spaces.Tuple([spaces.Discrete(3), box_actions(2)]), 3),
        (spaces.MultiDiscrete([3, 4]), 2),
    ],
    ids=str,
)
def test_forward(share_weights: bool, use_rnn: bool, action_space: spaces.Space, num_actions: int) -> None:
    cfg = _small(actor_critic_share_weights=share_weights, use_rnn=use_rnn)
    model = create_actor_critic(cfg, vector_obs(), action_space).eval()
    size = get_rnn_size(cfg)
    with torch.inference_mode():
        out = model({"obs": torch.randn(5, 4)}, torch.zeros(5, size))
    assert isinstance(out, TensorDict)
    assert list(out) == ["values", "action_logits", "log_prob_actions", "actions", "new_rnn_states"]
    assert out["values"].shape == out["log_prob_actions"].shape == (5,)
    assert out["actions"].shape == ((5,) if num_actions == 1 else (5, num_actions))
    assert out["new_rnn_states"].shape == (5, size)
    actions = out["actions"].reshape(5, num_actions)
    torch.testing.assert_close(model.action_distribution().log_prob(actions), out["log_prob_actions"])
    assert isinstance(model, ActorCriticSharedWeights if share_weights else ActorCriticSeparateWeights)

    values_only = model({"obs": torch.randn(5, 4)}, torch.zeros(5, size), values_only=True)
    assert list(values_only) == ["values", "new_rnn_states"]
    single = model({"obs": torch.randn(1, 4)}, torch.zeros(1, size))
    assert single["values"].shape == () and single["log_prob_actions"].shape == (1,)


def test_tail_without_sampling() -> None:
    model = create_actor_critic(_small(use_rnn=False), vector_obs(), spaces.Discrete(3))
    out = model.forward_tail(torch.randn(5, 8), values_only=False, sample_actions=False)
    assert list(out) == ["values", "action_logits"]


@pytest.mark.parametrize("share_weights", [True, False])
def test_action_mask_reaches_the_distribution(share_weights: bool) -> None:
    obs_space = spaces.Dict(obs=vector_obs()["obs"], action_mask=spaces.Box(0, 1, (3,), np.int8))
    cfg = _small(actor_critic_share_weights=share_weights)
    model = create_actor_critic(cfg, obs_space, spaces.Discrete(3)).eval()
    mask = torch.tensor([[0, 1, 0]]).expand(50, 3)
    out = model({"obs": torch.randn(50, 4)}, torch.zeros(50, get_rnn_size(cfg)), action_mask=mask)
    assert (out["actions"] == 1).all()
    torch.testing.assert_close(out["log_prob_actions"], torch.zeros(50))


def test_obs_space_without_action_mask() -> None:
    plain = vector_obs()
    assert obs_space_without_action_mask(plain) is plain
    masked = spaces.Dict(obs=plain["obs"], action_mask=spaces.Box(0, 1, (3,), np.int8))
    assert list(obs_space_without_action_mask(masked).spaces) == ["obs"]  # type: ignore[union-attr]
    assert "action_mask" in masked.spaces


def test_obs_space_must_be_a_dict() -> None:
    with pytest.raises(ValueError, match="Dict"):
        create_actor_critic(_small(), vector_obs()["obs"], spaces.Discrete(2))


class _OldTail(ActorCriticSharedWeights):
    """Written for a version whose forward_tail had no action_mask."""

    def forward_tail(self, core_output: Tensor, values_only: bool, sample_actions: bool) -> TensorDict:  # type: ignore[override]
        out = super().forward_tail(core_output, values_only, sample_actions)
        out["values"] = out["values"] + 100.0
        return out


class _OldHead(ActionParameterizationDefault):
    """Written for a version whose heads had no action_mask."""

    def forward(self, actor_core_output: Tensor) -> tuple[Tensor, Any]:  # type: ignore[override]
        return super().forward(actor_core_output)


def _make_old_model(cfg: Any, obs_space: Any, action_space: Any) -> ActorCritic:
    model = _OldTail(global_model_factory(), obs_space, action_space, cfg)
    model.action_parameterization = _OldHead(cfg, model.decoder.get_out_size(), action_space)
    return model


def test_overrides_without_action_mask_work() -> None:
    global_model_factory().register_actor_critic_factory(_make_old_model)
    model = create_actor_critic(_small(), vector_obs(), spaces.Discrete(2))
    out = model({"obs": torch.randn(5, 4)}, torch.zeros(5, 6))
    assert (out["values"] > 50).all() and "actions" in out


class _OwnTail(ActorCritic):
    """Everything but the head of the actor is the user's, who leaves sampling to the base class."""

    def __init__(self, obs_space: spaces.Dict, action_space: spaces.Space, cfg: Any):
        super().__init__(obs_space, action_space, cfg)
        self.critic = nn.Linear(4, 1)
        self.action_parameterization = self.get_action_parameterization(4)

    def forward_head(self, normalized_obs_dict: dict[str, Tensor]) -> Tensor:
        return normalized_obs_dict["obs"]

    def forward_core(self, head_output: Any, rnn_states: Tensor) -> tuple[Any, Tensor]:
        return head_output, rnn_states

    def forward_tail(  # type: ignore[override]
        self, core_output: Tensor, values_only: bool, sample_actions: bool
    ) -> TensorDict:
        result = TensorDict(values=self.critic(core_output).squeeze())
        result["action_logits"], self.last_action_distribution = self.action_parameterization(core_output)
        self._maybe_sample_actions(sample_actions, result)
        return result


@pytest.mark.parametrize(
    ("action_space", "shape"),
    [(spaces.Discrete(3), (5,)), (box_actions(1), (5,)), (spaces.MultiDiscrete([3, 4]), (5, 2))],
    ids=str,
)
def test_own_tail_can_have_its_actions_sampled(action_space: spaces.Space, shape: tuple[int, ...]) -> None:
    model = _OwnTail(vector_obs(), action_space, _small(use_rnn=False))
    out = model({"obs": torch.randn(5, 4)}, torch.zeros(5, 1))
    assert out["actions"].shape == shape
    expected = model.last_action_distribution.log_prob(out["actions"].reshape(5, -1))
    torch.testing.assert_close(out["log_prob_actions"], expected)
    assert list(model.forward_tail(torch.randn(5, 4), False, sample_actions=False)) == ["values", "action_logits"]


class _Doubled(nn.Module):
    """A core that somebody put in the place of another one."""

    def __init__(self, core: Any):
        super().__init__()
        self.core = core

    def forward(self, head_output: Any, rnn_states: Tensor) -> tuple[Any, Tensor]:
        output, new_states = self.core(head_output, rnn_states)
        return output, 2.0 * new_states

    def get_out_size(self) -> int:
        return self.core.get_out_size()


@pytest.mark.parametrize("use_rnn", [True, False])
def test_two_networks_are_listed_actor_first(use_rnn: bool) -> None:
    cfg = _small(actor_critic_share_weights=False, use_rnn=use_rnn)
    model: Any = create_actor_critic(cfg, vector_obs(), spaces.Discrete(2)).eval()
    assert model.encoders == [model.actor_encoder, model.critic_encoder]
    assert model.cores == [model.actor_core, model.critic_core]
    assert model.decoders == [model.actor_decoder, model.critic_decoder]
    head_output, states = torch.randn(5, 16), torch.randn(5, get_rnn_size(cfg))
    torch.testing.assert_close(model.core_func(head_output, states), model.forward_core(head_output, states))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.core_func.__self__ is other and other.cores[1] is other.critic_core


def test_cores_are_called_through_their_list() -> None:
    cfg = _small(actor_critic_share_weights=False)
    model: Any = create_actor_critic(cfg, vector_obs(), spaces.Discrete(2)).eval()
    head_output, states = torch.randn(5, 16), torch.randn(5, 12)
    _, before = model.forward_core(head_output, states)
    model.cores[1] = _Doubled(model.critic_core)
    _, after = model.forward_core(head_output, states)
    torch.testing.assert_close(after, before * torch.tensor([1.0, 2.0]).repeat_interleave(6))


class _OwnEncoder(Encoder):
    def __init__(self, cfg: Any, obs_space: spaces.Dict):
        super().__init__(cfg)
        self.linear = nn.Linear(obs_space["obs"].shape[0], 7)  # type: ignore[index]

    def forward(self, obs_dict: dict[str, Tensor]) -> Tensor:
        return self.linear(obs_dict["obs"])

    def get_out_size(self) -> int:
        return 7


class _OwnCore(ModelCore):
    def __init__(self, cfg: Any, input_size: int):
        super().__init__(cfg)
        self.core_output_size = 2 * input_size

    def forward(self, head_output: Any, rnn_states: Tensor) -> Any:
        assert not isinstance(head_output, PackedSequence)
        return torch.cat([head_output, head_output], dim=1), rnn_states + 1.0


class _OwnDecoder(Decoder):
    def __init__(self, cfg: Any, input_size: int):
        super().__init__(cfg)
        self.input_size = input_size

    def forward(self, core_output: Tensor) -> Tensor:
        return core_output[:, :3]

    def get_out_size(self) -> int:
        return 3


def _make_own_core(cfg: Any, input_size: int) -> ModelCore:
    return _OwnCore(cfg, input_size)


@pytest.mark.parametrize("share_weights", [True, False])
def test_registered_parts_are_used(share_weights: bool) -> None:
    factory = global_model_factory()
    factory.register_encoder_factory(_OwnEncoder)
    factory.register_model_core_factory(_make_own_core)
    factory.register_decoder_factory(_OwnDecoder)
    cfg = _small(actor_critic_share_weights=share_weights)
    model: Any = create_actor_critic(cfg, vector_obs(), spaces.Discrete(2))
    assert model.critic_linear.in_features == 3
    decoder = model.decoder if share_weights else model.critic_decoder
    assert isinstance(decoder, _OwnDecoder) and decoder.input_size == 14
    size = get_rnn_size(cfg)
    out = model({"obs": torch.randn(5, 4)}, torch.zeros(5, size))
    assert (out["new_rnn_states"] == 1.0).all()


def test_factory_defaults_and_pickling() -> None:
    factory = ModelFactory()
    assert factory.make_model_core_func is default_make_core_func
    factory.register_encoder_factory(_OwnEncoder)
    restored = pickle.loads(pickle.dumps(factory))
    assert restored.make_model_encoder_func is _OwnEncoder
    assert restored.make_model_core_func is default_make_core_func
    with pytest.raises(ValueError, match="make_model_core_func"):
        factory.register_model_core_factory("not callable")  # type: ignore[arg-type]


def test_factory_is_usable_without_torch() -> None:
    """Environment processes unpickle the registry and must not pay for importing torch."""
    import subprocess
    import sys

    code = "import sys, sample_factory.model.model_factory as m; m.ModelFactory(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_model_to_device_asks_the_parts() -> None:
    moved: list[Any] = []

    class Spread(_OwnEncoder):
        def model_to_device(self, device: Any) -> None:
            moved.append(device)

    global_model_factory().register_encoder_factory(Spread)
    model = create_actor_critic(_small(), vector_obs(), spaces.Discrete(2))
    model.extra = nn.Parameter(torch.zeros(1))
    model.model_to_device(torch.device("meta"))
    assert moved == [torch.device("meta")]
    devices = {name: p.device.type for name, p in model.named_parameters()}
    assert devices.pop("encoder.linear.weight") == devices.pop("encoder.linear.bias") == "cpu"
    assert set(devices.values()) == {"meta"}
    assert model.device_for_input_tensor("obs") == torch.device("cpu")


def test_input_of_an_encoder_without_parameters_goes_to_the_heads() -> None:
    cfg = _small(encoder_mlp_layers=[], use_rnn=False)
    model = create_actor_critic(cfg, vector_obs(), spaces.Discrete(2))
    model.model_to_device("meta")
    assert model.encoder.device_for_input_tensor("obs") is None
    assert model.device_for_input_tensor("obs") == torch.device("meta")
    assert model.type_for_input_tensor("obs") is torch.float32


def test_summaries() -> None:
    model = create_actor_critic(_small(), vector_obs(), spaces.Discrete(2))
    model.normalize_obs({"obs": torch.full((10, 4), 2.2)})
    summaries = model.summaries()
    assert summaries.keys() == {
        "obs_running_mean",
        "obs_running_std",
        "returns_running_mean",
        "returns_running_std",
    }
    assert summaries["obs_running_mean"].item() == pytest.approx(2.0)
    assert summaries["returns_running_std"].item() == pytest.approx(1.0, abs=1e-4)
    assert (
        create_actor_critic(
            _small(normalize_input=False, normalize_returns=False), vector_obs(), spaces.Discrete(2)
        ).summaries()
        == {}
    )


@pytest.mark.parametrize(
    ("overrides", "size"),
    [
        ({"use_rnn": False}, 1),
        ({"use_rnn": False, "rnn_type": "lstm"}, 2),
        ({"use_rnn": False, "actor_critic_share_weights": False}, 2),
        ({"rnn_size": 32}, 32),
        ({"rnn_size": 32, "rnn_num_layers": 2, "rnn_type": "lstm"}, 128),
        ({"rnn_size": 32, "rnn_num_layers": 2, "rnn_type": "lstm", "actor_critic_share_weights": False}, 256),
    ],
    ids=str,
)
def test_q54_rnn_size(overrides: dict[str, Any], size: int) -> None:
    """The dummy state of models without RNN doubles too: kept, because stored shapes depend on it."""
    assert get_rnn_size(model_cfg(**overrides)) == size


def test_cores() -> None:
    assert isinstance(default_make_core_func(_small(), 8), ModelCoreRNN)
    identity = default_make_core_func(_small(use_rnn=False), 8)
    assert isinstance(identity, ModelCoreIdentity) and identity.get_out_size() == 8
    x, states = torch.randn(3, 8), torch.randn(3, 1)
    assert identity(x, states) == (x, states)
    with pytest.raises(ValueError, match="rnn_type='rwkv'"):
        ModelCoreRNN(_small(rnn_type="rwkv"), 8)


def test_encoder_concatenates_keys_in_sorted_order() -> None:
    obs_space = spaces.Dict(
        z=spaces.Box(0, 255, (3, 64, 64), np.uint8), a=spaces.Box(-1.0, 1.0, (5,)), m=spaces.Box(-1.0, 1.0, (2,))
    )
    encoder = MultiInputEncoder(model_cfg(), obs_space)
    assert encoder.obs_keys == ["a", "m", "z"] and encoder.get_out_size() == 3 * 512
    obs = {"z": torch.randn(2, 3, 64, 64), "a": torch.randn(2, 5), "m": torch.randn(2, 2)}
    features = encoder(obs)
    assert features.shape == (2, 1536)
    torch.testing.assert_close(features[:, 512:1024], encoder.encoders["m"](obs["m"]))
    assert [encoder.encoders[key].get_out_size() for key in "amz"] == [512, 512, 512]  # type: ignore[operator]


def test_scalar_observations_need_an_own_encoder() -> None:
    with pytest.raises(NotImplementedError, match="'speed' is a scalar"):
        MultiInputEncoder(model_cfg(), spaces.Dict(speed=spaces.Box(-1.0, 1.0, ())))


@pytest.mark.parametrize("architecture", ["convnet_simple", "convnet_impala", "convnet_atari", "resnet_impala"])
@pytest.mark.parametrize("mlp_layers", [[], [16, 8]])
def test_image_encoders(architecture: str, mlp_layers: list[int]) -> None:
    cfg = model_cfg(encoder_conv_architecture=architecture, encoder_conv_mlp_layers=mlp_layers)
    encoder = make_img_encoder(cfg, image_obs(3, 44, 52)["obs"])
    assert encoder(torch.randn(2, 3, 44, 52)).shape == (2, encoder.get_out_size())
    if mlp_layers:
        assert encoder.get_out_size() == 8


@pytest.mark.parametrize("architecture", ["convnet_large", "resnet_large", "vit"])
def test_unknown_architecture_names_the_known_ones(architecture: str) -> None:
    with pytest.raises(NotImplementedError, match=f"{architecture}.*convnet_simple.*resnet_impala"):
        make_img_encoder(model_cfg(encoder_conv_architecture=architecture), image_obs(3, 64, 64)["obs"])


def test_too_small_image_is_explained() -> None:
    with pytest.raises(ValueError, match=r"\(64, 64, 3\).*CHW"):
        make_img_encoder(model_cfg(), image_obs(64, 64, 3)["obs"])


def test_conv_encoder_with_max_pooling() -> None:
    encoder = ConvEncoderImpl((3, 20, 20), [[3, 4, 2, 2], "maxpool_2x2"], [5], nn.ReLU())
    assert encoder(torch.randn(2, 3, 20, 20)).shape == (2, 5) and encoder.conv_head_out_size == 4 * 5 * 5
    with pytest.raises(ValueError, match="avgpool"):
        ConvEncoderImpl((3, 20, 20), ["avgpool"], [], nn.ReLU())


def test_decoder() -> None:
    assert MlpDecoder(_small(decoder_mlp_layers=[5, 4]), 8).get_out_size() == 4
    identity = MlpDecoder(_small(), 8)
    x = torch.randn(2, 8)
    assert identity.get_out_size() == 8 and identity(x) is x


def test_action_heads() -> None:
    features = 50 * torch.randn(3, 8)
    fixed = ActionParameterizationContinuousNonAdaptiveStddev(
        _small(adaptive_stddev=False, initial_stddev=0.5, continuous_tanh_scale=2.0), 8, box_actions(2)
    )
    parameters, distribution = fixed(features)
    assert parameters.shape == (3, 4) and (parameters[:, :2].abs() <= 2.0).all()
    torch.testing.assert_close(distribution.stddevs, torch.full((3, 2), 0.5))
    distribution.entropy().sum().backward()
    assert fixed.learned_stddev.grad is not None and fixed.learned_stddev.grad.all()

    tuple_space = spaces.Tuple([spaces.Discrete(3), box_actions(2)])
    model = create_actor_critic(_small(adaptive_stddev=False), vector_obs(), tuple_space)
    assert isinstance(model.action_parameterization, ActionParameterizationDefault)
    model = create_actor_critic(_small(adaptive_stddev=False), vector_obs(), box_actions(2))
    assert isinstance(model.action_parameterization, ActionParameterizationContinuousNonAdaptiveStddev)


def test_building_blocks() -> None:
    kinds = {name: type(nonlinearity(model_cfg(nonlinearity=name))) for name in ("elu", "relu", "tanh")}
    assert kinds == {"elu": nn.ELU, "relu": nn.ReLU, "tanh": nn.Tanh}
    inplace: Any = nonlinearity(model_cfg(), inplace=True)
    assert inplace.inplace
    with pytest.raises(ValueError, match="nonlinearity='gelu'"):
        nonlinearity(model_cfg(nonlinearity="gelu"))
    assert isinstance(create_mlp([], 4, nn.ReLU()), nn.Identity)
    mlp: Any = create_mlp([3, 2], 4, nn.ReLU())
    assert [type(layer) for layer in mlp] == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU]
    assert hasattr(fc_layer(3, 2, spec_norm=True), "weight_orig") and fc_layer(3, 2, bias=False).bias is None
    assert model_device(nn.ReLU()) is None and model_device(nn.Linear(1, 1)) == torch.device("cpu")
