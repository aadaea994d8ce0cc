"""Every flag about the model changes the model the way its help text says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from sample_factory.algo.utils.rl_utils import prepare_and_normalize_obs
from sample_factory.algo.utils.tensor_dict import TensorDict
from sample_factory.model.actor_critic import create_actor_critic
from sample_factory.model.model_utils import get_rnn_size
from tests.model_configs import box_actions, image_obs, vector_obs
from tests.unit.learning.learner_setup import make_cfg

DISCRETE = spaces.Discrete(3)


def make_model(*flags: str, obs: spaces.Dict | None = None, actions: Any = DISCRETE) -> Any:
    torch.manual_seed(0)
    cfg = make_cfg("train_dir", "--rnn_size=6", *flags)
    return create_actor_critic(cfg, obs or vector_obs(), actions)


def shapes(model: nn.Module, kind: type) -> list[tuple[int, ...]]:
    return [tuple(module.weight.shape) for module in model.modules() if isinstance(module, kind)]


def act(model: Any, obs: Any) -> TensorDict:
    model.eval()
    with torch.no_grad():
        normalized = prepare_and_normalize_obs(model, {"obs": torch.as_tensor(obs)})
        return model(normalized, torch.zeros(len(obs), get_rnn_size(model.cfg)))


def test_encoder_mlp_layers() -> None:
    assert shapes(make_model("--encoder_mlp_layers", "7", "5").encoder, nn.Linear) == [(7, 4), (5, 7)]
    assert shapes(make_model("--encoder_mlp_layers").encoder, nn.Linear) == []


@pytest.mark.parametrize(
    "architecture, channels",
    [
        ("convnet_simple", [32, 64, 128]),
        ("convnet_impala", [16, 32]),
        ("convnet_atari", [32, 64, 64]),
        ("resnet_impala", [16] * 5 + [32] * 10),
    ],
)
def test_encoder_conv_architecture(architecture: str, channels: list[int]) -> None:
    model = make_model(f"--encoder_conv_architecture={architecture}", obs=image_obs(3, 72, 72))
    assert [shape[0] for shape in shapes(model.encoder, nn.Conv2d)] == channels


def test_encoder_conv_mlp_layers() -> None:
    model = make_model("--encoder_conv_mlp_layers", "9", "6", obs=image_obs(3, 48, 48))
    assert [shape[0] for shape in shapes(model.encoder, nn.Linear)] == [9, 6]


def test_core_flags() -> None:
    """--use_rnn, --rnn_type, --rnn_size, --rnn_num_layers"""
    assert shapes(make_model("--use_rnn=False"), nn.Linear)[-1] == (3, 8)
    core = make_model("--use_rnn=True", "--rnn_size=5", "--rnn_num_layers=2").core.core
    assert isinstance(core, nn.GRU) and (core.hidden_size, core.num_layers) == (5, 2)
    assert isinstance(make_model("--use_rnn=True", "--rnn_type=lstm").core.core, nn.LSTM)


def test_decoder_mlp_layers() -> None:
    assert shapes(make_model("--decoder_mlp_layers", "11", "10").decoder, nn.Linear) == [(11, 8), (10, 11)]


@pytest.mark.parametrize("name, cls", [("elu", nn.ELU), ("relu", nn.ReLU), ("tanh", nn.Tanh)])
def test_nonlinearity(name: str, cls: type) -> None:
    modules = make_model(f"--nonlinearity={name}").modules()
    activations = [module for module in modules if isinstance(module, nn.ELU | nn.ReLU | nn.Tanh)]
    assert activations and all(isinstance(activation, cls) for activation in activations)


def head_weight(*flags: str) -> torch.Tensor:
    model = make_model("--encoder_mlp_layers", "64", *flags)
    return model.action_parameterization.distribution_linear.weight.detach()


def test_policy_initialization_and_gain() -> None:
    """--policy_initialization, --policy_init_gain"""
    gram = head_weight("--policy_init_gain=0.5") @ head_weight("--policy_init_gain=0.5").T
    torch.testing.assert_close(gram, 0.25 * torch.eye(3), atol=1e-5, rtol=0)
    xavier_limit = np.sqrt(6 / (64 + 3))
    assert 1 / 8 < float(head_weight("--policy_initialization=xavier_uniform").abs().max()) <= xavier_limit
    default = head_weight("--policy_initialization=torch_default").abs().max()
    assert float(default) <= 1 / 8, "the default of torch is uniform in +-1/sqrt(fan_in)"


def test_weight_init_scope() -> None:
    def encoder_gram(scope: str) -> torch.Tensor:
        model = make_model(f"--weight_init_scope={scope}", obs=vector_obs(16))
        weight = next(m.weight.detach() for m in model.encoder.modules() if isinstance(m, nn.Linear))
        return weight @ weight.T

    torch.testing.assert_close(encoder_gram("all"), torch.eye(8), atol=1e-5, rtol=0)
    assert float((encoder_gram("effective") - torch.eye(8)).abs().max()) > 0.1


def test_actor_critic_share_weights() -> None:
    assert len(make_model("--actor_critic_share_weights=True").encoders) == 1
    separate = make_model("--actor_critic_share_weights=False")
    actor, critic = separate.encoders
    assert {id(p) for p in actor.parameters()}.isdisjoint(id(p) for p in critic.parameters())


def test_stddev_flags() -> None:
    """--adaptive_stddev, --initial_stddev"""
    obs = torch.randn(2, 4)
    adaptive = act(make_model("--adaptive_stddev=True", actions=box_actions(2)), obs)["action_logits"]
    assert not torch.equal(adaptive[0, 2:], adaptive[1, 2:])
    fixed = act(make_model("--adaptive_stddev=False", "--initial_stddev=0.25", actions=box_actions(2)), obs)
    torch.testing.assert_close(fixed["action_logits"][:, 2:].exp(), torch.full((2, 2), 0.25))


def test_continuous_tanh_scale() -> None:
    flags = ("--adaptive_stddev=False", "--normalize_input=False", "--policy_init_gain=50")
    obs = torch.randn(16, 4) * 10

    def means(*more: str) -> torch.Tensor:
        return act(make_model(*flags, *more, actions=box_actions(2)), obs)["action_logits"][:, :2]

    free, limited = means(), means("--continuous_tanh_scale=1.5")
    assert float(free.abs().max()) > 1.5
    torch.testing.assert_close(limited, 1.5 * torch.tanh(free / 1.5))


# --- normalisation ---


def test_obs_subtract_mean_and_scale() -> None:
    model = make_model("--obs_subtract_mean=3", "--obs_scale=2", "--normalize_input=False")
    obs = prepare_and_normalize_obs(model, {"obs": torch.tensor([[3.0, 5.0, 1.0, 3.0]])})["obs"]
    torch.testing.assert_close(obs, torch.tensor([[0.0, 1.0, -1.0, 0.0]]))


def test_normalize_input_and_keys() -> None:
    """--normalize_input, --normalize_input_keys"""
    two = spaces.Dict(a=spaces.Box(-9, 9, (1,), np.float32), b=spaces.Box(-9, 9, (1,), np.float32))
    batch = {"a": torch.tensor([[1.0], [5.0]]), "b": torch.tensor([[1.0], [5.0]])}

    def normalized(*flags: str) -> dict[str, list[float]]:
        out = prepare_and_normalize_obs(make_model(*flags, obs=two), {k: v.clone() for k, v in batch.items()})
        return {key: value.flatten().tolist() for key, value in out.items()}

    raw = [1.0, 5.0]
    assert normalized("--normalize_input=False") == {"a": raw, "b": raw}
    everything = normalized("--normalize_input=True")
    assert everything["a"] == everything["b"] != raw
    only_b = normalized("--normalize_input_keys", "b")
    assert only_b["a"] == raw and only_b["b"] == everything["b"]


def test_normalize_returns() -> None:
    assert make_model("--normalize_returns=True").returns_normalizer is not None
    assert make_model("--normalize_returns=False").returns_normalizer is None
