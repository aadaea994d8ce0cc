"""The LSTM for GPUs: with a plain cell instead of the fused one, it is the core's on any device."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sample_factory.ued.models import lstm_gpu
from sample_factory.ued.models.acting import GpuLstmActor
from sample_factory.ued.models.cores import LstmCore

STEPS, ENVS, INPUTS, HIDDEN = 7, 4, 3, 5


def plain_step(from_input: Tensor, from_hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    i, f, g, o = (from_input + from_hidden).chunk(4, dim=-1)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    new_cell = f * cell + i * g
    return o * new_cell.tanh(), new_cell, torch.cat([i, f, g, o], dim=-1)


def plain_gradient(
    grad_hidden: Tensor, grad_cell: Tensor | None, cells: tuple[Tensor, Tensor], workspace: Tensor
) -> tuple[Tensor, Tensor]:
    before, after = cells
    i, f, g, o = workspace.chunk(4, dim=-1)
    grad = grad_hidden * o * (1 - after.tanh() ** 2)
    if grad_cell is not None:
        grad = grad + grad_cell
    parts = [grad * g * i * (1 - i), grad * before * f * (1 - f), grad * i * (1 - g**2)]
    return torch.cat([*parts, grad_hidden * after.tanh() * o * (1 - o)], dim=-1), grad * f


@pytest.fixture(autouse=True)
def plain_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lstm_gpu, "lstm_step", plain_step)
    monkeypatch.setattr(lstm_gpu, "lstm_step_gradient", plain_gradient)


def make_core() -> LstmCore:
    core = LstmCore(INPUTS, HIDDEN, torch.Generator().manual_seed(0))
    with torch.no_grad():
        core.bias.normal_(generator=torch.Generator().manual_seed(1))
    return core


def test_states_and_gradients_are_those_of_single_steps() -> None:
    core, generator = make_core(), torch.Generator().manual_seed(2)
    x = torch.randn(STEPS, ENVS, INPUTS, generator=generator, requires_grad=True)
    carry = tuple(torch.randn(2, ENVS, HIDDEN, generator=generator))
    resets = torch.rand(STEPS, ENVS, generator=generator) < 0.3
    assert resets[0].any() and resets[-1].any()
    weights = torch.randn(STEPS, ENVS, HIDDEN, generator=generator)
    inputs = [x, *core.parameters()]

    from_input = torch.nn.functional.linear(x, *core.input_layer)
    states = lstm_gpu.lstm_states(from_input, core.weight_hh, *carry, resets)
    expected = core.sequence_by_steps(x, carry, resets)

    torch.testing.assert_close(states, expected)
    gradients = torch.autograd.grad((states * weights).sum(), inputs)
    torch.testing.assert_close(gradients, torch.autograd.grad((expected * weights).sum(), inputs))


def test_acting_is_single_steps() -> None:
    core, generator = make_core(), torch.Generator().manual_seed(2)
    carry = tuple(torch.randn(2, ENVS, HIDDEN, generator=generator))
    actor = GpuLstmActor(core, carry, ENVS, torch.device("cpu"))
    reset = torch.zeros(ENVS, dtype=torch.bool)
    output = torch.empty(ENVS, HIDDEN)
    for _ in range(STEPS):
        x = torch.randn(ENVS, INPUTS, generator=generator)
        actor.features.copy_(x)
        with torch.no_grad():
            actor.step(output)
            expected, carry = core.step(x, carry, reset)
        torch.testing.assert_close(output, expected)
        torch.testing.assert_close(actor.carry, carry)
        reset = torch.rand(ENVS, generator=generator) < 0.3
        actor.reset(reset)
