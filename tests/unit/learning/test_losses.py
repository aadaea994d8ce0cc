"""Losses against an independent float64 NumPy implementation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from sample_factory.algo.learning import losses
from sample_factory.algo.learning.losses import SampleMask
from sample_factory.algo.utils.action_distributions import get_action_distribution

RNG = np.random.default_rng(7)
B = 24


def mask_of(valid: np.ndarray) -> SampleMask:
    return SampleMask.make(torch.from_numpy(valid), int((~valid).sum()))


@pytest.fixture(params=["all_valid", "some_invalid", "one_valid"])
def valid(request: pytest.FixtureRequest) -> np.ndarray:
    mask = np.ones(B, dtype=bool)
    if request.param == "some_invalid":
        mask[3::5] = False
    if request.param == "one_valid":
        mask[:] = False
        mask[4] = True
    return mask


def with_garbage(x: np.ndarray, valid: np.ndarray) -> torch.Tensor:
    """Float64 tensor with NaN at the invalid samples: they must not matter."""
    return torch.from_numpy(np.where(valid, x, np.nan))


def test_ratio_is_clamped() -> None:
    old = torch.zeros(4, dtype=torch.float64)
    new = torch.tensor([-100.0, np.log(0.5), np.log(3.0), 100.0], dtype=torch.float64)
    torch.testing.assert_close(
        losses.importance_ratio(new, old), torch.tensor([0.05, 0.5, 3.0, 20.0], dtype=torch.float64)
    )


def test_normalize_advantages(valid: np.ndarray) -> None:
    adv = RNG.normal(2.0, 3.0, size=B)
    normalized, mean, std = losses.normalize_advantages(with_garbage(adv, valid), mask_of(valid))
    chosen = adv[valid]
    expected_std = chosen.std(ddof=1) if len(chosen) > 1 else 0.0
    assert mean.item() == pytest.approx(chosen.mean(), abs=1e-9)
    assert std.item() == pytest.approx(expected_std)
    expected = (chosen - chosen.mean()) / max(expected_std, 1e-7)
    np.testing.assert_allclose(normalized.numpy()[valid], expected, atol=1e-12)
    assert (normalized.numpy()[~valid] == 0).all()


def test_constant_advantages_give_zero() -> None:
    normalized, _, _ = losses.normalize_advantages(torch.full([5], 3.0), SampleMask(None, 5))
    assert (normalized == 0).all()


def test_policy_loss(valid: np.ndarray) -> None:
    ratio, adv = np.exp(RNG.normal(scale=0.4, size=B)), RNG.normal(size=B)
    high = 1.2
    low = 1 / high
    surrogate = [min(r * a, min(max(r, low), high) * a) for r, a in zip(ratio, adv, strict=True)]
    expected = -np.mean(np.array(surrogate)[valid])
    loss = losses.clipped_policy_loss(with_garbage(ratio, valid), torch.from_numpy(adv), low, high, mask_of(valid))
    assert loss.item() == pytest.approx(expected)


def test_value_loss(valid: np.ndarray) -> None:
    v, v_old, y = RNG.normal(size=B), RNG.normal(size=B), RNG.normal(size=B)
    clipped = v_old + np.clip(v - v_old, -0.2, 0.2)
    expected = 0.7 * np.mean(np.maximum((v - y) ** 2, (clipped - y) ** 2)[valid])
    loss = losses.clipped_value_loss(
        with_garbage(v, valid), torch.from_numpy(v_old), torch.from_numpy(y), 0.2, 0.7, mask_of(valid)
    )
    assert loss.item() == pytest.approx(expected)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def test_entropy_symmetric_kl_and_fixed_kl_of_discrete_actions(valid: np.ndarray) -> None:
    logits, old_logits = RNG.normal(size=(B, 3)), RNG.normal(size=(B, 3))
    space = spaces.Discrete(3)
    distribution = get_action_distribution(space, torch.from_numpy(logits))
    old = get_action_distribution(space, torch.from_numpy(old_logits))
    p, q = softmax(logits), softmax(old_logits)
    mask = mask_of(valid)

    entropy = -(p * np.log(p)).sum(axis=1)
    loss = losses.exploration_loss(distribution, "entropy", 0.1, mask)
    assert float(loss) == pytest.approx(-0.1 * entropy[valid].mean())

    symmetric = 0.5 * ((p * np.log(3 * p)).sum(axis=1) + (np.log(1 / (3 * p)) / 3).sum(axis=1))
    loss = losses.exploration_loss(distribution, "symmetric_kl", 0.1, mask)
    assert float(loss) == pytest.approx(0.1 * symmetric[valid].mean())

    kl = (p * np.log(p / q)).sum(axis=1)
    kl_old, kl_loss = losses.fixed_kl_loss(distribution, old, 0.3, mask)
    assert kl_old is not None
    np.testing.assert_allclose(kl_old.numpy(), np.where(valid, kl, 0.0), atol=1e-12)
    assert float(kl_loss) == pytest.approx(0.3 * kl[valid].mean())


def test_zero_coefficients_give_plain_zeros() -> None:
    distribution = get_action_distribution(spaces.Discrete(2), torch.zeros(4, 2))
    mask = SampleMask(None, 4)
    assert losses.exploration_loss(distribution, "entropy", 0.0, mask) == 0.0
    assert losses.fixed_kl_loss(distribution, distribution, 0.0, mask) == (None, 0.0)


class _Kl:
    def __init__(self, values: list[float]) -> None:
        self.values = torch.tensor(values, requires_grad=True)

    def symmetric_kl_with_uniform_prior(self) -> torch.Tensor:
        return self.values


def test_symmetric_kl_is_capped_and_never_infinite() -> None:
    assert losses.symmetric_kl_loss(_Kl([100.0, 50.0]), 0.5, SampleMask(None, 2)).item() == 15.0
    assert losses.symmetric_kl_loss(_Kl([1.0, np.inf]), 0.5, SampleMask(None, 2)).item() == 0.0
    assert losses.symmetric_kl_loss(_Kl([1.0, np.nan]), 0.5, SampleMask(None, 2)).item() == 0.0


@pytest.mark.parametrize(
    "space",
    [spaces.Box(-1, 1, (2,)), spaces.Tuple([spaces.Discrete(3), spaces.Box(-1, 1, (2,))])],
    ids=["box", "tuple"],
)
def test_q28_symmetric_kl_works_for_continuous_actions(space: Any) -> None:
    """A narrower Gaussian is punished more; the gradient pulls log standard deviations up."""
    num_params = 4 if isinstance(space, spaces.Box) else 7
    logits = torch.zeros(B, num_params)
    logits[:, -2:] = -3.0  # log standard deviations
    logits.requires_grad_()
    loss = losses.exploration_loss(get_action_distribution(space, logits), "symmetric_kl", 1e-3, SampleMask(None, B))
    assert isinstance(loss, torch.Tensor) and torch.isfinite(loss)
    loss.backward()
    assert logits.grad is not None and torch.isfinite(logits.grad).all()
    wide = torch.zeros(B, num_params)
    wide_loss = losses.exploration_loss(get_action_distribution(space, wide), "symmetric_kl", 1e-3, SampleMask(None, B))
    assert float(wide_loss) < loss.item()


def test_unknown_exploration_loss() -> None:
    with pytest.raises(ValueError, match="--exploration_loss=entropi"):
        losses.exploration_loss(None, "entropi", 0.1, SampleMask(None, 1))


def test_broadcasting_mistakes_are_caught() -> None:
    with pytest.raises(ValueError, match=r"one shape \[B\]"):
        losses.importance_ratio(torch.zeros(4, 1), torch.zeros(4))
    with pytest.raises(ValueError, match="values"):
        losses.clipped_value_loss(torch.zeros(4), torch.zeros(4), torch.zeros(3), 1.0, 1.0, SampleMask(None, 4))


def test_masked_loss_has_the_gradient_of_the_selected_samples() -> None:
    valid = np.ones(B, dtype=bool)
    valid[::3] = False
    v, v_old, y = (torch.from_numpy(RNG.normal(size=B)) for _ in range(3))
    v.requires_grad_()
    losses.clipped_value_loss(v, v_old, y, 1.0, 1.0, mask_of(valid)).backward()
    masked_grad = v.grad
    v.grad = None
    index = torch.from_numpy(np.flatnonzero(valid))
    losses.clipped_value_loss(v[index], v_old[index], y[index], 1.0, 1.0, SampleMask(None, len(index))).backward()
    torch.testing.assert_close(masked_grad, v.grad)
