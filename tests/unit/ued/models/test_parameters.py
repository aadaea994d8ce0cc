"""How many parameters networks have, and what they are at the start."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from sample_factory.ued.models.actor_critic import ActorCritic
from sample_factory.ued.models.init import lecun_normal_, orthogonal_gates_
from sample_factory.ued.models.registration import (
    make_student_model,
    make_teacher_model,
    register_student_model,
)
from tests.unit.ued.models.specs import NUM_ACTIONS, STUDENT_SPEC, TEACHER_SPEC, random_observations, small_student

S5 = {"recurrent_arch": "s5", "s5_n_layers": 2, "s5_n_blocks": 2, "s5_layernorm_pos": "post"}


def num_parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def student(**options) -> ActorCritic:
    return make_student_model("default_student_cnn", STUDENT_SPEC, NUM_ACTIONS, options)


@pytest.mark.parametrize(
    "options, expected",
    [
        ({"recurrent_arch": "lstm", "recurrent_hidden_dim": 256}, 432_924),
        ({"recurrent_arch": "gru", "recurrent_hidden_dim": 256}, 329_244),
        ({**S5, "recurrent_hidden_dim": 256}, 451_612),
        ({}, 10_332),
        ({"value_ensemble_size": 3}, 19_998),
    ],
)
def test_number_of_parameters_of_students(options, expected):
    assert num_parameters(student(**options)) == expected


@pytest.mark.parametrize(
    "options, expected",
    [
        ({"recurrent_arch": "lstm", "recurrent_hidden_dim": 256}, 22_502_038),
        ({**S5, "recurrent_hidden_dim": 256, "n_conv_filters": 32}, 1_819_670),
    ],
)
def test_number_of_parameters_of_teachers(options, expected):
    assert num_parameters(make_teacher_model("default_teacher_cnn", TEACHER_SPEC, 169, options)) == expected


def test_constant_policy_layer_is_exactly_uniform():
    model = small_student("lstm", constant_policy_init=True)
    assert torch.equal(model.policy.output.weight, torch.full_like(model.policy.output.weight, 0.01))
    obs = random_observations([6], torch.Generator().manual_seed(0))
    _, logits, _ = model.step(obs, model.initial_carry(6), torch.zeros(6, dtype=torch.bool))
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    assert torch.allclose(entropy, torch.full_like(entropy, 1.9459101), atol=1e-6)


def test_a_constant_policy_layer_makes_teachers_uniform_too():
    options = {"recurrent_arch": "lstm", "recurrent_hidden_dim": 8, "n_conv_filters": 2, "constant_policy_init": True}
    model = make_teacher_model("default_teacher_cnn", TEACHER_SPEC, 169, options, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    image, noise = torch.rand(3, 15, 15, 3, generator=generator), torch.rand(3, 50, generator=generator)
    obs = {"image": image, "time": torch.tensor([0, 7, 61]), "noise": noise}
    _, logits, _ = model.step(obs, model.initial_carry(3), torch.zeros(3, dtype=torch.bool))
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    assert torch.allclose(entropy, torch.full_like(entropy, 5.1298988), atol=1e-5)


def test_inputs_of_recurrent_cores():
    lstm = {"recurrent_arch": "lstm", "recurrent_hidden_dim": 8}
    assert student(**lstm).core.input_size == 149
    teacher = make_teacher_model("default_teacher_cnn", TEACHER_SPEC, 169, lstm | {"n_conv_filters": 128})
    assert teacher.core.input_size == 21632 + 10 + 50


def test_layers_between_observations_and_cores_have_gain_1():
    model = small_student("s5")
    embeddings = model.trunk.scalars["agent_dir"].weight  # 4 directions, 5 columns
    assert torch.allclose(embeddings @ embeddings.t(), torch.eye(4), atol=1e-5)
    encoder = model.core.encoder
    assert torch.allclose(encoder.weight @ encoder.weight.t(), torch.eye(16), atol=1e-5)
    assert not encoder.bias.any() and not model.trunk.conv.bias.any()
    dense = small_student("none", n_scalar_embeddings=0).trunk.scalars["agent_dir"]
    assert torch.isclose(dense.weight.square().sum(), torch.tensor(1.0))
    assert not dense.bias.any()


def test_gates_of_state_spaces_are_lecun_normal_without_bias():
    model = student(**{**S5, "recurrent_hidden_dim": 256, "s5_activation": "full_glu"})
    for layer in model.core.layers:
        for dense in layer.dense:
            assert abs(dense.weight.std().item() * 16 - 1) < 0.02
            assert dense.weight.abs().max() <= 2 / 0.8796 / 16
            assert not dense.bias.any()


def test_policy_layer_is_orthogonal_and_small():
    weight = small_student("lstm").policy.output.weight
    assert torch.allclose(weight @ weight.t(), 1e-4 * torch.eye(NUM_ACTIONS), atol=1e-8)


@pytest.mark.parametrize("core, num_gates", [("lstm", 4), ("gru", 3)])
def test_every_gate_is_orthogonal(core, num_gates):
    model = small_student(core)
    for weight in (model.core.weight_ih, model.core.weight_hh):
        for gate in weight.chunk(num_gates):
            assert torch.allclose(gate @ gate.t(), torch.eye(16), atol=1e-5)
    assert not model.core.bias.any()


def test_gates_differ_from_each_other():
    weight = torch.empty(8, 4)
    orthogonal_gates_(weight, 2, torch.Generator().manual_seed(0))
    assert not torch.allclose(weight[:4], weight[4:])


@pytest.mark.parametrize(
    "activation, gain",
    [("relu", math.sqrt(2)), ("crelu", math.sqrt(2)), ("gelu", 0.75), ("leaky_relu", math.sqrt(2 / 1.01))],
)
def test_gain_of_the_convolution(activation, gain):
    weight = small_student("none", base_activation=activation).trunk.conv.weight.flatten(1)
    assert torch.allclose(weight @ weight.t(), gain**2 * torch.eye(4), atol=1e-5)


def test_heads_have_gain_sqrt_2_and_no_bias():
    head = small_student("lstm").values[0]
    weight = head.hidden[0].weight
    assert torch.allclose(weight @ weight.t(), 2 * torch.eye(8), atol=1e-5)
    assert torch.isclose(head.output.weight.square().sum(), torch.tensor(1.0))
    assert not head.hidden[0].bias.any() and not head.output.bias.any()


@pytest.mark.parametrize("num_layers", [0, 1, 2])
def test_heads_are_dense_layers_with_tanh_between(num_layers):
    generator = torch.Generator().manual_seed(0)
    model = small_student("lstm", n_hidden_layers=num_layers, value_ensemble_size=2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    x = torch.randn(5, 16, generator=generator)
    values, logits = model.heads(x)
    for head, actual in ((model.policy, logits), (model.values[0], values[:, :1]), (model.values[1], values[:, 1:])):
        layers = list(head.hidden)
        assert [layer.out_features for layer in layers] == [8] * num_layers
        y = x
        for layer in layers:
            y = torch.tanh(y @ layer.weight.t() + layer.bias)
        assert torch.allclose(actual, y @ head.output.weight.t() + head.output.bias, atol=1e-5)


def test_lecun_normal_is_truncated_and_rescaled():
    weight = torch.empty(200, 100)
    lecun_normal_(weight, 100, torch.Generator().manual_seed(0))
    assert abs(weight.std().item() - 0.1) < 1e-3
    assert weight.abs().max() <= 0.1 * 2 / 0.8796


def test_the_generator_decides_the_weights():
    first, same, other = (small_student("s5", seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["core.layers.0.state_space.b"], other["core.layers.0.state_space.b"])


def test_value_heads_of_an_ensemble_are_independent():
    first, second = small_student("gru", value_ensemble_size=2).values
    assert not torch.allclose(first.hidden[0].weight, second.hidden[0].weight)


def test_the_student_ignores_its_position():
    spec = type(STUDENT_SPEC)(STUDENT_SPEC.image, STUDENT_SPEC.scalars, {"agent_pos": 2})
    model = make_student_model("default_student_cnn", spec, NUM_ACTIONS, {})
    assert num_parameters(model) == 10_332


@pytest.mark.parametrize(
    "options, message",
    [
        ({"recurrent_arch": "rnn"}, "recurrent_arch='rnn'"),
        ({"recurrent_arch": "lstm"}, "recurrent_hidden_dim > 0"),
        ({"recurrent_arch": "s5", "recurrent_hidden_dim": 6, "s5_n_blocks": 2}, "multiple of 2 \\* s5_n_blocks = 4"),
        ({"base_activation": "elu"}, "base_activation='elu'"),
        ({"value_ensemble_size": 0}, "value_ensemble_size=0"),
        ({"scalar_embed_dim": 0}, "scalar_embed_dim > 0"),
        ({"n_scalar_embeddings": 3}, "'agent_dir' has 4 values"),
        ({"hidden_size": 3}, "unknown model options hidden_size"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        student(**options)


def test_unknown_networks_are_answered_with_near_matches():
    with pytest.raises(ValueError, match="did you mean default_student_cnn"):
        make_student_model("default_student", STUDENT_SPEC, NUM_ACTIONS, {})


def test_networks_can_be_registered_once():
    def build(spec, num_actions, options, generator):
        return make_student_model("default_student_cnn", spec, num_actions, {"hidden_dim": 3}, generator)

    register_student_model("tiny", build)
    assert make_student_model("tiny", STUDENT_SPEC, NUM_ACTIONS, {}).policy.output.in_features == 3
    with pytest.raises(ValueError, match="'tiny' is registered already"):
        register_student_model("tiny", build)


def test_images_must_not_be_smaller_than_the_window():
    spec = type(STUDENT_SPEC)((2, 5, 3), {}, {})
    with pytest.raises(ValueError, match="smaller than the window of 3x3"):
        make_student_model("default_student_cnn", spec, NUM_ACTIONS, {})
