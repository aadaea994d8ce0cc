"""The course of an iteration: epochs, schedules, reports, hooks of subclasses."""

from __future__ import annotations

import gc
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from sample_factory.algo.learning.learner import Learner
from sample_factory.algo.learning.train_stats import MinibatchLog, MinibatchRecord, stack_record
from sample_factory.algo.utils.misc import TRAIN_STATS
from sample_factory.algo.utils.tensor_dict import TensorDict
from sample_factory.utils.attr_dict import AttrDict

from .learner_setup import invalidate, make_batch, make_cfg, make_env_info, make_learner

# --- epochs and schedules ---


def test_early_stopping_when_the_actor_loss_stands_still(tmp_path: Path) -> None:
    learner = make_learner(make_cfg(tmp_path, "--num_epochs=6", "--max_grad_norm=1e-30"))
    learner.curr_lr = 0.0
    learner.train(make_batch(learner))
    assert learner.train_step == 2

    learner = make_learner(make_cfg(tmp_path, "--num_epochs=6"))
    learner.train(make_batch(learner))
    assert learner.train_step == 6


@pytest.mark.parametrize(
    "schedule, expected",
    [("kl_adaptive_minibatch", 1e-3 * 1.5**6), ("kl_adaptive_epoch", 1e-3 * 1.5**3), ("constant", 1e-3)],
)
def test_kl_schedules_react_when_they_should(tmp_path: Path, schedule: str, expected: float) -> None:
    flags = ("--num_epochs=3", "--num_batches_per_epoch=2", f"--lr_schedule={schedule}", "--learning_rate=0.001")
    learner = make_learner(make_cfg(tmp_path, *flags, "--lr_schedule_kl_threshold=1000", "--lr_adaptive_max=1"))
    learner.train(make_batch(learner))
    assert learner.curr_lr == pytest.approx(expected)


def test_q12_linear_decay_through_the_learner(tmp_path: Path) -> None:
    flags = ("--lr_schedule=linear_decay", "--train_for_env_steps=512", "--env_frameskip=4", "--num_epochs=2")
    learner = make_learner(make_cfg(tmp_path, *flags), make_env_info(frameskip=4))
    rates = []
    for seed in range(4):
        learner.train(make_batch(learner, seed))
        rates.append(learner.curr_lr)
        if seed == 1:
            learner.save()
            learner = make_learner(make_cfg(tmp_path, *flags), make_env_info(frameskip=4))
    assert rates == pytest.approx([0.0075, 0.005, 0.0025, 0.0])


# --- memory ---

ACTION_SPACES = {
    "discrete": spaces.Discrete(3),
    "continuous": spaces.Box(-1.0, 1.0, (2,), np.float32),
    "tuple": spaces.Tuple((spaces.Discrete(2), spaces.Box(-1.0, 1.0, (2,), np.float32))),
}
IMAGES = spaces.Dict(obs=spaces.Box(0, 255, (3, 36, 36), np.uint8))


@pytest.mark.parametrize("kind", [*ACTION_SPACES, "recurrent", "images", "vtrace", "reports"])
def test_nothing_of_an_iteration_waits_for_the_garbage_collector(tmp_path: Path, kind: str) -> None:
    """Which comes by so rarely that gigabytes of images would wait for it."""
    flags = {
        "recurrent": ("--use_rnn=True", "--recurrence=8"),
        "vtrace": ("--with_vtrace=True", "--recurrence=8", "--normalize_returns=False"),
        "reports": ("--summaries_use_frameskip=True",),
    }.get(kind, ())
    env_info = make_env_info(ACTION_SPACES.get(kind), **({"obs_space": IMAGES} if kind == "images" else {}))
    learner = make_learner(make_cfg(tmp_path, "--num_epochs=2", "--num_batches_per_epoch=2", *flags), env_info)
    batch = make_batch(learner)

    def num_tensors_after_training() -> int:
        if kind == "reports":
            learner.last_summary_time = 0.0
        message = learner.train(batch)
        assert message is not None and (kind != "reports" or TRAIN_STATS in message)
        del message
        return sum(issubclass(type(x), torch.Tensor) for x in gc.get_objects())

    num_tensors_after_training()
    gc.collect()
    gc.disable()
    try:
        counts = [num_tensors_after_training() for _ in range(3)]
    finally:
        gc.enable()
    assert counts[-1] <= counts[0]


# --- reports ---


def test_message_and_statistics(tmp_path: Path) -> None:
    learner = make_learner(make_cfg(tmp_path, "--env_frameskip=4"), make_env_info(frameskip=4))
    message = learner.train(make_batch(learner))
    assert message is not None
    assert message["learner_env_steps"] == 32 * 4 == learner.env_steps
    assert message["policy_id"] == 0
    assert message["stats"]["memory_learner"] > 0
    keys = (
        "env_steps lr actual_lr obs_running_mean obs_running_std returns_running_mean returns_running_std "
        "valids_fraction same_policy_fraction grad_norm loss value entropy policy_loss kl_loss value_loss "
        "exploration_loss act_min act_max max_abs_logprob kl_divergence kl_divergence_max value_delta "
        "value_delta_max fraction_clipped ratio_mean ratio_min ratio_max num_sgd_steps adam_max_second_moment "
        "version_diff_avg version_diff_min version_diff_max"
    )
    assert set(keys.split()) <= set(message["train"])
    assert all(isinstance(value, (int, float)) for value in message["train"].values())
    second = learner.train(make_batch(learner))
    assert second is not None and "train" not in second, "summaries are not due again within two seconds"


@pytest.mark.parametrize("flags", [(), ("--with_vtrace=True", "--recurrence=8", "--normalize_returns=False")])
def test_q16_advantage_statistics_are_reported(tmp_path: Path, flags: tuple[str, ...]) -> None:
    learner = make_learner(make_cfg(tmp_path, *flags))
    message = learner.train(make_batch(learner))
    assert message is not None
    stats = message["train"]
    assert stats["adv_min"] < stats["adv_mean"] < stats["adv_max"]
    assert 0 < stats["adv_std"] < stats["adv_max"] - stats["adv_min"]


def test_version_differences_look_at_own_samples(tmp_path: Path) -> None:
    learner = make_learner(make_cfg(tmp_path))
    learner.train_step = 10
    batch = make_batch(learner)
    batch["policy_version"][0] = 4.0
    batch["policy_id"][1], batch["policy_version"][1] = 1, 2.0
    message = learner.train(batch)
    assert message is not None
    stats = message["train"]
    assert (stats["version_diff_min"], stats["version_diff_max"]) == (0.0, 6.0)
    assert stats["version_diff_avg"] == pytest.approx(2.0)
    assert stats["same_policy_fraction"] == 0.75


def test_high_loss_forces_a_summary(tmp_path: Path) -> None:
    learner = make_learner(make_cfg(tmp_path, "--value_loss_coeff=10000", "--num_batches_per_epoch=2"))
    learner.train(make_batch(learner))
    message = learner.train(make_batch(learner))
    assert message is not None and message["train"]["loss"] > 30


def test_subclass_hooks_are_called(tmp_path: Path) -> None:
    class Mine(Learner):
        def _record_summaries(self, train_loop_vars: AttrDict) -> AttrDict:
            stats = super()._record_summaries(train_loop_vars)
            stats.mine = float(train_loop_vars.mb.actions.mean())
            return stats

        def _prepare_batch(self, batch: TensorDict) -> tuple[TensorDict, int, int]:
            buff, size, num_invalids = super()._prepare_batch(batch)
            buff["extra"] = torch.arange(size)
            return buff, size, num_invalids

        def _calculate_losses(self, mb: AttrDict, num_invalids: int) -> Any:
            assert len(mb.extra) == mb.valids.numel()
            distribution, *others = super()._calculate_losses(mb, num_invalids)
            # as the original returned it: of the valid samples only
            others[2] = torch.zeros(int(mb.valids.sum()))
            return distribution, *others

    learner = make_learner(make_cfg(tmp_path, "--num_batches_per_epoch=2", "--shuffle_minibatches=True"), cls=Mine)
    batch = make_batch(learner)
    invalidate(batch)
    message = learner.train(batch)
    assert message is not None and "mine" in message["train"]


def test_learning_samples_no_actions(tmp_path: Path) -> None:
    """Also where the model's own methods are called: random numbers belong to acting."""
    learner = make_learner(make_cfg(tmp_path, "--use_rnn=True", "--rnn_type=lstm"))
    state = torch.get_rng_state()
    assert learner.train(make_batch(learner)) is not None
    assert torch.equal(torch.get_rng_state(), state)


def test_minibatches_share_no_host_reads_of_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a constant schedule and one epoch the device is read once at the end, however many minibatches there are."""
    from sample_factory.algo.learning import train_stats

    reads: list[int] = []
    original = train_stats.read_scalars
    monkeypatch.setattr(train_stats, "read_scalars", lambda values: reads.append(len(values)) or original(values))
    learner = make_learner(make_cfg(tmp_path, "--num_batches_per_epoch=4"))
    learner.last_summary_time = 1e12
    assert learner.train(make_batch(learner)) is not None
    assert len(reads) == 1


@pytest.mark.parametrize("is_first_stacked", [False, True])
def test_records_of_tensors_and_numbers_are_read_alike(is_first_stacked: bool) -> None:
    """Losses that are switched off are the float 0.0; recorded updates leave one tensor."""
    first, second = (
        MinibatchRecord(torch.tensor(loss), 2.0, torch.tensor(3.0), 0.0, 0.0, torch.tensor([4.0]), 5, False)
        for loss in (1.5, 2.5)
    )
    records = MinibatchLog()
    records.append(stack_record(first, torch.device("cpu")) if is_first_stacked else first)
    records.append(second)
    rest = (2.0, 3.0, 0.0, 0.0, 4.0, 5.0, 0.0)
    assert [astuple(record) for record in records.records()] == [(1.5, *rest), (2.5, *rest)]
