"""State-space layers: reference values, and every variant of the layer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sample_factory.ued.models import s5
from sample_factory.ued.models.init import lecun_normal_
from sample_factory.ued.models.s5 import (
    StateSpace,
    block_eigenvectors,
    discretise,
    hippo_normal_eigenvalues,
)
from sample_factory.ued.models.s5_scan import scan, scan_by_steps
from tests.unit.ued.models.specs import random_observations, small_student

TRANSITION = torch.tensor([0.9 + 0.1j, 0.5 - 0.2j])
INPUT_WEIGHTS, OUTPUT_WEIGHTS = torch.tensor([1.0, 0.5j]), torch.tensor([1.0 - 1.0j, 0.3j])
INITIAL = torch.tensor([[0.2 + 0j, 0.1j]])
SCANS = [
    (None, [2.07, 5.6294, 4.2707, 5.020493], [2.02352 + 0.5596j, 0.1794 + 0.24291j]),
    (2, [2.07, 5.6294, -1.7, -1.0], [-0.4 - 0.1j, -0.1 + 0j]),
    (0, [1.7, 5.25, 3.897, 4.662499], [1.902 + 0.502j, 0.171 + 0.2425j]),
]


def scan_inputs(reset_step):
    u = torch.tensor([1.0, 2.0, -1.0, 0.5])
    resets = torch.zeros(4, 1, dtype=torch.bool)
    if reset_step is not None:
        resets[reset_step] = True
    return (u[:, None] * INPUT_WEIGHTS).unsqueeze(1), resets


@pytest.mark.parametrize("run", [scan, scan_by_steps])
@pytest.mark.parametrize("reset_step, outputs, last", SCANS)
def test_reference_values_of_the_scan(run, reset_step, outputs, last):
    inputs, resets = scan_inputs(reset_step)
    states = run(TRANSITION, inputs, INITIAL, resets)
    y = 2 * (states @ OUTPUT_WEIGHTS).real.squeeze(1)
    assert torch.allclose(y, torch.tensor(outputs), atol=2e-6)
    assert torch.allclose(states[-1, 0], torch.tensor(last), atol=2e-6)


def state_space_of_the_scan():
    """The first input feeds both states, and they the first output; another two columns have no part in it."""
    space = StateSpace(4, 1, torch.Generator().manual_seed(0))
    eigenvalues = TRANSITION.log()
    with torch.no_grad():
        space.eigenvalues_re.copy_(eigenvalues.real)
        space.eigenvalues_im.copy_(eigenvalues.imag)
        for parameter in (space.log_step, space.b, space.c, space.d):
            parameter.zero_()
        space.b[:, 0] = torch.view_as_real(INPUT_WEIGHTS * eigenvalues / (TRANSITION - 1))
        space.c[0] = torch.view_as_real(OUTPUT_WEIGHTS)
    return space


@pytest.mark.parametrize("reset_step, outputs, last", SCANS)
def test_reference_values_of_the_state_space(reset_step, outputs, last):
    space = state_space_of_the_scan()
    _, resets = scan_inputs(reset_step)
    u = torch.zeros(4, 1, 4)
    u[:, 0, 0] = torch.tensor([1.0, 2.0, -1.0, 0.5])
    y, last_state = space(u, INITIAL, resets)
    assert torch.allclose(y[:, 0, 0], torch.tensor(outputs), atol=2e-6)
    assert torch.allclose(last_state[0], torch.tensor(last), atol=2e-6)
    assert not y[..., 1:].any()
    with torch.no_grad():
        space.d[:2] = torch.tensor([3.0, 5.0])
    through, _ = space(u, INITIAL, resets)
    assert torch.allclose(through[..., 0], y[..., 0] + 3 * u[..., 0], atol=1e-6)
    assert not through[..., 1:].any()


def test_gradients_of_the_scan():
    generator = torch.Generator().manual_seed(0)
    inputs, initial, weights = (
        torch.randn(shape, dtype=torch.complex64, generator=generator) for shape in ([9, 3, 2], [3, 2], [9, 3, 2])
    )
    resets = torch.rand(9, 3, generator=generator) < 0.3
    results = []
    for run in (scan, scan_by_steps):
        leaves = TRANSITION.clone().requires_grad_(), inputs.clone().requires_grad_()
        states = run(*leaves, initial, resets)
        results.append((states, *torch.autograd.grad((states * weights).real.sum(), leaves)))
    for actual, expected in zip(*results, strict=True):
        assert torch.allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize(
    "size, expected", [(4, [-4.603292, -0.556501]), (8, [-19.857416, -5.354207, -1.957794, -0.427488])]
)
def test_eigenvalues_of_hippo(size, expected):
    eigenvalues, vectors = hippo_normal_eigenvalues(size)
    assert np.allclose(eigenvalues.imag, expected + [-x for x in reversed(expected)], atol=1e-6)
    assert np.allclose(eigenvalues.real, -0.5)
    assert np.allclose(vectors.conj().T @ vectors, np.eye(size), atol=1e-10)


def test_eigenvalues_of_a_large_block():
    eigenvalues, _ = block_eigenvectors(256, 2)
    assert eigenvalues.shape == (128,)
    assert np.allclose(eigenvalues[[0, 64]].imag, -5214.67, atol=0.01)


def test_zero_order_hold():
    eigenvalues = torch.tensor([-0.5 - 2j, -0.5 - 6j])
    transition, b = discretise(eigenvalues, torch.tensor([[1 + 1j], [2 - 1j]]), torch.tensor([0.01, 0.1]))
    assert torch.allclose(transition, torch.tensor([0.994814 - 0.019899j, 0.785084 - 0.537105j]), atol=1e-6)
    assert torch.allclose(b[:, 0], torch.tensor([0.010074 + 0.009875j, 0.155565 - 0.148193j]), atol=1e-6)


def test_gelu_is_the_tanh_approximation():
    model = small_student("s5", s5_activation="gelu")
    assert abs(model.core.layers[0].gate(torch.ones(1, 16))[0, 0].item() - 0.841192) < 1e-6


def test_initial_scales():
    space = StateSpace(128, 1, torch.Generator().manual_seed(0))
    step = space.log_step.exp()
    assert 1e-3 <= step.min() < 2e-3 and 5e-2 < step.max() <= 0.1
    # V^H keeps norms up to the dropped half; the sums over both parts are those of the real matrix.
    assert abs(space.b.square().sum().item() / (128 / 2) - 1) < 0.1
    assert abs(space.c.square().sum(-1).mean().sqrt().item() * 128 - np.sqrt(2)) < 0.1
    assert abs(space.d.std().item() - 1) < 0.3


def test_initial_steps_are_log_uniform():
    log_step = StateSpace(1024, 8, torch.Generator().manual_seed(0)).log_step / np.log(10)
    assert -3 <= log_step.min() < -2.98 and -1.02 < log_step.max() <= -1
    for quarter in range(4):
        share = ((log_step + 3) / 2 * 4).floor().eq(quarter).float().mean().item()
        assert share == pytest.approx(0.25, abs=0.05)


def test_norms_add_little_to_the_variance():
    norm = small_student("s5").core.layers[0].norm
    x = torch.tensor([[-1e-3, 1e-3] * 8])  # of variance 1e-6
    assert torch.allclose(norm(x), x / 2e-6**0.5)


@pytest.mark.parametrize("num_blocks", [1, 2])
def test_initial_matrices_are_real_ones_in_the_basis_of_eigenvectors(num_blocks, monkeypatch):
    drawn = []

    def record(weight, fan_in, generator):
        lecun_normal_(weight, fan_in, generator)
        drawn.append((weight.clone(), fan_in))

    monkeypatch.setattr(s5, "lecun_normal_", record)
    space = StateSpace(16, num_blocks, torch.Generator().manual_seed(0))
    (b, fan_in_b), (c, fan_in_c) = drawn
    assert (b.shape, fan_in_b, c.shape, fan_in_c) == ((16, 16), 16, (16, 16, 2), 256)
    eigenvalues, vectors = block_eigenvectors(16, num_blocks)
    assert np.array_equal(eigenvalues[: 8 // num_blocks], eigenvalues[-8 // num_blocks :])
    v = torch.tensor(vectors, dtype=torch.complex64)
    assert torch.allclose(torch.view_as_complex(space.b), v.mH @ b.to(v.dtype), atol=1e-6)
    assert torch.allclose(torch.view_as_complex(space.c), torch.complex(c[..., 0], c[..., 1]) @ v, atol=1e-6)


@pytest.mark.parametrize("activation", ["half_glu1", "half_glu2", "full_glu", "gelu"])
def test_gates(activation):
    layer = small_student("s5", s5_activation=activation).core.layers[0]
    y = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    z = 0.5 * y * (1 + torch.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
    dense = layer.dense
    expected = {
        "half_glu1": lambda: z * torch.sigmoid(dense[0](z)),
        "half_glu2": lambda: y * torch.sigmoid(dense[0](z)),
        "full_glu": lambda: dense[0](z) * torch.sigmoid(dense[1](z)),
        "gelu": lambda: z,
    }[activation]()
    assert torch.allclose(layer.gate(y), expected, atol=1e-6)


@pytest.mark.parametrize("position", ["pre", "post", None])
def test_position_of_the_norm(position):
    model = small_student("s5", s5_layernorm_pos=position, s5_n_layers=1)
    layer = model.core.layers[0]
    x = 3 + 2 * torch.randn(4, 2, 16, generator=torch.Generator().manual_seed(0))
    zeros, no_resets = torch.zeros(2, 8, dtype=torch.complex64), torch.zeros(4, 2, dtype=torch.bool)

    def norm(x):
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()

    y, _ = layer.state_space(norm(x) if position == "pre" else x, zeros, no_resets)
    expected = x + layer.gate(y)
    expected = norm(expected) if position == "post" else expected
    assert torch.allclose(layer(x, zeros, no_resets)[0], expected, atol=1e-4)


def test_all_parameters_learn():
    model = small_student("s5")
    obs = random_observations([5, 3], torch.Generator().manual_seed(0))
    values, logits = model.sequence(obs, model.initial_carry(3), torch.zeros(5, 3, dtype=torch.bool))
    (values.sum() + (logits * torch.arange(7)).sum()).backward()
    assert all(p.grad is not None and p.grad.any() for name, p in model.named_parameters() if "norm" not in name)
