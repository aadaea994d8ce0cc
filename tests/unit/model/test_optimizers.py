"""Optimisers against plain implementations, and the portability of their state."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sample_factory.algo.utils.optimizers import Lamb, PortableAdam, make_optimizer
from tests.model_configs import model_cfg


def _parameters(seed: int = 0) -> list[nn.Parameter]:
    rng = torch.Generator().manual_seed(seed)
    return [
        nn.Parameter(torch.randn(3, 2, generator=rng)),
        nn.Parameter(torch.zeros(2)),
        nn.Parameter(20 * torch.ones(4)),
    ]


def _run(optimizer: Any, params: list[nn.Parameter], num_steps: int, seed: int = 1) -> None:
    rng = torch.Generator().manual_seed(seed)
    for _ in range(num_steps):
        for p in params:
            p.grad = torch.randn(p.shape, generator=rng)
        optimizer.step()


def _slow_lamb(params: list[Tensor], num_steps: int, options: dict[str, Any], seed: int = 1) -> list[Tensor]:
    """The formulas of the docstring, one parameter at a time, in float64."""
    rng = torch.Generator().manual_seed(seed)
    params = [p.detach().double() for p in params]
    moments, squares = [torch.zeros_like(p) for p in params], [torch.zeros_like(p) for p in params]
    slow = [p.clone() for p in params]
    beta1, beta2 = options.get("betas", (0.9, 0.999))
    min_trust = options.get("min_trust", 0.01)
    for step in range(1, num_steps + 1):
        for i, p in enumerate(params):
            grad = torch.randn(p.shape, generator=rng).double()
            moments[i] = beta1 * moments[i] + (1 - beta1) * grad
            squares[i] = beta2 * squares[i] + (1 - beta2) * grad**2
            corrected = options.get("bias_correction", True)
            m = moments[i] / (1 - beta1**step) if corrected else moments[i]
            v = squares[i].sqrt() / (math.sqrt(1 - beta2**step) if corrected else 1.0)
            update = m / (v + 1e-6) + options.get("weight_decay", 1e-4) * p
            weight_norm, update_norm = p.norm().item(), update.norm().item()
            trust = 1.0
            if min_trust != 1.0 and weight_norm > 0 and update_norm > 0:
                trust = min(max(min(weight_norm, 10.0) / update_norm, min_trust), 1.0 / min_trust)
            p -= 0.01 * trust * update
            if options.get("use_look_ahead") and step % options["look_ahead_k"] == 0:
                slow[i] += options.get("look_ahead_alpha", 0.5) * (p - slow[i])
                p.copy_(slow[i])
    return params


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"betas": (0.8, 0.9), "weight_decay": 0.0},
        {"bias_correction": False},
        {"min_trust": 1.0},
        {"min_trust": 0.5},
        {"use_look_ahead": True, "look_ahead_k": 3, "look_ahead_alpha": 0.7},
    ],
    ids=str,
)
def test_lamb_equals_its_formulas(options: dict[str, Any]) -> None:
    params = _parameters()
    expected = _slow_lamb([p.clone() for p in params], 7, options)
    _run(Lamb(params, lr=0.01, **options), params, 7)
    for p, q in zip(params, expected, strict=True):
        torch.testing.assert_close(p.detach().double(), q, atol=1e-5, rtol=1e-5)


def test_lamb_state_resumes() -> None:
    params, twins = _parameters(), _parameters()
    first, second = (Lamb(p, lr=0.01, use_look_ahead=True, look_ahead_k=4) for p in (params, twins))
    _run(first, params, 5)
    _run(second, twins, 5)
    assert first.state[params[0]].keys() == {"exp_avg", "exp_avg_sq", "step", "slow_param"}
    assert first.state[params[0]]["step"] == 6, "the number of the next step, as in existing checkpoints"
    resumed = Lamb(params, lr=0.5)
    resumed.load_state_dict(copy.deepcopy(first.state_dict()))
    _run(resumed, params, 5, seed=2)
    _run(second, twins, 5, seed=2)
    for p, q in zip(params, twins, strict=True):
        torch.testing.assert_close(p, q)


def test_lamb_skips_parameters_without_gradient() -> None:
    params = _parameters()
    optimizer = Lamb(params)
    params[0].grad = torch.ones(3, 2)
    before = [p.detach().clone() for p in params]
    optimizer.step()
    assert not torch.equal(params[0], before[0]) and torch.equal(params[2], before[2])


@pytest.mark.parametrize("options", [{"lr": -1.0}, {"betas": (1.0, 0.9)}, {"min_trust": 0.0}], ids=str)
def test_lamb_refuses_nonsense(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Lamb(_parameters(), **options)


def test_lamb_may_begin_or_end_without_moving() -> None:
    """Schedules reach a learning rate of 0."""
    params = _parameters()
    before = [p.detach().clone() for p in params]
    _run(Lamb(params, lr=0.0), params, 2)
    assert all(torch.equal(p, old) for p, old in zip(params, before, strict=True))


def test_make_optimizer_reads_the_configuration() -> None:
    cfg = model_cfg(learning_rate=0.5, adam_beta1=0.1, adam_beta2=0.2, adam_eps=0.3)
    for name, cls in (("adam", torch.optim.Adam), ("lamb", Lamb)):
        optimizer = make_optimizer(model_cfg(**{**cfg, "optimizer": name}), _parameters())
        assert isinstance(optimizer, cls)
        (group,) = optimizer.param_groups
        assert (group["lr"], group["betas"], group["eps"]) == (0.5, (0.1, 0.2), 0.3)
    with pytest.raises(ValueError, match="sgd"):
        make_optimizer(model_cfg(optimizer="sgd"), _parameters())


def test_adam_is_fused_where_possible() -> None:
    assert make_optimizer(model_cfg(), _parameters()).param_groups[0]["fused"]
    half = [nn.Parameter(torch.zeros(2, dtype=torch.float16))]
    assert not make_optimizer(model_cfg(), half).param_groups[0]["fused"]


def test_adam_equals_plain_adam() -> None:
    params, twins = _parameters(), _parameters()
    _run(make_optimizer(model_cfg(learning_rate=0.01), params), params, 20)
    _run(torch.optim.Adam(twins, lr=0.01, eps=1e-6), twins, 20)
    for p, q in zip(params, twins, strict=True):
        torch.testing.assert_close(p, q)


@pytest.mark.parametrize("direction", ["ours to plain", "plain to ours"])
def test_adam_state_moves_between_implementations(direction: str) -> None:
    params, twins = _parameters(), _parameters()
    ours, plain = PortableAdam(params, lr=0.01, fused=True), torch.optim.Adam(twins, lr=0.01)
    _run(ours, params, 5)
    _run(plain, twins, 5)
    if direction == "ours to plain":
        plain = torch.optim.Adam(twins, lr=0.5)
        plain.load_state_dict(copy.deepcopy(ours.state_dict()))
        assert plain.param_groups[0]["fused"] is None
    else:
        ours = PortableAdam(params, lr=0.5, fused=True)
        ours.load_state_dict(copy.deepcopy(plain.state_dict()))
        assert ours.param_groups[0]["fused"] is True
    _run(ours, params, 5, seed=2)
    _run(plain, twins, 5, seed=2)
    for p, q in zip(params, twins, strict=True):
        torch.testing.assert_close(p, q)


def test_loading_does_not_change_the_given_state() -> None:
    params = _parameters()
    ours = PortableAdam(params, lr=0.01, fused=True)
    _run(ours, params, 2)
    saved = copy.deepcopy(torch.optim.Adam(_parameters(), lr=0.01).state_dict())
    before = copy.deepcopy(saved)
    ours.load_state_dict(saved)
    assert saved == before


def test_mismatching_state_is_refused() -> None:
    other = torch.optim.Adam([nn.Parameter(torch.zeros(1))])
    with pytest.raises(ValueError, match="size"):
        PortableAdam(_parameters(), fused=True).load_state_dict(other.state_dict())
