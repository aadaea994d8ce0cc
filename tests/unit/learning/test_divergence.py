"""Updates and states that are not finite: skipped, gone back from, never saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sample_factory.algo.learning.checkpoints import read_checkpoint
from sample_factory.algo.learning.gradient_step import DivergedError, GradientStep
from sample_factory.algo.learning.learner import Learner
from sample_factory.utils.attr_dict import AttrDict

from .learner_setup import checkpoint_folder, make_batch, make_cfg, make_learner, weights

MAX_SKIPS = 20  # the default of --max_skipped_updates


class Exploding(Learner):
    """Loss of NaN in the updates whose number is in ``bad``."""

    bad: set[int] = set()
    calls = 0

    def _calculate_losses(self, mb: AttrDict, num_invalids: int) -> Any:
        result = super()._calculate_losses(mb, num_invalids)
        Exploding.calls += 1
        if Exploding.calls - 1 not in Exploding.bad:
            return result
        distribution, policy_loss, *others = result
        return distribution, policy_loss * float("nan"), *others


@pytest.fixture
def exploding(tmp_path: Path) -> Learner:
    Exploding.calls = 0
    return make_learner(make_cfg(tmp_path, "--num_epochs=2"), cls=Exploding)


@pytest.mark.parametrize("optimizer", ["adam", "lamb"])
def test_L3_non_finite_gradient_skips_the_step(tmp_path: Path, optimizer: str) -> None:
    Exploding.calls, Exploding.bad = 0, {1}
    learner = make_learner(make_cfg(tmp_path / "a", "--num_epochs=2", f"--optimizer={optimizer}"), cls=Exploding)
    message = learner.train(make_batch(learner))
    assert message is not None and message["train"]["num_skipped_sgd_steps"] == 1
    assert learner.train_step == 1
    Exploding.calls, Exploding.bad = 0, set()
    clean = make_learner(make_cfg(tmp_path / "b", "--num_epochs=1", f"--optimizer={optimizer}"), cls=Exploding)
    clean.train(make_batch(clean))
    for name, value in weights(clean).items():
        assert torch.equal(value, weights(learner)[name]), name
    assert learner.save()


def test_L3_without_a_checkpoint_many_bad_gradients_end_the_run(exploding: Learner) -> None:
    Exploding.bad = set(range(1000))
    before = weights(exploding)
    with pytest.raises(DivergedError, match="--learning_rate"):
        for _ in range(MAX_SKIPS):
            exploding.train(make_batch(exploding))
    assert Exploding.calls == MAX_SKIPS
    for name, value in weights(exploding).items():
        assert torch.equal(value, before[name]), name
    assert exploding.save(), "the emergency checkpoint holds the finite weights"


def test_L3_single_bad_steps_are_forgiven(exploding: Learner) -> None:
    Exploding.bad = set(range(0, 200, 2))
    for _ in range(MAX_SKIPS + 5):
        exploding.train(make_batch(exploding))
    assert exploding.train_step == MAX_SKIPS + 5


def test_L3_skipping_decided_on_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of fused CUDA optimisers, which the CPU's fused Adam supports as well: same weights, same counters."""
    results = []
    for on_device in (False, True):
        monkeypatch.setattr(GradientStep, "decides_on_device", on_device)
        Exploding.calls, Exploding.bad = 0, {0, 2, 3}
        cfg = make_cfg(tmp_path / str(on_device), "--num_epochs=3", "--num_batches_per_epoch=2")
        learner = make_learner(cfg, cls=Exploding)
        message = learner.train(make_batch(learner))
        assert message is not None and message["train"]["num_skipped_sgd_steps"] == 3
        assert learner.train_step == 3
        results.append(learner._get_checkpoint_dict())
    for section in ("model", "optimizer"):
        assert str(results[0][section]) == str(results[1][section])


def test_L3_divergence_is_noticed_when_the_device_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GradientStep, "decides_on_device", True)
    Exploding.calls, Exploding.bad = 0, set(range(1000))
    learner = make_learner(make_cfg(tmp_path), cls=Exploding)
    with pytest.raises(DivergedError):
        for _ in range(MAX_SKIPS):
            learner.train(make_batch(learner))


# --- going back ---


def diverge(learner: Learner, num_updates: int) -> None:
    """That many bad gradients in a row."""
    Exploding.bad = set(range(Exploding.calls, Exploding.calls + num_updates))
    for _ in range(num_updates):
        learner.train(make_batch(learner))


def make_diverging(tmp_path: Path, *flags: str) -> Learner:
    Exploding.calls, Exploding.bad = 0, set()
    return make_learner(make_cfg(tmp_path, *flags), cls=Exploding)


@pytest.mark.parametrize("optimizer", ["adam", "lamb"])
def test_L3_many_bad_gradients_in_a_row_roll_back(tmp_path: Path, optimizer: str) -> None:
    """Weights, moments and learning rate are those of the newest checkpoint; counters and training go on."""
    flags = ("--max_skipped_updates=4", f"--optimizer={optimizer}", "--lr_schedule=kl_adaptive_epoch")
    learner = make_diverging(tmp_path, *flags)
    learner.train(make_batch(learner))
    learner.save()
    saved = read_checkpoint(str(checkpoint_folder(tmp_path) / "checkpoint_000000001_32.pth"), "cpu")
    for seed in range(3):
        learner.train(make_batch(learner, seed))
    env_steps, train_step = learner.env_steps, learner.train_step

    diverge(learner, 3)
    assert learner.train_step == train_step, "three are forgiven"
    learner.train(make_batch(learner))
    diverge(learner, 4)
    for name, value in saved["model"].items():
        assert torch.equal(learner.actor_critic.state_dict()[name], value), name
    for i, state in saved["optimizer"]["state"].items():
        assert torch.equal(learner.optimizer.state_dict()["state"][i]["exp_avg_sq"], state["exp_avg_sq"])
    assert learner.curr_lr == saved["curr_lr"]
    assert learner.env_steps > env_steps, "steps are not counted backwards"
    assert learner.train_step > train_step + learner.cfg.max_policy_lag, "what was collected meanwhile is too old"
    assert int(learner.policy_versions_tensor[0]) == learner.train_step

    learner.last_summary_time = 0.0
    message = learner.train(make_batch(learner))
    assert message is not None
    assert message["train"]["num_skipped_sgd_steps"] == 7 and message["train"]["num_rollbacks"] == 1
    assert learner.save() and make_learner(make_cfg(tmp_path, *flags)).train_step == learner.train_step


def test_L3_rollbacks_are_limited(tmp_path: Path) -> None:
    learner = make_diverging(tmp_path, "--max_skipped_updates=2", "--max_rollbacks=1")
    learner.save()
    diverge(learner, 2)
    learner.train(make_batch(learner))
    with pytest.raises(DivergedError, match="2 updates in a row"):
        diverge(learner, 2)

    never = make_diverging(tmp_path, "--max_skipped_updates=2", "--max_rollbacks=0")
    with pytest.raises(DivergedError):
        diverge(never, 2)


def test_L3_after_going_back_as_many_updates_are_forgiven_as_before(tmp_path: Path) -> None:
    learner = make_diverging(tmp_path, "--max_skipped_updates=2", "--max_rollbacks=1")
    learner.save()
    diverge(learner, 2)
    diverge(learner, 1)
    assert learner.train(make_batch(learner)) is not None


@pytest.mark.parametrize("where", ["weights", "moments"])
def test_L3_state_that_is_not_finite_is_not_saved_and_left_behind(tmp_path: Path, where: str) -> None:
    """However it came about: the file before stays the newest, and the policy continues from it."""
    learner = make_diverging(tmp_path)
    learner.train(make_batch(learner))
    learner.save()
    good = weights(learner)
    learner.train(make_batch(learner))
    with torch.no_grad():
        parameter = next(iter(learner.actor_critic.parameters()))
        target = parameter if where == "weights" else learner.optimizer.state[parameter]["exp_avg_sq"]
        target[0, 0] = float("inf")
    assert not learner.save() and not learner.save_milestone() and not learner.save_best(0, "reward", 1.0)
    assert learner.best_performance == -1e9
    assert sorted(checkpoint_folder(tmp_path).glob("*.pth"))[0].name == "checkpoint_000000001_32.pth"
    assert len(list(checkpoint_folder(tmp_path).rglob("*.pth"))) == 1

    batch = make_batch(learner)
    assert learner.train(batch) is None, "collected with the lost weights: too old"
    for name, value in good.items():
        assert torch.equal(weights(learner)[name], value), name
    assert learner.train(make_batch(learner)) is not None and learner.save()


def test_L3_run_with_a_lost_state_does_not_end_well(tmp_path: Path) -> None:
    learner = make_diverging(tmp_path)
    learner.save()
    learner.train(make_batch(learner))
    with torch.no_grad():
        next(iter(learner.actor_critic.parameters())).fill_(float("nan"))
    with pytest.raises(RuntimeError, match=r"could not be saved(?s:.*)not finite"):
        learner.save_finally()
