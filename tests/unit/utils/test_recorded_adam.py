"""The step of Adam that a CUDA graph records, on the CPU."""

from __future__ import annotations

import torch

from sample_factory.algo.utils.optimizers import PortableAdam


def adam() -> tuple[torch.Tensor, PortableAdam]:
    weights = torch.tensor([1.0, -2.0], requires_grad=True)
    optimizer = PortableAdam([weights], lr=0.1, fused=True)
    weights.grad = torch.tensor([0.5, 0.25])
    optimizer.step()
    return weights, optimizer


def test_step_on_device_is_an_ordinary_step() -> None:
    (usual, usual_optimizer), (weights, optimizer) = adam(), adam()
    usual_optimizer.step()
    assert weights.grad is not None
    with torch.no_grad():
        optimizer.step_on_device([weights], [weights.grad], torch.tensor(0.1), torch.tensor(0.0))
    torch.testing.assert_close(weights, usual)
    assert optimizer.state[weights]["step"] == usual_optimizer.state[usual]["step"] == 2


def test_step_on_device_that_is_skipped_changes_nothing() -> None:
    weights, optimizer = adam()
    before, moments = weights.detach().clone(), optimizer.state[weights]["exp_avg"].clone()
    with torch.no_grad():
        optimizer.step_on_device([weights], [torch.full((2,), torch.nan)], torch.tensor(0.1), torch.tensor(1.0))
    assert torch.equal(weights, before) and torch.equal(optimizer.state[weights]["exp_avg"], moments)
    assert optimizer.state[weights]["step"] == 1
