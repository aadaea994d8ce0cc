"""Every flag about learning changes the learner's numbers the way its help text says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sample_factory.algo.learning.learner import Learner
from sample_factory.algo.learning.policy_update import advantages_and_targets, forward_minibatch
from sample_factory.algo.utils.optimizers import Lamb
from sample_factory.algo.utils.rl_utils import trajectories_per_training_iteration
from sample_factory.algo.utils.torch_utils import allow_tf32
from sample_factory.utils.attr_dict import AttrDict
from tests.unit.learning.learner_setup import make_batch, make_cfg, make_env_info, make_learner, weights

# Raw numbers: nothing between the trajectories and the formulas.
RAW = ("--normalize_returns=False", "--normalize_input=False")


@pytest.fixture
def learner_with(tmp_path: Path) -> Any:
    """Learners that start from the same weights, each in a folder of its own."""
    count = iter(range(100))

    def make(*flags: str, **kwargs: Any) -> Learner:
        return make_learner(make_cfg(tmp_path / str(next(count)), *flags), **kwargs)

    return make


@pytest.fixture
def stats_with(learner_with: Any) -> Any:
    """Statistics of one training iteration."""

    def train(*flags: str) -> dict[str, float]:
        learner = learner_with(*flags)
        return learner.train(make_batch(learner))["train"]

    return train


# --- returns ---


def dataset(learner: Learner, **changes: Any) -> tuple[Any, Any]:
    batch = make_batch(learner)
    for key, value in changes.items():
        batch[key] = value
    return batch, AttrDict(learner._prepare_batch(batch)[0])


@pytest.mark.parametrize("gamma, lam", [(0.9, 0.8), (0.5, 1.0), (1.0, 0.0)])
def test_gamma_and_gae_lambda(learner_with: Any, gamma: float, lam: float) -> None:
    learner = learner_with(*RAW, f"--gamma={gamma}", f"--gae_lambda={lam}")
    batch, data = dataset(learner)
    values = torch.cat([batch["values"][:, :-1], data["values"].new_zeros(4, 1)], dim=1)
    not_done = (~batch["dones"]).float()
    advantages = data.advantages.reshape(4, 8)
    # The bootstrap value is that of the network, so the recursion is checked where it does not enter.
    for t in range(6, -1, -1):
        delta = batch["rewards"][:, t] + gamma * not_done[:, t] * values[:, t + 1] - values[:, t]
        expected = delta + gamma * lam * not_done[:, t] * advantages[:, t + 1]
        torch.testing.assert_close(advantages[:, t], expected)


def test_value_bootstrap(learner_with: Any) -> None:
    batch, data = dataset(learner_with(*RAW, "--value_bootstrap=True", "--gamma=0.5"))
    added = data.rewards.reshape(4, 8) - batch["rewards"]
    expected = torch.where(batch["time_outs"], 0.5 * batch["values"][:, :-1], torch.zeros(4, 8))
    assert batch["time_outs"].any()
    torch.testing.assert_close(added, expected)
    batch, data = dataset(learner_with(*RAW))
    torch.testing.assert_close(data.rewards.reshape(4, 8), batch["rewards"])


def vtrace(learner_with: Any, *flags: str) -> Any:
    learner = learner_with(*RAW, "--with_vtrace=True", "--recurrence=8", *flags)
    _, mb = dataset(learner, dones=torch.zeros(4, 8, dtype=torch.bool))
    with torch.no_grad():
        values = forward_minibatch(learner.actor_critic, mb, learner.cfg)[1]
        result = advantages_and_targets(mb, torch.full((32,), 3.0), values, learner.cfg)
    rewards, next_values = mb.rewards.reshape(4, 8), mb.next_values.reshape(4, 8)
    return result.advantages.reshape(4, 8), result.targets.reshape(4, 8), values.reshape(4, 8), rewards, next_values


def test_with_vtrace_and_rho(learner_with: Any) -> None:
    """--with_vtrace, --vtrace_rho: importance weights of 3 are cut at rho."""
    for rho in (0.5, 2.0):
        advantages, _, values, rewards, next_values = vtrace(learner_with, f"--vtrace_rho={rho}", "--gamma=0.9")
        last = rho * (rewards[:, -1] + 0.9 * next_values[:, -1] - values[:, -1])
        torch.testing.assert_close(advantages[:, -1], last)


def test_vtrace_c(learner_with: Any) -> None:
    """Corrections of later steps reach back with weight c: their share of the first target is c^t."""
    targets = {c: vtrace(learner_with, f"--vtrace_c={c}")[1:3] for c in (0.1, 0.2, 0.4)}
    corrections = {c: target - value for c, (target, value) in targets.items()}
    torch.testing.assert_close(
        corrections[0.1][:, -1], corrections[0.4][:, -1], msg="nothing comes after the last step"
    )
    # Two steps before the end: x = delta + (gamma c) * x', linear in c.
    second_last = {c: x[:, -2] for c, x in corrections.items()}
    slope = (second_last[0.2] - second_last[0.1]) / 0.1
    torch.testing.assert_close(second_last[0.4], second_last[0.1] + 0.3 * slope, atol=1e-5, rtol=1e-4)
    assert float(slope.abs().max()) > 0.1


# --- validity ---


@pytest.mark.parametrize("lag, num_invalid", [(1000, 0), (5, 8), (4, 16), (1, 24)])
def test_max_policy_lag(learner_with: Any, lag: int, num_invalid: int) -> None:
    learner = learner_with(f"--max_policy_lag={lag}")
    learner.train_step = 10
    batch = make_batch(learner)
    batch["policy_version"][:] = torch.tensor([10.0, 9.0, 6.0, 5.0])[:, None]
    assert learner._prepare_batch(batch)[2] == num_invalid


# --- losses ---


def test_exploration_loss_and_coefficient(stats_with: Any) -> None:
    """--exploration_loss, --exploration_loss_coeff"""
    stats = stats_with("--exploration_loss=entropy", "--exploration_loss_coeff=0.25")
    assert stats["exploration_loss"] == pytest.approx(-0.25 * stats["entropy"])
    symmetric = stats_with("--exploration_loss=symmetric_kl", "--exploration_loss_coeff=0.25")
    assert symmetric["exploration_loss"] > 0
    assert stats_with("--exploration_loss_coeff=0")["exploration_loss"] == 0


def test_value_loss_coeff(stats_with: Any) -> None:
    single, double = (stats_with(f"--value_loss_coeff={c}")["value_loss"] for c in (0.5, 1.0))
    assert double == pytest.approx(2 * single) and single > 0


def test_kl_loss_coeff(stats_with: Any) -> None:
    stats = stats_with("--kl_loss_coeff=0.5")
    assert stats["kl_loss"] == pytest.approx(0.5 * stats["kl_divergence"]) and stats["kl_loss"] > 0
    assert stats_with("--kl_loss_coeff=0")["kl_loss"] == 0


@pytest.mark.parametrize("clip", [0.05, 0.4])
def test_ppo_clip_ratio(learner_with: Any, clip: float) -> None:
    learner = learner_with(f"--ppo_clip_ratio={clip}")
    _, mb = dataset(learner)
    with torch.no_grad():
        _, policy_loss, *_, summaries = learner._calculate_losses(mb, 0)
    ratio, adv = summaries["ratio"], (summaries["adv"] - summaries["adv_mean"]) / summaries["adv_std"]
    clipped = ratio.clamp(1 / (1 + clip), 1 + clip)
    assert not torch.equal(ratio, clipped)
    torch.testing.assert_close(policy_loss, -torch.min(ratio * adv, clipped * adv).mean())


@pytest.mark.parametrize("clip", [0.01, 10.0])
def test_ppo_clip_value(learner_with: Any, clip: float) -> None:
    learner = learner_with(*RAW, f"--ppo_clip_value={clip}", "--value_loss_coeff=1")
    _, mb = dataset(learner)
    with torch.no_grad():
        *_, value_loss, summaries = learner._calculate_losses(mb, 0)
    values, old = summaries["values"], mb["values"]
    clipped = old + (values - old).clamp(-clip, clip)
    expected = torch.max((values - mb.returns).square(), (clipped - mb.returns).square()).mean()
    torch.testing.assert_close(value_loss, expected)


# --- optimiser and schedules ---


@pytest.mark.parametrize("lr", [0.001, 0.05])
def test_learning_rate(learner_with: Any, lr: float) -> None:
    learner = learner_with(f"--learning_rate={lr}")
    before = weights(learner)
    learner.train(make_batch(learner))
    after = weights(learner)
    steps = torch.cat([(after[name] - before[name]).abs().flatten() for name in before if "normalizer" not in name])
    assert float(steps.max()) == pytest.approx(lr, rel=1e-2), "the first step of Adam is as long as the learning rate"


def test_optimizer_flags(learner_with: Any) -> None:
    """--optimizer, --adam_eps, --adam_beta1, --adam_beta2"""
    flags = ("--adam_eps=1e-4", "--adam_beta1=0.8", "--adam_beta2=0.95")
    for name, cls in (("adam", torch.optim.Adam), ("lamb", Lamb)):
        optimizer = learner_with(f"--optimizer={name}", *flags).optimizer
        assert isinstance(optimizer, cls)
        group = optimizer.param_groups[0]
        assert (group["eps"], tuple(group["betas"])) == (1e-4, (0.8, 0.95))


def test_max_grad_norm(stats_with: Any) -> None:
    free = stats_with("--max_grad_norm=0")["grad_norm"]
    assert free > 0.01
    assert stats_with("--max_grad_norm=0.01")["grad_norm"] == pytest.approx(0.01)
    assert stats_with(f"--max_grad_norm={2 * free}")["grad_norm"] == pytest.approx(free)


@pytest.mark.parametrize(
    "flags, expected",
    [
        (("--lr_schedule=constant",), 0.01),
        (("--lr_schedule=kl_adaptive_epoch", "--lr_schedule_kl_threshold=1e-9"), 0.01 / 1.5),
        (("--lr_schedule=kl_adaptive_epoch", "--lr_schedule_kl_threshold=1e9", "--lr_adaptive_max=1"), 0.015),
        (("--lr_schedule=kl_adaptive_minibatch", "--lr_schedule_kl_threshold=1e-9"), 0.01 / 1.5**2),
        (("--lr_schedule=kl_adaptive_minibatch", "--lr_schedule_kl_threshold=1e-9", "--lr_adaptive_min=0.008"), 0.008),
        (("--lr_schedule=kl_adaptive_minibatch", "--lr_schedule_kl_threshold=1e9", "--lr_adaptive_max=0.012"), 0.012),
        (("--lr_schedule=linear_decay", "--train_for_env_steps=640"), 0.01 * 0.9),
    ],
)
def test_lr_schedule_flags(learner_with: Any, flags: tuple[str, ...], expected: float) -> None:
    """--lr_schedule, --lr_schedule_kl_threshold, --lr_adaptive_min, --lr_adaptive_max"""
    learner = learner_with("--num_batches_per_epoch=2", *flags)
    learner.train(make_batch(learner))
    assert learner.curr_lr == pytest.approx(expected)


# --- datasets, epochs, minibatches ---


def test_dataset_flags(learner_with: Any) -> None:
    """--batch_size, --rollout, --num_batches_per_epoch: transitions of one dataset."""
    for batch_size, rollout, num_batches in ((32, 8, 1), (32, 8, 3), (64, 16, 2)):
        flags = (f"--batch_size={batch_size}", f"--rollout={rollout}", f"--num_batches_per_epoch={num_batches}")
        learner = learner_with(*flags)
        batch = make_batch(learner, num_rows=trajectories_per_training_iteration(learner.cfg))
        assert batch["rewards"].shape[1] == rollout
        learner.train(batch)
        assert (learner.env_steps, learner.train_step) == (num_batches * batch_size, num_batches)


def test_num_epochs(learner_with: Any) -> None:
    learner = learner_with("--num_epochs=3", "--num_batches_per_epoch=2")
    learner.train(make_batch(learner))
    assert learner.train_step == 6


class RecordsOrder(Learner):
    seen: list[list[float]]

    def _calculate_losses(self, mb: AttrDict, num_invalids: int) -> Any:
        self.seen.append(mb.rewards.tolist())
        return super()._calculate_losses(mb, num_invalids)


@pytest.mark.parametrize("shuffle", [False, True])
def test_shuffle_minibatches(learner_with: Any, shuffle: bool) -> None:
    learner = learner_with("--num_batches_per_epoch=2", f"--shuffle_minibatches={shuffle}", cls=RecordsOrder)
    learner.seen = []
    batch = make_batch(learner)
    learner.train(batch)
    collected, used = batch["rewards"].flatten().tolist(), learner.seen[0] + learner.seen[1]
    assert sorted(used) == sorted(collected)
    assert (used == collected) is not shuffle


def test_recurrence(learner_with: Any) -> None:
    """Gradients reach back to the start of the recurrence window and no further."""
    for recurrence, first_step in ((8, 0), (4, 4)):
        learner = learner_with("--use_rnn=True", f"--recurrence={recurrence}", *RAW)
        _, mb = dataset(learner, dones=torch.zeros(4, 8, dtype=torch.bool))
        obs = mb.normalized_obs["obs"].requires_grad_()
        _, values = forward_minibatch(learner.actor_critic, mb, learner.cfg)
        values.reshape(4, 8)[0, -1].backward()
        reached = obs.grad.reshape(4, 8, -1).abs().sum(dim=2)[0].nonzero().flatten().tolist()
        assert reached == list(range(first_step, 8))


def test_frameskip_accounting(learner_with: Any) -> None:
    """--env_frameskip, --summaries_use_frameskip"""
    for use, expected in ((True, 128), (False, 32)):
        flags = ("--env_frameskip=4", f"--summaries_use_frameskip={use}")
        learner = learner_with(*flags, env_info=make_env_info(frameskip=4))
        learner.train(make_batch(learner))
        assert learner.env_steps == expected


# --- checkpoints ---


def names(folder: Path, prefix: str) -> list[str]:
    return sorted(path.name for path in (folder / "test" / "checkpoint_p0").glob(f"{prefix}_*"))


def test_keep_checkpoints(tmp_path: Path) -> None:
    for keep in (1, 3):
        learner = make_learner(make_cfg(tmp_path / str(keep), f"--keep_checkpoints={keep}"))
        for seed in range(5):
            learner.train(make_batch(learner, seed))
            learner.save()
        expected = [f"checkpoint_{step:09d}_{step * 32}.pth" for step in range(1, 6)][-keep:]
        assert names(tmp_path / str(keep), "checkpoint") == expected


def test_load_checkpoint_kind(tmp_path: Path) -> None:
    learner = make_learner(make_cfg(tmp_path))
    learner.train(make_batch(learner))
    learner.save_best(0, "reward", 10.0)
    learner.train(make_batch(learner))
    learner.save()
    assert make_learner(make_cfg(tmp_path, "--load_checkpoint_kind=latest")).train_step == 2
    assert make_learner(make_cfg(tmp_path, "--load_checkpoint_kind=best")).train_step == 1


def test_seed_of_the_weights(tmp_path: Path) -> None:
    def first_weights(seed: int) -> torch.Tensor:
        learner = make_learner(make_cfg(tmp_path / str(seed), f"--seed={seed}"))
        return torch.cat([value.flatten().double() for value in weights(learner).values()])

    assert torch.equal(first_weights(1), first_weights(1))
    assert not torch.equal(first_weights(1), first_weights(2))


# --- arithmetic ---


@pytest.mark.parametrize("core", [("--use_rnn=False",), ("--use_rnn=True",), ("--use_rnn=True", "--rnn_type=lstm")])
def test_mixed_precision(learner_with: Any, core: tuple[str, ...]) -> None:
    """bf16: the encoder rounds to 8 bits of mantissa; weights and everything after it are float32."""
    flags = (*RAW, *core, "--encoder_mlp_layers", "32", "--nonlinearity=relu")
    outputs, gradients = {}, {}
    for mixed_precision in ("none", "bf16"):
        learner = learner_with(*flags, f"--mixed_precision={mixed_precision}")
        batch = make_batch(learner)
        data = AttrDict(learner._prepare_batch(batch)[0])
        distribution, policy_loss, *_, value_loss, _ = learner._calculate_losses(data, 0)
        (policy_loss + value_loss).backward()
        assert distribution.raw_logits.dtype == torch.float32
        outputs[mixed_precision] = distribution.raw_logits.detach()
        gradients[mixed_precision] = learner.actor_critic.encoder.encoders["obs"].mlp_head[0].weight.grad
        assert learner.train(batch) is not None
        assert {p.dtype for p in learner.actor_critic.parameters()} == {torch.float32}
    for exact, rounded in ((outputs["none"], outputs["bf16"]), (gradients["none"], gradients["bf16"])):
        error = ((exact - rounded).norm() / exact.norm()).item()
        assert 1e-5 < error < 0.05


def test_mixed_precision_tf32_allows_it_on_gpus() -> None:
    before = torch.get_float32_matmul_precision()
    try:
        allow_tf32()
        assert torch.get_float32_matmul_precision() == "high"
        assert torch.backends.cudnn.allow_tf32
    finally:
        torch.set_float32_matmul_precision(before)
