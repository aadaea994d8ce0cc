"""Recurrent cores against torch's own layers and against themselves."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sample_factory.ued.models.cores import GruCore, LstmCore
from tests.unit.ued.models.specs import CORE_OPTIONS, random_observations, small_student

STEPS, ENVS, INPUTS, HIDDEN = 7, 5, 6, 8


def randomise(module: nn.Module, seed: int = 1) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return module


def run_core(core, x, carry, resets):
    projected = F.linear(x.flatten(0, 1), *core.input_layer)
    return core.sequence(projected, torch.arange(STEPS * ENVS).view(STEPS, ENVS), carry, resets)


def test_lstm_equals_torch():
    core = randomise(LstmCore(INPUTS, HIDDEN))
    reference = nn.LSTM(INPUTS, HIDDEN)
    with torch.no_grad():
        for target, source in (("weight_ih_l0", core.weight_ih), ("weight_hh_l0", core.weight_hh)):
            i, f, o, g = source.chunk(4)
            getattr(reference, target).copy_(torch.cat([i, f, g, o]))
        i, f, o, g = core.bias.chunk(4)
        reference.bias_hh_l0.copy_(torch.cat([i, f, g, o]))
        reference.bias_ih_l0.zero_()
    x = torch.randn(STEPS, ENVS, INPUTS, generator=torch.Generator().manual_seed(0))
    cell, hidden = torch.randn(2, ENVS, HIDDEN, generator=torch.Generator().manual_seed(2))
    expected, _ = reference(x, (hidden.unsqueeze(0), cell.unsqueeze(0)))
    no_resets = torch.zeros(STEPS, ENVS, dtype=torch.bool)
    assert torch.allclose(run_core(core, x, (cell, hidden), no_resets), expected, atol=1e-6)
    assert torch.allclose(core.sequence_by_steps(x, (cell, hidden), no_resets), expected, atol=1e-6)


def test_gru_equals_torch():
    core = randomise(GruCore(INPUTS, HIDDEN))
    reference = nn.GRU(INPUTS, HIDDEN)
    with torch.no_grad():
        reference.weight_ih_l0.copy_(core.weight_ih)
        reference.weight_hh_l0.copy_(core.weight_hh)
        reference.bias_ih_l0.copy_(core.bias)
        reference.bias_hh_l0.zero_()
        reference.bias_hh_l0[2 * HIDDEN :] = core.candidate_bias
    x = torch.randn(STEPS, ENVS, INPUTS, generator=torch.Generator().manual_seed(0))
    hidden = torch.randn(ENVS, HIDDEN, generator=torch.Generator().manual_seed(2))
    expected, _ = reference(x, hidden.unsqueeze(0))
    no_resets = torch.zeros(STEPS, ENVS, dtype=torch.bool)
    assert torch.allclose(run_core(core, x, (hidden,), no_resets), expected, atol=1e-6)
    assert torch.allclose(core.sequence_by_steps(x, (hidden,), no_resets), expected, atol=1e-6)


@pytest.fixture(params=CORE_OPTIONS)
def model(request):
    return randomise(small_student(request.param, value_ensemble_size=2))


def run_by_steps(model, obs, resets, carry):
    values, logits = [], []
    for t in range(len(resets)):
        step_values, step_logits, carry = model.step({k: v[t] for k, v in obs.items()}, carry, resets[t])
        values.append(step_values)
        logits.append(step_logits)
    return torch.stack(values), torch.stack(logits)


@pytest.fixture
def sequences():
    generator = torch.Generator().manual_seed(3)
    return random_observations([STEPS, ENVS], generator), torch.rand(STEPS, ENVS, generator=generator) < 0.3


def random_carry(model, num_envs):
    generator = torch.Generator().manual_seed(5)
    zeros = model.initial_carry(num_envs)
    return tuple(torch.randn(part.shape, dtype=part.dtype, generator=generator) for part in zeros)


def test_a_sequence_is_a_series_of_steps(model, sequences):
    obs, resets = sequences
    carry = random_carry(model, ENVS)
    values, logits = model.sequence(obs, carry, resets)
    assert values.shape == (STEPS, ENVS, 2) and logits.shape == (STEPS, ENVS, 7)
    expected_values, expected_logits = run_by_steps(model, obs, resets, carry)
    assert torch.allclose(values, expected_values, atol=1e-5)
    assert torch.allclose(logits, expected_logits, atol=1e-5)


def test_gradients_of_sequence_and_steps_agree(model, sequences):
    obs, resets = sequences
    carry = random_carry(model, ENVS)
    weights = torch.randn(STEPS, ENVS, 9, generator=torch.Generator().manual_seed(4))
    gradients = []
    for run in (model.sequence, lambda *args: run_by_steps(model, args[0], args[2], args[1])):
        model.zero_grad()
        values, logits = run(obs, carry, resets)
        (torch.cat([values, logits], -1) * weights).sum().backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
    for name, expected in gradients[1].items():
        assert torch.allclose(gradients[0][name], expected, atol=1e-4, rtol=1e-4), name


def test_a_reset_begins_a_new_sequence(model, sequences):
    obs, _ = sequences
    resets = torch.zeros(STEPS, ENVS, dtype=torch.bool)
    resets[3] = True
    values, _ = model.sequence(obs, random_carry(model, ENVS), resets)
    rest = {name: x[3:] for name, x in obs.items()}
    expected, _ = model.sequence(rest, model.initial_carry(ENVS), resets[3:].logical_and(torch.tensor(False)))
    assert torch.allclose(values[3:], expected, atol=1e-5)


def test_a_reset_concerns_its_environment_only(model, sequences):
    obs, _ = sequences
    no_resets = torch.zeros(STEPS, ENVS, dtype=torch.bool)
    resets = no_resets.clone()
    resets[2, 1] = True
    carry = random_carry(model, ENVS)
    expected, _ = model.sequence(obs, carry, no_resets)
    values, _ = model.sequence(obs, carry, resets)
    others = [0, 2, 3, 4]
    assert torch.allclose(values[:, others], expected[:, others], atol=1e-6)
    if model.is_recurrent:
        assert not torch.allclose(values[2:, 1], expected[2:, 1], atol=1e-4)


def test_a_reset_at_the_first_step_drops_the_initial_carry(model, sequences):
    obs, _ = sequences
    resets = torch.zeros(STEPS, ENVS, dtype=torch.bool)
    expected, _ = model.sequence(obs, model.initial_carry(ENVS), resets)
    resets[0] = True
    values, _ = model.sequence(obs, random_carry(model, ENVS), resets)
    assert torch.allclose(values, expected, atol=1e-6)


def test_carries_are_zeros(model):
    carry = model.initial_carry(3)
    assert bool(carry) == model.is_recurrent
    assert all(len(part) == 3 and not part.any() for part in carry)
