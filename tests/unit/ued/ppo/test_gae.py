"""Advantages: reference values and properties."""

from __future__ import annotations

import pytest
import torch

from sample_factory.ued.ppo.gae import generalised_advantages

DISCOUNT, GAE_LAMBDA = 0.9, 0.8
EXPECTED = torch.tensor(
    [
        [0.406304, 0.5532, 0.76, 0.105473, 0.143712, 0.1996, 0.28, 0.03],
        [-0.086223, -0.116977, -0.156912, -0.2096, -0.28, 0.164544, 0.2452, 0.36],
        [-0.071634, -0.082825, -0.09559, -0.110542, -0.12853, -0.150736, -0.1788, -0.215],
        [-0.036059, -0.019527, 0.006213, 0.04474, 0.101028, 0.181984, 0.2972, 0.46],
    ]
).t()


def reference_rollout():
    rewards, dones = torch.zeros(8, 4), torch.zeros(8, 4, dtype=torch.bool)
    for t, env, reward in [(2, 0, 0.9), (6, 0, 0.5), (4, 1, 0.0), (7, 1, 0.7), (7, 3, 1.0)]:
        rewards[t, env], dones[t, env] = reward, True
    values = 0.1 * torch.arange(1, 5) + 0.02 * torch.arange(8).unsqueeze(1)
    return rewards, dones, values.unsqueeze(-1), torch.tensor([[0.3], [0.2], [0.25], [0.4]])


def test_reference_values():
    rewards, dones, values, last_values = reference_rollout()
    advantages, targets = generalised_advantages(rewards, dones, values, last_values, DISCOUNT, GAE_LAMBDA)
    assert torch.allclose(advantages.squeeze(-1), EXPECTED, atol=1e-6)
    assert torch.allclose(targets, advantages + values)


def test_every_value_function_has_its_own_advantages():
    rewards, dones, values, last_values = reference_rollout()
    ensemble, last = torch.cat([2 * values, values], -1), torch.cat([2 * last_values, last_values], -1)
    advantages, _ = generalised_advantages(rewards, dones, ensemble, last, DISCOUNT, GAE_LAMBDA)
    assert advantages.shape == (8, 4, 2)
    assert torch.allclose(advantages[..., 1], EXPECTED, atol=1e-6)
    first, _ = generalised_advantages(rewards, dones, 2 * values, 2 * last_values, DISCOUNT, GAE_LAMBDA)
    assert torch.allclose(advantages[..., :1], first)


def test_time_outs_are_true_ends_unless_final_values_are_given():
    rewards, dones, values, last_values = reference_rollout()
    arguments = (rewards, dones, values, last_values, DISCOUNT, GAE_LAMBDA)
    truncated = torch.zeros_like(dones)
    truncated[4, 1] = True
    without, _ = generalised_advantages(*arguments, truncated, None)
    assert torch.allclose(without.squeeze(-1), EXPECTED, atol=1e-6)
    final_values = torch.full_like(values, 5.0)
    advantages, _ = generalised_advantages(*arguments, truncated, final_values)
    difference = (advantages - without).squeeze(-1)
    expected = torch.zeros(8, 4)
    for t in range(5):
        expected[t, 1] = DISCOUNT * 5.0 * (DISCOUNT * GAE_LAMBDA) ** (4 - t)
    assert torch.allclose(difference, expected, atol=1e-5)


def test_bootstrapping_equals_an_episode_that_goes_on():
    generator = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(6, 1, generator=generator), torch.randn(6, 1, 1, generator=generator)
    never = torch.zeros(6, 1, dtype=torch.bool)
    last_values = torch.randn(1, 1, generator=generator)
    expected, _ = generalised_advantages(rewards, never, values, last_values, 0.9, 1.0)
    cut = never.clone()
    cut[-1] = True
    final_values = last_values.expand(6, 1, 1)
    other = torch.zeros(1, 1)
    advantages, _ = generalised_advantages(rewards, cut, values, other, 0.9, 1.0, cut, final_values)
    assert torch.allclose(advantages, expected)


def test_final_values_without_flags_are_refused():
    rewards, dones, values, last_values = reference_rollout()
    with pytest.raises(ValueError, match="truncation"):
        generalised_advantages(rewards, dones, values, last_values, 0.9, 0.8, None, values)
