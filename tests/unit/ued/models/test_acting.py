"""Acting step by step gives what the plain step gives, for every network."""

from __future__ import annotations

import pytest
import torch

from sample_factory.ued.models.acting import Actor
from sample_factory.ued.models.registration import make_student_model
from tests.unit.ued.models.specs import CORE_OPTIONS, NUM_ACTIONS, STUDENT_SPEC, random_observations, small_student

STEPS, ENVS = 6, 5


def compare(model, observations):
    """Act with resets on the way; logits, values and carries have to be those of ``model.step``."""
    generator = torch.Generator().manual_seed(7)
    carry = tuple(torch.randn(part.shape, dtype=part.dtype, generator=generator) for part in model.initial_carry(ENVS))
    with torch.no_grad():
        actor = Actor(model, len(observations), ENVS, carry)
        expected_values, expected_logits = [], []
        reset = torch.zeros(ENVS, dtype=torch.bool)
        for t, obs in enumerate(observations):
            values, logits, carry = model.step(obs, carry, reset)
            assert torch.allclose(actor.act(obs), logits, atol=1e-5)
            for actual, expected in zip(actor.carry, carry, strict=True):
                assert torch.allclose(actual, expected, atol=1e-5)
            expected_values.append(values)
            expected_logits.append(logits)
            reset = torch.rand(ENVS, generator=generator) < 0.4
            if t + 1 < len(observations):
                actor.reset(reset if t % 2 else reset.nonzero().squeeze(1))
        values, logits = model.head_values(actor.outputs), actor.logits
    assert torch.allclose(values, torch.stack(expected_values), atol=1e-5)
    assert torch.allclose(logits, torch.stack(expected_logits), atol=1e-5)


def observations():
    generator = torch.Generator().manual_seed(0)
    return [random_observations([ENVS], generator) for _ in range(STEPS)]


@pytest.mark.parametrize("core", CORE_OPTIONS)
@pytest.mark.parametrize(
    "options",
    [
        {"value_ensemble_size": 3},
        {"base_activation": "crelu"},
        {"base_activation": "gelu"},
        {"n_hidden_layers": 0},
        {"n_hidden_layers": 2},
        {"n_scalar_embeddings": 0},
        {"n_scalar_embeddings": 0, "scalar_embed_dim": 0},
    ],
)
def test_actors_and_steps_agree(core, options):
    compare(small_student(core, **options), observations())


@pytest.mark.parametrize("position", ["pre", "post", None])
@pytest.mark.parametrize("activation", ["half_glu2", "full_glu", "gelu"])
def test_variants_of_s5(position, activation):
    compare(small_student("s5", s5_layernorm_pos=position, s5_activation=activation), observations())


def test_images_of_bytes_and_vectors():
    spec = type(STUDENT_SPEC)(STUDENT_SPEC.image, STUDENT_SPEC.scalars, {"noise": 3})
    options = {"recurrent_arch": "lstm", "recurrent_hidden_dim": 8}
    model = make_student_model("default_student_cnn", spec, NUM_ACTIONS, options, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    compare(
        model,
        [
            {
                "image": torch.randint(0, 11, [ENVS, 5, 5, 3], generator=generator, dtype=torch.uint8),
                "agent_dir": torch.randint(0, 4, [ENVS], generator=generator),
                "noise": torch.rand(ENVS, 3, generator=generator),
            }
            for _ in range(STEPS)
        ],
    )


@pytest.mark.parametrize("core", ["lstm", "gru", "s5"])
def test_the_given_carry_is_not_written_to(core):
    model = small_student(core)
    carry = model.initial_carry(ENVS)
    with torch.no_grad():
        actor = Actor(model, 1, ENVS, carry)
        actor.act(observations()[0])
        actor.reset(torch.tensor([0]))
    assert all(not part.any() for part in carry)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("core", "num_gates"), [("lstm", 3), ("gru", 2)])
def test_gates_that_are_shut(core, num_gates):
    """The exponential of a gate's input is infinite then."""
    model = small_student(core)
    gates = model.core.bias.detach()[: num_gates * model.core.output_size]
    gates.copy_(torch.tensor([-200.0, 200.0, -80.0]).repeat(len(gates))[: len(gates)])
    compare(model, observations())


@pytest.mark.parametrize("options", [{"value_ensemble_size": 3}, {"n_hidden_layers": 0}])
def test_values_of_many_steps_do_not_depend_on_gradients(options):
    model = small_student("lstm", **options)
    x = torch.randn(40, 32, model.core.output_size, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        values = model.head_values(x)
    assert torch.allclose(values, model.head_values(x), atol=1e-5)
    assert values.shape == (40, 32, options.get("value_ensemble_size", 1))
