"""Which hyperparameters hold after a resume, and how several policies stay apart or replace each other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sample_factory.algo.learning.learner import Learner

from .learner_setup import checkpoint_folder, make_batch, make_cfg, make_learner, weights

# --- hyperparameters on resume ---


def test_q11_explicit_flags_win_over_the_checkpoint(tmp_path: Path) -> None:
    learner = make_learner(make_cfg(tmp_path, "--learning_rate=0.003"))
    learner.train(make_batch(learner))
    learner.save()

    silent = make_cfg(tmp_path)
    silent.learning_rate = 0.003  # as read from config.json
    resumed = make_learner(silent)
    assert resumed.curr_lr == 0.003

    resumed = make_learner(
        make_cfg(tmp_path, "--learning_rate=0.0007", "--adam_beta1=0.8", "--adam_beta2=0.99", "--adam_eps=1e-5")
    )
    group = resumed.optimizer.param_groups[0]
    assert resumed.curr_lr == 0.0007 and group["lr"] == 0.0007
    assert group["betas"] == (0.8, 0.99) and group["eps"] == 1e-5
    assert resumed.train_step == 1 and resumed.optimizer.state, "everything else continues"


def test_q11_repeating_the_command_line_keeps_the_adapted_learning_rate(tmp_path: Path) -> None:
    """A requeued job passes --learning_rate again: that is no wish to change it."""
    flags = ("--learning_rate=0.001", "--lr_schedule=kl_adaptive_epoch", "--lr_schedule_kl_threshold=1000")
    learner = make_learner(make_cfg(tmp_path, *flags))
    learner.train(make_batch(learner))
    assert learner.curr_lr == pytest.approx(0.0015)
    learner.save()
    assert make_learner(make_cfg(tmp_path, *flags)).curr_lr == pytest.approx(0.0015)
    changed = make_learner(make_cfg(tmp_path, *flags, "--learning_rate=0.0002"))
    assert changed.curr_lr == 0.0002


def save_as_the_original(learner: Learner, path: Path) -> None:
    """It does not know which learning rate a run began with."""
    learner.save()
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["optimizer"]["param_groups"][0]["initial_lr"]
    torch.save(checkpoint, path)


def test_q11_repeating_the_command_line_of_the_original_keeps_the_adapted_learning_rate(tmp_path: Path) -> None:
    flags = ("--learning_rate=0.001", "--lr_schedule=kl_adaptive_epoch", "--lr_schedule_kl_threshold=1000")
    learner = make_learner(make_cfg(tmp_path, *flags))
    learner.train(make_batch(learner))
    save_as_the_original(learner, checkpoint_folder(tmp_path) / "checkpoint_000000001_32.pth")
    resumed = make_learner(make_cfg(tmp_path, *flags))
    assert resumed.curr_lr == resumed.optimizer.param_groups[0]["lr"] == pytest.approx(0.0015)


def test_q11_explicit_learning_rate_over_a_checkpoint_of_the_original(tmp_path: Path) -> None:
    learner = make_learner(make_cfg(tmp_path))
    learner.train(make_batch(learner))
    save_as_the_original(learner, checkpoint_folder(tmp_path) / "checkpoint_000000001_32.pth")
    assert make_learner(make_cfg(tmp_path, "--learning_rate=0.0002")).curr_lr == 0.0002
    assert make_learner(make_cfg(tmp_path)).curr_lr == 0.01


# --- several policies ---


def test_q13_policies_differ_and_runs_repeat(tmp_path: Path) -> None:
    def first_weights(policy_id: int, num_policies: int) -> torch.Tensor:
        cfg = make_cfg(tmp_path / f"{policy_id}{num_policies}", f"--num_policies={num_policies}")
        return weights(make_learner(cfg, policy_id=policy_id))["encoder.encoders.obs.mlp_head.0.weight"]

    alone, p0, p1 = first_weights(0, 1), first_weights(0, 2), first_weights(1, 2)
    assert torch.equal(alone, p0)
    assert not torch.equal(p0, p1)
    assert torch.equal(p1, first_weights(1, 2))


def test_q13_single_policy_keeps_the_numbers_of_the_seed(tmp_path: Path) -> None:
    learner = make_learner(make_cfg(tmp_path))
    torch.manual_seed(5)
    expected = torch.nn.Linear(4, 8).weight
    assert torch.equal(weights(learner)["encoder.encoders.obs.mlp_head.0.weight"], expected)


def test_q13_minibatch_order_depends_on_seed_and_policy(tmp_path: Path) -> None:
    def order(policy_id: int, seed: int) -> list[int]:
        cfg = make_cfg(tmp_path, f"--seed={seed}", "--num_policies=2")
        learner = make_learner(cfg, policy_id=policy_id)
        return learner._rng.permutation(20).tolist()

    assert order(0, 5) == order(0, 5)
    assert order(0, 5) != order(1, 5) != order(1, 6)


def test_q18_learners_do_not_share_their_configuration(tmp_path: Path) -> None:
    cfg = make_cfg(tmp_path, "--num_policies=2")
    learners = [make_learner(cfg, policy_id=i) for i in range(2)]
    learners[0].set_new_cfg({"gamma": 0.5, "learning_rate": 0.002})
    learners[0].train(make_batch(learners[0]))
    learners[1].train(make_batch(learners[1]))
    assert (learners[0].cfg.gamma, learners[0].curr_lr) == (0.5, 0.002)
    assert (learners[1].cfg.gamma, learners[1].curr_lr) == (0.99, 0.01)
    assert cfg.gamma == 0.99


def test_new_configuration_reaches_the_optimizer(tmp_path: Path) -> None:
    learner = make_learner(make_cfg(tmp_path))
    learner.set_new_cfg({"learning_rate": 0.004, "adam_beta1": 0.7, "max_grad_norm": 0.01})
    assert learner.cfg.learning_rate == 0.01, "applied with the next batch"
    message = learner.train(make_batch(learner))
    group = learner.optimizer.param_groups[0]
    assert learner.curr_lr == 0.004 and group["lr"] == 0.004 and group["betas"] == (0.7, 0.999)
    assert message is not None and message["train"]["grad_norm"] <= 0.01 + 1e-6


def test_adaptive_learning_rate_is_not_overwritten_by_a_new_configuration(tmp_path: Path) -> None:
    learner = make_learner(make_cfg(tmp_path, "--lr_schedule=kl_adaptive_epoch", "--lr_schedule_kl_threshold=1e-9"))
    learner.curr_lr = 0.05
    learner.set_new_cfg({"learning_rate": 0.004})
    learner.train(make_batch(learner))
    assert learner.curr_lr == pytest.approx(0.05 / 1.5)


def test_loading_another_policy(tmp_path: Path) -> None:
    cfg = make_cfg(tmp_path, "--num_policies=2")
    source, target = (make_learner(cfg, policy_id=i) for i in range(2))
    for seed in range(3):
        source.train(make_batch(source, seed))
    source.save()
    target.train(make_batch(target))
    target.set_policy_to_load(0)
    target.set_new_cfg({"learning_rate": 0.002})
    old_experience = make_batch(target)
    assert target.train(old_experience) is None, "experience of the replaced weights is too old"
    assert target.train_step == 1 + 1000 + 1 == int(target.policy_versions_tensor[1])
    assert target.env_steps == 32, "progress counters are kept"
    for name, value in weights(source).items():
        assert torch.equal(value, weights(target)[name]), name
    assert target.curr_lr == 0.002, "the perturbed learning rate wins over that of the loaded optimiser"
    assert target.train(make_batch(target)) is not None


def test_loading_an_unreadable_policy_keeps_the_own_weights(tmp_path: Path) -> None:
    cfg = make_cfg(tmp_path, "--num_policies=2")
    target = make_learner(cfg, policy_id=1)
    checkpoint_folder(tmp_path, 0).mkdir(parents=True)
    broken = checkpoint_folder(tmp_path, 0) / "checkpoint_000000001_32.pth"
    broken.write_bytes(b"")
    target.set_policy_to_load(0)
    assert target.train(make_batch(target)) is not None
    assert target.train_step == 1
    assert broken.exists(), "another policy's folder is not touched"
