"""Advantages against a slow reference, sizes, episode ends."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sample_factory.algo.utils import rl_utils
from sample_factory.algo.utils.rl_utils import (
    calculate_discounted_sum_torch,
    gae_advantages,
    make_dones,
    num_agents_per_worker,
    reverse_linear_recurrence,
    samples_per_trajectory,
    total_num_agents,
    total_num_envs,
    trajectories_per_minibatch,
    trajectories_per_training_iteration,
)
from sample_factory.algo.utils.tensor_dict import TensorDict
from sample_factory.utils.attr_dict import AttrDict


def _slow_gae(rewards: Any, dones: Any, values: Any, valids: Any, gamma: float, lam: float) -> np.ndarray:
    """The recursion step by step in Python floats."""
    num_rows, num_steps = rewards.shape
    advantages = np.zeros((num_rows, num_steps))
    for n in range(num_rows):
        following = 0.0
        for t in reversed(range(num_steps)):
            m, next_m, not_done = float(valids[n, t]), float(valids[n, t + 1]), 1.0 - float(dones[n, t])
            delta = (float(rewards[n, t]) - float(values[n, t])) * m
            delta += not_done * gamma * float(values[n, t + 1]) * next_m
            following = delta + (gamma * lam * m + 1.0 - m) * not_done * following
            advantages[n, t] = following
    return advantages


def _random_batch(num_rows: int, num_steps: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    rewards = torch.randn(num_rows, num_steps, generator=rng)
    dones = torch.rand(num_rows, num_steps, generator=rng) < 0.15
    values = torch.randn(num_rows, num_steps + 1, generator=rng)
    valids = torch.rand(num_rows, num_steps + 1, generator=rng) < 0.8
    return rewards, dones, values, valids


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 6),
    st.integers(1, 40),
    st.integers(0, 10000),
    st.floats(0.5, 1.0),
    st.floats(0.0, 1.0),
    st.booleans(),
)
def test_gae_equals_the_slow_reference(n: int, t: int, seed: int, gamma: float, lam: float, as_float: bool) -> None:
    rewards, dones, values, valids = _random_batch(n, t, seed)
    if as_float:
        dones, valids = dones.float(), valids.float()
    advantages = gae_advantages(rewards, dones, values, valids, gamma, lam)
    assert advantages.shape == (n, t) and advantages.is_contiguous()
    expected = torch.from_numpy(_slow_gae(rewards, dones, values, valids, gamma, lam)).float()
    torch.testing.assert_close(advantages, expected, atol=1e-4, rtol=1e-4)


def test_gae_is_textbook_gae_where_everything_is_valid() -> None:
    rewards, dones, values, _ = _random_batch(3, 12, 7)
    advantages = gae_advantages(rewards, dones, values, torch.ones(3, 13, dtype=torch.bool), 0.99, 0.9)
    expected, following = torch.zeros(3, 12), torch.zeros(3)
    for t in reversed(range(12)):
        not_done = 1.0 - dones[:, t].float()
        delta = rewards[:, t] + 0.99 * values[:, t + 1] * not_done - values[:, t]
        following = delta + 0.99 * 0.9 * not_done * following
        expected[:, t] = following
    torch.testing.assert_close(advantages, expected)


def test_gae_ignores_nan_of_invalid_steps_and_has_no_gradient() -> None:
    rewards, dones, values, valids = _random_batch(4, 10, 3)
    expected = gae_advantages(rewards, dones, values, valids, 0.99, 0.95)
    rewards[~valids[:, :-1]] = float("nan")
    values[~valids] = float("nan")
    values.requires_grad_()
    advantages = gae_advantages(rewards, dones, values, valids, 0.99, 0.95)
    torch.testing.assert_close(advantages, expected)
    assert not advantages.requires_grad


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 300), st.integers(0, 10000), st.booleans())
def test_loop_and_scan_agree(num_columns: int, num_steps: int, seed: int, with_last: bool) -> None:
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(num_steps, num_columns, generator=rng)
    coefficients = torch.rand(num_steps, num_columns, generator=rng)
    x_last = torch.randn(num_columns, generator=rng) if with_last else None
    expected, following = torch.zeros_like(x), torch.zeros(num_columns) if x_last is None else x_last
    for t in reversed(range(num_steps)):
        following = x[t] + coefficients[t] * following
        expected[t] = following
    torch.testing.assert_close(reverse_linear_recurrence(x, coefficients, x_last), expected, atol=1e-4, rtol=1e-4)
    if x_last is None:
        torch.testing.assert_close(rl_utils._recurrence_loop(x, coefficients), expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(rl_utils._recurrence_scan(x, coefficients), expected, atol=1e-4, rtol=1e-4)


def test_recurrence_leaves_its_inputs_alone() -> None:
    x, coefficients = torch.ones(4, 2), torch.full((4, 2), 0.5)
    reverse_linear_recurrence(x, coefficients)
    assert torch.equal(x, torch.ones(4, 2)) and torch.equal(coefficients, torch.full((4, 2), 0.5))


def test_discounted_sum() -> None:
    x = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    dones = torch.tensor([[0.0], [1.0], [0.0], [0.0]])
    valids = torch.tensor([[1.0], [1.0], [0.0], [1.0]])
    # 4 + 10/2 = 9; the invalid step adds without discount: 12; the episode ends at 2; 1 + 2/2 = 2
    sums = calculate_discounted_sum_torch(x, dones, valids, 0.5, x_last=torch.tensor([10.0]))
    assert sums.flatten().tolist() == [2.0, 2.0, 12.0, 9.0]
    assert calculate_discounted_sum_torch(x, dones, valids, 0.5)[3].item() == 4.0


def test_sizes() -> None:
    cfg = AttrDict(batch_size=64, rollout=16, num_batches_per_epoch=3, num_workers=2, num_envs_per_worker=5)
    env_info: Any = AttrDict(num_agents=4)
    assert trajectories_per_minibatch(cfg) == 4
    assert trajectories_per_training_iteration(cfg) == 12
    assert total_num_envs(cfg) == 10
    assert total_num_agents(cfg, env_info) == 40
    assert num_agents_per_worker(cfg, env_info) == 20
    assert samples_per_trajectory(TensorDict(rewards=torch.zeros(6, 16))) == 96


@pytest.mark.parametrize("kind", [torch.tensor, np.array], ids=["torch", "numpy"])
def test_make_dones_of_arrays(kind: Any) -> None:
    dones = make_dones(kind([True, False, False]), kind([False, True, False]))
    assert type(dones) is type(kind([True])) and dones.tolist() == [True, True, False]


def test_make_dones_of_bools_and_lists() -> None:
    assert make_dones(False, True) is True
    assert make_dones([True, False], [False, False]) == [True, False]
    assert make_dones((True, False), [False, True]) == [True, True]
