"""GAE, V-trace and time-out bootstrap against slow references written from the formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sample_factory.algo.learning.returns import bootstrap_time_outs, gae, vtrace


def f64(x: Any) -> torch.Tensor:
    return torch.tensor(x, dtype=torch.float64)


def reference_gae(r: Any, d: Any, v: Any, m: Any, gamma: float, lam: float) -> np.ndarray:
    num_rows, num_steps = r.shape
    adv = np.zeros((num_rows, num_steps + 1))
    for i in range(num_rows):
        for t in reversed(range(num_steps)):
            if m[i, t]:
                delta = r[i, t] - v[i, t]
                decay = gamma * lam
            else:
                delta, decay = 0.0, 1.0
            if not d[i, t]:
                delta += gamma * v[i, t + 1] * m[i, t + 1]
                delta += decay * adv[i, t + 1]
            adv[i, t] = delta
    return adv[:, :-1]


def reference_vtrace(
    ratio: Any, r: Any, d: Any, v: Any, m: Any, gamma: float, rho_clip: float, c_clip: float
) -> tuple[np.ndarray, np.ndarray]:
    """One row and one step at a time, keeping vs_{t+1} as the paper does."""
    advantages, targets = np.zeros(r.shape), np.zeros(r.shape)
    for i in range(r.shape[0]):
        next_value, next_target = v[i, -1] * m[i, -1], v[i, -1] * m[i, -1]
        for t in reversed(range(r.shape[1])):
            discount = 0.0 if d[i, t] else gamma
            if m[i, t]:
                rho, c = min(rho_clip, ratio[i, t]), min(c_clip, ratio[i, t])
                delta = rho * (r[i, t] + discount * next_value - v[i, t])
                advantages[i, t] = rho * (r[i, t] + discount * next_target - v[i, t])
                targets[i, t] = v[i, t] + delta + discount * c * (next_target - next_value)
                next_value, next_target = v[i, t], targets[i, t]
            else:
                # no value of its own: gamma * V_tp1 + (vs_tp1 - V_tp1), nothing at the end of an episode
                alive = 0.0 if d[i, t] else 1.0
                targets[i, t] = alive * (gamma * next_value + next_target - next_value)
                next_value, next_target = 0.0, targets[i, t]
    return advantages, targets


@st.composite
def rollouts(draw: Any, always_valid: bool = False) -> dict[str, np.ndarray]:
    num_rows, num_steps = draw(st.integers(1, 4)), draw(st.integers(1, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    valids = rng.random((num_rows, num_steps + 1)) > (0.0 if always_valid else 0.3)
    valids[:, -1] = valids[:, -2]
    return {
        "r": rng.normal(size=(num_rows, num_steps)),
        "d": rng.random((num_rows, num_steps)) < 0.25,
        "v": rng.normal(size=(num_rows, num_steps + 1)),
        "m": valids | always_valid,
        "ratio": np.exp(rng.normal(size=(num_rows, num_steps))),
    }


def test_gae_golden_numbers() -> None:
    returns = gae(
        f64([[1, 2, 3], [0.5, 0, -1]]),
        torch.tensor([[0, 0, 1], [0, 1, 0]], dtype=torch.bool),
        f64([[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8]]),
        torch.tensor([[1, 1, 1, 1], [1, 0, 1, 1]], dtype=torch.bool),
        0.9,
        0.8,
    )
    expected = f64([[3.970080, 4.014000, 2.700000], [0.0, 0.0, -0.98]])
    torch.testing.assert_close(returns.advantages, expected, atol=1e-6, rtol=0)
    valid_values = f64([[0.1, 0.2, 0.3], [0.5, 0.0, 0.7]])
    torch.testing.assert_close(returns.targets, expected + valid_values, atol=1e-6, rtol=0)


@settings(max_examples=60, deadline=None)
@given(rollouts(), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_gae_equals_reference(x: dict[str, np.ndarray], gamma: float, lam: float) -> None:
    expected = reference_gae(x["r"], x["d"], x["v"], x["m"], gamma, lam)
    args = [torch.from_numpy(x[key]) for key in ("r", "d", "v", "m")]
    returns = gae(*args, gamma, lam)
    np.testing.assert_allclose(returns.advantages, expected, atol=1e-10)
    np.testing.assert_allclose(returns.targets, expected + (x["v"] * x["m"])[:, :-1], atol=1e-10)


def run_vtrace(x: dict[str, np.ndarray], gamma: float, rho_clip: float, c_clip: float) -> Any:
    args = [torch.from_numpy(x[key]) for key in ("ratio", "r", "d", "v", "m")]
    return vtrace(*args, gamma=gamma, rho_clip=rho_clip, c_clip=c_clip)


@settings(max_examples=80, deadline=None)
@given(rollouts(), st.floats(0.0, 1.0), st.floats(0.1, 3.0), st.floats(0.1, 3.0))
def test_vtrace_equals_reference(x: dict[str, np.ndarray], gamma: float, rho_clip: float, c_clip: float) -> None:
    advantages, targets = reference_vtrace(x["ratio"], x["r"], x["d"], x["v"], x["m"], gamma, rho_clip, c_clip)
    returns = run_vtrace(x, gamma, rho_clip, c_clip)
    np.testing.assert_allclose(returns.advantages, advantages, atol=1e-9)
    np.testing.assert_allclose(returns.targets, targets, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(rollouts(), st.floats(0.0, 1.0))
def test_vtrace_on_policy_is_gae_with_lambda_one(x: dict[str, np.ndarray], gamma: float) -> None:
    x["ratio"] = np.ones_like(x["r"])
    returns = run_vtrace(x, gamma, 1.0, 1.0)
    expected = gae(*[torch.from_numpy(x[key]) for key in ("r", "d", "v", "m")], gamma, 1.0)
    valid = x["m"][:, :-1]
    np.testing.assert_allclose(returns.advantages.numpy()[valid], expected.advantages.numpy()[valid], atol=1e-9)
    np.testing.assert_allclose(returns.targets.numpy()[valid], expected.targets.numpy()[valid], atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(rollouts(always_valid=True), st.floats(0.1, 1.0))
def test_vtrace_on_policy_target_is_the_n_step_return(x: dict[str, np.ndarray], gamma: float) -> None:
    x["ratio"] = np.ones_like(x["r"])
    x["d"][:] = False
    targets = run_vtrace(x, gamma, 1.0, 1.0).targets
    num_steps = x["r"].shape[1]
    powers = gamma ** np.arange(num_steps)
    expected = x["r"] @ powers + gamma**num_steps * x["v"][:, -1]
    np.testing.assert_allclose(targets[:, 0], expected, atol=1e-9)


def test_q26_last_step_learns_from_the_bootstrap_value() -> None:
    """The original made up a V_T for which the last TD error is exactly 0."""
    returns = vtrace(
        f64([[1.0, 1.0]]),
        f64([[0.0, 1.0]]),
        torch.zeros(1, 2, dtype=torch.bool),
        f64([[0.0, 0.0, 10.0]]),
        torch.ones(1, 3, dtype=torch.bool),
        gamma=0.9,
        rho_clip=1.0,
        c_clip=1.0,
    )
    torch.testing.assert_close(returns.advantages, f64([[9.0, 10.0]]))
    torch.testing.assert_close(returns.targets, f64([[9.0, 10.0]]))


def test_q26_invalid_samples_do_not_enter_vtrace() -> None:
    """Whatever stands in invalid slots, NaN included, changes no valid result."""
    rng = np.random.default_rng(1)
    shape = (3, 6)
    x = {
        "r": rng.normal(size=shape),
        "d": np.zeros(shape, dtype=bool),
        "v": rng.normal(size=(3, 7)),
        "m": np.ones((3, 7), dtype=bool),
        "ratio": np.exp(rng.normal(size=shape)),
    }
    x["m"][0, 2:4] = False
    x["m"][1, 5:] = False
    clean = run_vtrace(x, 0.9, 1.0, 1.0)
    invalid = ~x["m"]
    x["v"][invalid] = np.nan
    x["r"][invalid[:, :-1]] = 1e30
    x["ratio"][invalid[:, :-1]] = np.nan
    dirty = run_vtrace(x, 0.9, 1.0, 1.0)
    valid = x["m"][:, :-1]
    np.testing.assert_array_equal(dirty.advantages.numpy()[valid], clean.advantages.numpy()[valid])
    np.testing.assert_array_equal(dirty.targets.numpy()[valid], clean.targets.numpy()[valid])


def test_time_out_bootstrap() -> None:
    """Q57: V(s_t) of the acted state stands in for the observation nobody stored; other ends get nothing."""
    rewards = bootstrap_time_outs(
        f64([[1.0, 1.0, 1.0]]),
        f64([[10.0, 20.0, 30.0, 40.0]]),
        torch.tensor([[True, False, True]]),
        torch.tensor([[True, True, False]]),
        0.5,
    )
    torch.testing.assert_close(rewards, f64([[6.0, 1.0, 1.0]]))


def test_shape_checks_come_first() -> None:
    ones = torch.ones
    with pytest.raises(ValueError, match="values must be"):
        gae(ones(2, 3), ones(2, 3), ones(2, 3), ones(2, 4), 0.9, 0.9)
    with pytest.raises(ValueError, match="dones"):
        gae(ones(2, 3), ones(3, 2), ones(2, 4), ones(2, 4), 0.9, 0.9)
    with pytest.raises(ValueError, match="ratio"):
        vtrace(ones(6), ones(2, 3), ones(2, 3), ones(2, 4), ones(2, 4), gamma=0.9, rho_clip=1.0, c_clip=1.0)
    with pytest.raises(ValueError, match=r"rewards must be \[N, T\]"):
        bootstrap_time_outs(ones(6), ones(7), ones(6), ones(6), 0.9)
