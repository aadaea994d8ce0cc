from __future__ import annotations

from typing import Any

import pytest

from sample_factory.algo.learning.lr_schedules import get_lr_scheduler
from sample_factory.utils.attr_dict import AttrDict


def make_cfg(**kwargs: Any) -> AttrDict:
    cfg = AttrDict(
        lr_schedule="constant",
        learning_rate=1e-3,
        lr_schedule_kl_threshold=0.01,
        lr_adaptive_min=1e-6,
        lr_adaptive_max=1e-2,
        train_for_env_steps=10000,
        batch_size=300,
        num_batches_per_epoch=1,
        num_epochs=2,
        env_frameskip=1,
        summaries_use_frameskip=True,
    )
    cfg.update(kwargs)
    return cfg


def test_constant() -> None:
    scheduler = get_lr_scheduler(make_cfg())
    assert scheduler.update(3e-4, [1.0]) == 3e-4
    assert not scheduler.invoke_after_each_minibatch() and not scheduler.invoke_after_each_epoch()
    assert scheduler.on_iteration_start(3e-4, 5000) == 3e-4


def test_unknown_name() -> None:
    with pytest.raises(RuntimeError, match="--lr_schedule=cosine"):
        get_lr_scheduler(make_cfg(lr_schedule="cosine"))


@pytest.mark.parametrize(
    "kl, expected",
    [(0.021, 1e-3 / 1.5), (0.02, 1e-3), (0.01, 1e-3), (0.005, 1e-3), (0.0049, 1.5e-3), (float("nan"), 1e-3)],
)
def test_kl_adaptive_minibatch_uses_the_last_value(kl: float, expected: float) -> None:
    scheduler = get_lr_scheduler(make_cfg(lr_schedule="kl_adaptive_minibatch"))
    assert scheduler.invoke_after_each_minibatch() and not scheduler.invoke_after_each_epoch()
    assert scheduler.update(1e-3, [100.0, kl]) == pytest.approx(expected)


def test_kl_adaptive_epoch_uses_the_mean_of_one_epoch() -> None:
    scheduler = get_lr_scheduler(make_cfg(lr_schedule="kl_adaptive_epoch", num_batches_per_epoch=2))
    assert scheduler.invoke_after_each_epoch() and not scheduler.invoke_after_each_minibatch()
    assert scheduler.update(1e-3, [100.0, 0.03, 0.03]) == pytest.approx(1e-3 / 1.5)
    assert scheduler.update(1e-3, [100.0, 0.001, 0.019]) == 1e-3


def test_kl_adaptive_limits() -> None:
    scheduler = get_lr_scheduler(make_cfg(lr_schedule="kl_adaptive_minibatch"))
    assert scheduler.update(1.2e-6, [1.0]) == 1e-6
    assert scheduler.update(0.9e-2, [0.0]) == 1e-2
    assert scheduler.update(1e-3, []) == 1e-3


def linear_lrs(cfg: AttrDict, num_iterations: int, start_env_steps: int = 0) -> list[float]:
    """Learning rates after every minibatch; a new scheduler object stands for a restarted process."""
    scheduler = get_lr_scheduler(cfg)
    frameskip = cfg.env_frameskip if cfg.summaries_use_frameskip else 1
    env_steps, lr, result = start_env_steps, cfg.learning_rate, []
    for _ in range(num_iterations):
        lr = scheduler.on_iteration_start(lr, env_steps)
        for _ in range(cfg.num_epochs * cfg.num_batches_per_epoch):
            lr = scheduler.update(lr, [])
            result.append(lr)
        env_steps += cfg.batch_size * cfg.num_batches_per_epoch * frameskip
    return result


def test_q12_linear_decay_keeps_the_old_values_without_frameskip() -> None:
    lrs = linear_lrs(make_cfg(lr_schedule="linear_decay"), 33)
    assert lrs[:2] == pytest.approx([0.00098485, 0.00096970], abs=1e-8)
    assert lrs == pytest.approx([1e-3 * (1 - s / 66) for s in range(1, 67)], abs=1e-12)
    assert lrs[-1] == pytest.approx(0.0)


def test_q12_linear_decay_survives_a_restart() -> None:
    cfg = make_cfg(lr_schedule="linear_decay", num_batches_per_epoch=2, batch_size=150)
    uninterrupted = linear_lrs(cfg, 20)
    assert linear_lrs(cfg, 8) + linear_lrs(cfg, 12, start_env_steps=8 * 300) == pytest.approx(uninterrupted)


def test_q12_linear_decay_reaches_zero_with_frameskip() -> None:
    """The original fell to 75 % only: it compared samples with frames."""
    cfg = make_cfg(lr_schedule="linear_decay", env_frameskip=4, train_for_env_steps=40000)
    assert linear_lrs(cfg, 33) == pytest.approx(linear_lrs(make_cfg(lr_schedule="linear_decay"), 33))
    in_samples = make_cfg(lr_schedule="linear_decay", env_frameskip=4, summaries_use_frameskip=False)
    assert linear_lrs(in_samples, 33)[-1] == pytest.approx(0.0)


def test_q12_linear_decay_ignores_early_stopping() -> None:
    """An epoch left out does not shift the schedule: the next iteration starts from the environment steps."""
    scheduler = get_lr_scheduler(make_cfg(lr_schedule="linear_decay"))
    scheduler.on_iteration_start(1e-3, 0)
    scheduler.update(1e-3, [])
    assert scheduler.on_iteration_start(1e-3, 300) == pytest.approx(1e-3 * (1 - 2 / 66))


def test_linear_decay_never_below_zero() -> None:
    scheduler = get_lr_scheduler(make_cfg(lr_schedule="linear_decay"))
    assert scheduler.on_iteration_start(1e-3, 10**6) == 0.0
    assert scheduler.update(0.0, []) == 0.0


def test_linear_decay_shorter_than_one_batch() -> None:
    assert linear_lrs(make_cfg(lr_schedule="linear_decay", train_for_env_steps=10), 1) == [0.0, 0.0]
