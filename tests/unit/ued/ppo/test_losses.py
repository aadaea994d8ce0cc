"""Losses: reference values, and shapes that must not broadcast."""

from __future__ import annotations

import math

import pytest
import torch

from sample_factory.ued.ppo.losses import categorical, normalised, policy_loss, ppo_losses, value_loss

OLD_LOG_PROBS = torch.tensor([-1.9, -1.8, -2.0, -1.5, -1.2, -2.2])
LOG_PROBS = torch.tensor([-1.5, -1.9, -1.7, -1.6, -1.8, -2.1])
ADVANTAGES = torch.tensor([0.3, -0.1, 0.0, 0.6, -0.3, 0.5])
OLD_VALUES = torch.tensor([0.1, 0.2, 0.3, 0.0, 0.5, 0.4])
VALUES = torch.tensor([0.15, 0.5, 0.1, 0.4, 0.45, 0.9])
TARGETS = torch.tensor([0.4, 0.1, 0.3, 0.6, 0.2, 0.9])


@pytest.mark.parametrize("is_clipped, value, total", [(True, 0.0479167, -0.0295344), (False, 0.0304167, -0.0382844)])
@pytest.mark.parametrize("shape", [(6,), (3, 2), (6, 1)])
def test_reference_values(is_clipped, value, total, shape):
    log_probs, old_log_probs, advantages = (x.view(shape) for x in (LOG_PROBS, OLD_LOG_PROBS, ADVANTAGES))
    values, old_values, targets = (x.view(*shape, 1) for x in (VALUES, OLD_VALUES, TARGETS))
    losses = ppo_losses(
        log_probs,
        torch.full(shape, 1.2),
        values,
        old_log_probs,
        old_values,
        advantages,
        targets,
        clip_eps=0.2,
        clip_value_loss=is_clipped,
        value_loss_coef=0.5,
        entropy_coef=0.01,
    )
    expected = torch.tensor([total, -0.0414927, value, 1.2])
    actual = torch.stack([losses.total, losses.actor, losses.value, losses.entropy])
    assert torch.allclose(actual, expected, atol=1e-6)


def test_huber_loss_is_linear_beyond_one():
    loss = value_loss(torch.tensor([3.0]), torch.tensor([0.0]), torch.tensor([0.0]), 0.2, False)
    assert loss.item() == 2.5


def test_the_value_loss_is_a_mean_over_the_ensemble():
    values = torch.stack([VALUES, VALUES + 1], -1)
    old_values, targets = torch.stack([OLD_VALUES] * 2, -1), torch.stack([TARGETS] * 2, -1)
    both = value_loss(values, old_values, targets, 0.2, True)
    single = [value_loss(values[:, k], OLD_VALUES, TARGETS, 0.2, True) for k in range(2)]
    assert torch.isclose(both, (single[0] + single[1]) / 2)


def test_advantages_are_normalised_by_the_population_deviation():
    result = normalised(torch.tensor([[1.0], [3.0]]))
    assert torch.allclose(result, torch.tensor([[-1.0], [1.0]]) / (1 + 1e-5))


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(ValueError, match="shapes differ"):
        policy_loss(torch.zeros(4, 1), torch.zeros(4), torch.zeros(4), 0.2)
    with pytest.raises(ValueError, match="shapes differ"):
        value_loss(torch.zeros(4, 1), torch.zeros(4, 1), torch.zeros(4), 0.2, True)


def test_log_probs_and_entropy():
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [1.0, 1.0, 2.0]]))
    log_probs, entropy = categorical(logits, torch.tensor([1, 2]))
    assert torch.allclose(log_probs, torch.tensor([0.25, 0.5]).log())
    assert torch.allclose(entropy, torch.full([2], 1.5 * math.log(2)))
