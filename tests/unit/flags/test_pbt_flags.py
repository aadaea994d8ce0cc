"""Every flag of population-based training, through a small population."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.pbt.population import make_cfg, start_population

OBJECTIVES = [1.0, 2.0, 3.0, 4.0]


def updated_at(tmp_path: Path, **overrides: Any) -> list[int]:
    """Env steps at which the population was updated, looked at every 10 steps."""
    pbt, runner = start_population(make_cfg(str(tmp_path), **overrides))
    times = []
    for env_steps in range(0, 601, 10):
        runner.report(OBJECTIVES, env_steps)
        pbt.on_training_step(runner, 1)
        if env_steps in pbt.last_update and env_steps > 0:
            times.append(env_steps)
        runner.process_signals()
    return times


def test_with_pbt(tmp_path: Path) -> None:
    assert updated_at(tmp_path / "on", with_pbt=True) != []
    assert updated_at(tmp_path / "off", with_pbt=False) == []


def test_period_and_start(tmp_path: Path) -> None:
    """--pbt_period_env_steps, --pbt_start_mutation"""
    assert updated_at(tmp_path / "a", pbt_start_mutation=200, pbt_period_env_steps=150) == [200, 360, 520]
    assert updated_at(tmp_path / "b", pbt_start_mutation=400, pbt_period_env_steps=50) == [400, 460, 520, 580]


def loaded(tmp_path: Path, objectives: list[float], key: str = "true_objective", **overrides: Any) -> dict[int, bool]:
    """Which policies took over the weights of another one after the first update."""
    pbt, runner = start_population(make_cfg(str(tmp_path), **overrides))
    runner.report(objectives, env_steps=1000, key=key)
    pbt.on_training_step(runner, 1)
    runner.process_signals()
    return {policy: bool(learner.loaded_policies) for policy, learner in runner.learners.items()}


def replaced(tmp_path: Path, objectives: list[float], **overrides: Any) -> list[int]:
    return [policy for policy, is_replaced in loaded(tmp_path, objectives, **overrides).items() if is_replaced]


def test_replace_fraction(tmp_path: Path) -> None:
    assert replaced(tmp_path / "a", OBJECTIVES, pbt_replace_fraction=0.25) == [0]
    assert replaced(tmp_path / "b", OBJECTIVES, pbt_replace_fraction=0.5) == [0, 1]


def test_replace_reward_gap(tmp_path: Path) -> None:
    objectives = [90.0, 99.0, 99.0, 100.0]
    assert replaced(tmp_path / "a", objectives, pbt_replace_reward_gap=0.05) == [0]
    assert replaced(tmp_path / "b", objectives, pbt_replace_reward_gap=0.2) == []


def test_replace_reward_gap_absolute(tmp_path: Path) -> None:
    objectives = [90.0, 99.0, 99.0, 100.0]
    assert replaced(tmp_path / "a", objectives, pbt_replace_reward_gap=0.0, pbt_replace_reward_gap_absolute=5) == [0]
    assert replaced(tmp_path / "b", objectives, pbt_replace_reward_gap=0.0, pbt_replace_reward_gap_absolute=50) == []


def test_target_objective(tmp_path: Path) -> None:
    assert replaced(tmp_path / "a", OBJECTIVES, key="kills", pbt_target_objective="kills") == [0]
    assert replaced(tmp_path / "b", OBJECTIVES, key="kills", pbt_target_objective="true_objective") == []


def test_mutation_rate(tmp_path: Path) -> None:
    for rate, num_changed in ((0.0, 0), (1.0, 6)):
        cfg = make_cfg(str(tmp_path / str(rate)), pbt_mutation_rate=rate)
        pbt, _ = start_population(cfg)
        assert sum(value != cfg[name] for name, value in pbt.policy_cfg[1].items()) == num_changed


def test_optimize_gamma(tmp_path: Path) -> None:
    for optimize in (False, True):
        pbt, runner = start_population(make_cfg(str(tmp_path / str(optimize)), pbt_optimize_gamma=optimize))
        assert ("gamma" in runner.learners[1].received_cfgs[0]) is optimize
        assert (pbt.policy_cfg[1].get("gamma", 0.99) != 0.99) is optimize


@pytest.mark.parametrize("low, high", [(1.1, 1.2), (2.0, 3.0)])
def test_perturb_min_and_max(tmp_path: Path, low: float, high: float) -> None:
    cfg = make_cfg(str(tmp_path), pbt_perturb_min=low, pbt_perturb_max=high)
    pbt, _ = start_population(cfg)
    ratios = [row[name] / cfg[name] for row in pbt.policy_cfg[1:] for name in row]
    factors = [max(ratio, 1 / ratio) for ratio in ratios]
    assert len(factors) == 18 and low - 1e-9 <= min(factors) <= max(factors) <= high + 1e-9
