"""Whole learner steps: against the float64 reference, with action masks and invalid samples."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from sample_factory.algo.learning.learner import Learner
from sample_factory.algo.learning.policy_update import forward_minibatch
from sample_factory.algo.utils.rl_utils import prepare_and_normalize_obs
from sample_factory.algo.utils.tensor_dict import TensorDict
from sample_factory.utils.attr_dict import AttrDict

from .learner_setup import invalidate, make_batch, make_cfg, make_env_info, make_learner, weights
from .reference_step import OBS, RET, ReferenceStep


@pytest.mark.parametrize("use_rnn", [False, True], ids=["mlp", "gru"])
@pytest.mark.parametrize("some_invalid", [False, True], ids=["all_valid", "some_invalid"])
@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--normalize_returns=False", "--normalize_input=False", "--max_grad_norm=0.1"),
        ("--value_bootstrap=True", "--kl_loss_coeff=0.3", "--exploration_loss_coeff=0.1", "--ppo_clip_value=0.05"),
    ],
    ids=["default", "no_normalization", "bootstrap_kl"],
)
def test_one_step_equals_float64_reference(
    tmp_path: Path, use_rnn: bool, some_invalid: bool, flags: tuple[str, ...]
) -> None:
    learner = make_learner(make_cfg(tmp_path, f"--use_rnn={use_rnn}", *flags))
    batch = make_batch(learner)
    if some_invalid:
        invalidate(batch)
    reference = ReferenceStep(learner.actor_critic.state_dict(), learner.cfg)
    expected = reference.run(copy.deepcopy(batch), policy_id=0)

    message = learner.train(batch)

    assert message is not None
    for name, value in expected.items():
        assert message["train"][name] == pytest.approx(value, abs=2e-5), name
    state = learner.actor_critic.state_dict()
    assert set(state) == set(reference.state)
    for name, value in reference.state.items():
        np.testing.assert_allclose(state[name].numpy(), value, atol=2e-5, rtol=1e-4, err_msg=name)


def test_vtrace_step_learns_and_has_its_own_dataset_keys(tmp_path: Path) -> None:
    cfg = make_cfg(tmp_path, "--with_vtrace=True", "--normalize_returns=False", "--recurrence=8", "--use_rnn=True")
    learner = make_learner(cfg)
    before = weights(learner)
    buff, _, _ = learner._prepare_batch(make_batch(learner))
    assert "advantages" not in buff and "returns" not in buff
    assert learner.train(make_batch(learner)) is not None
    assert any(not torch.equal(before[name], after) for name, after in weights(learner).items())


def test_dataset_keys_shapes_and_untouched_batch(tmp_path: Path) -> None:
    learner = make_learner(make_cfg(tmp_path, "--value_bootstrap=True"))
    batch = make_batch(learner)
    invalidate(batch)
    original = copy.deepcopy(batch)
    buff, size, num_invalids = learner._prepare_batch(batch)
    assert size == 32 and num_invalids == 2 + 2 + 1 + 8
    expected = (
        "rnn_states actions action_logits log_prob_actions values policy_version rewards dones time_outs policy_id "
        "valids normalized_obs advantages returns dones_cpu rewards_cpu"
    )
    assert set(expected.split()) <= set(buff)
    assert all(x.shape[0] == 32 for x in buff.values() if isinstance(x, torch.Tensor))
    assert set(buff["normalized_obs"]) == {"obs"}
    torch.testing.assert_close(buff["rewards_cpu"], buff["rewards"])
    invalid = ~buff["valids"]
    assert (buff["actions"][invalid] == 0).all() and (buff["log_prob_actions"][invalid] == -1).all()
    assert set(batch) == set(original)
    for key, value in original.items():
        if key != "obs":
            torch.testing.assert_close(batch[key], value, equal_nan=True)


def as_minibatch(learner: Learner, batch: TensorDict) -> tuple[AttrDict, int]:
    buff, _, num_invalids = learner._prepare_batch(batch)
    return AttrDict(buff), num_invalids


# --- action masks ---

MASKED_SPACE = spaces.Dict(obs=spaces.Box(-10.0, 10.0, (4,), np.float32), action_mask=spaces.Box(0, 1, (3,), np.int8))


def act_on(learner: Learner, batch: TensorDict, mask: torch.Tensor) -> None:
    """Fill in what the learner's own policy does on these observations under ``mask`` ``[N, T+1, 3]``."""
    batch["obs"]["action_mask"] = mask
    learner.actor_critic.eval()
    with torch.no_grad():
        for t in range(batch["rewards"].shape[1]):
            obs = prepare_and_normalize_obs(learner.actor_critic, {"obs": batch["obs"]["obs"][:, t]})
            out = learner.actor_critic(obs, batch["rnn_states"][:, t], action_mask=mask[:, t])
            batch["actions"][:, t, 0] = out["actions"].float()
            batch["action_logits"][:, t] = out["action_logits"]
            batch["log_prob_actions"][:, t] = out["log_prob_actions"]


def random_mask(batch: TensorDict) -> torch.Tensor:
    num_rows, num_steps = batch["values"].shape
    mask = torch.ones(num_rows, num_steps, 3, dtype=torch.int8)
    mask[..., 1] = 0
    mask[::2, ::3, 2] = 0
    return mask


def test_q05_action_masks_reach_the_learner(tmp_path: Path) -> None:
    """With the weights that acted, every ratio is 1 and the divergence from the old policy 0."""
    env_info = make_env_info(obs_space=MASKED_SPACE)
    learner = make_learner(make_cfg(tmp_path, "--normalize_input=False", "--kl_loss_coeff=0.1"), env_info)
    batch = make_batch(learner)
    act_on(learner, batch, random_mask(batch))
    mb, num_invalids = as_minibatch(learner, batch)
    assert set(mb.normalized_obs) == {"obs"}, "the mask is no input of the encoder"
    distribution, *_, kl_old, _, _, summaries = learner._calculate_losses(mb, num_invalids)
    torch.testing.assert_close(summaries["ratio"], torch.ones(32), atol=1e-5, rtol=0)
    torch.testing.assert_close(kl_old, torch.zeros(32), atol=1e-6, rtol=0)
    assert (distribution.probs[:, 1] == 0).all()
    assert learner.train(batch) is not None


def test_q05_forbidden_actions_get_no_gradient(tmp_path: Path) -> None:
    env_info = make_env_info(obs_space=MASKED_SPACE)
    learner = make_learner(make_cfg(tmp_path, "--exploration_loss_coeff=0.1"), env_info)
    batch = make_batch(learner)
    act_on(learner, batch, random_mask(batch))
    before = weights(learner)["action_parameterization.distribution_linear.weight"]
    learner.train(batch)
    after = weights(learner)["action_parameterization.distribution_linear.weight"]
    assert torch.equal(before[1], after[1]), "action 1 is never allowed"
    assert not torch.equal(before[0], after[0])


def test_forward_tail_of_211_without_mask_parameter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learner = make_learner(make_cfg(tmp_path))
    original = type(learner.actor_critic).forward_tail

    def forward_tail(self: Any, core_output: Any, values_only: bool, sample_actions: bool) -> Any:
        return original(self, core_output, values_only, sample_actions)

    monkeypatch.setattr(type(learner.actor_critic), "forward_tail", forward_tail)
    assert learner.train(make_batch(learner)) is not None


# --- invalid samples ---


def test_q07_minibatch_without_valid_samples_is_skipped(tmp_path: Path) -> None:
    learner = make_learner(make_cfg(tmp_path, "--num_batches_per_epoch=2", "--num_epochs=3"))
    for seed in range(4):  # also when the empty minibatch is the one chosen for summaries
        batch = make_batch(learner, seed)
        batch["policy_id"][4 * (seed % 2) : 4 * (seed % 2) + 4] = 1
        learner.last_summary_time = 0.0
        message = learner.train(batch)
        assert message is not None
        assert message["train"]["valids_fraction"] == 1.0
        assert all(np.isfinite(value) for value in message["train"].values())
    assert learner.train_step == 4 * 3, "one update per epoch"
    assert all(torch.isfinite(p).all() for p in weights(learner).values())


def test_q07_learning_rate_is_scaled_per_minibatch(tmp_path: Path) -> None:
    learner = make_learner(make_cfg(tmp_path, "--num_batches_per_epoch=2"))
    rates: list[float] = []
    original = learner._sgd_step

    def spy(*args: Any) -> AttrDict:
        var = original(*args)
        rates.append(var.actual_lr)
        return var

    learner._sgd_step = spy  # type: ignore[method-assign]
    batch = make_batch(learner)
    batch["policy_id"][:2] = 1
    learner.train(batch)
    assert rates == pytest.approx([0.005, 0.01])


def test_nothing_valid(tmp_path: Path) -> None:
    learner = make_learner(make_cfg(tmp_path))
    batch = make_batch(learner)
    batch["policy_id"][:] = 3
    before = copy.deepcopy(learner.actor_critic.state_dict())
    assert learner.train(batch) is None
    assert learner.env_steps == 0 and learner.train_step == 0
    for name, value in learner.actor_critic.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_q30_only_valid_rows_enter_the_statistics_and_boundaries_count_once(tmp_path: Path) -> None:
    learner = make_learner(make_cfg(tmp_path))
    batch = make_batch(learner)
    invalidate(batch)
    valid = (batch["policy_id"] == 0) & (batch["policy_version"] >= 0)
    batch["obs"]["obs"][:, :-1][~valid] = -4242.42  # what unwritten slots hold (Q56)
    rows = batch["obs"]["obs"][:, :-1][valid].double()
    learner.train(batch)
    state = learner.actor_critic.state_dict()
    num_rows = len(rows)
    assert state[OBS + "count"].item() == 1 + num_rows
    assert state[RET + "count"].item() == 1 + num_rows
    torch.testing.assert_close(state[OBS + "running_mean"], rows.sum(dim=0) / (num_rows + 1), atol=1e-6, rtol=1e-6)


def test_rows_with_non_finite_rewards_are_left_out(tmp_path: Path) -> None:
    learner = make_learner(make_cfg(tmp_path))
    batch = make_batch(learner)
    batch["rewards"][1, 3] = float("nan")
    batch["rewards"][2, 0] = float("inf")
    _, _, num_invalids = learner._prepare_batch(batch)
    assert num_invalids == 16
    assert learner.train(batch) is not None
    assert all(torch.isfinite(x).all() for x in learner.actor_critic.state_dict().values())


def test_garbage_in_invalid_slots_changes_nothing(tmp_path: Path) -> None:
    """Two learners, same valid data, different garbage: bit-equal weights."""
    results = []
    for garbage in (0.0, float("nan")):
        learner = make_learner(make_cfg(tmp_path / str(garbage), "--use_rnn=True"))
        batch = make_batch(learner)
        batch["policy_id"][2] = 1
        for key in ("rewards", "action_logits", "log_prob_actions", "values", "actions"):
            batch[key][2] = 0.5 if garbage == 0.0 else (garbage if key in ("rewards", "values") else -3.0)
        learner.train(batch)
        results.append(weights(learner))
    for name, value in results[0].items():
        assert torch.equal(value, results[1][name]), name


# --- single settings ---


def test_q28_symmetric_kl_with_box_actions(tmp_path: Path) -> None:
    cfg = make_cfg(tmp_path, "--exploration_loss=symmetric_kl", "--exploration_loss_coeff=0.01")
    learner = make_learner(cfg, make_env_info(spaces.Box(-1, 1, (2,), np.float32)))
    message = learner.train(make_batch(learner))
    assert message is not None and message["train"]["exploration_loss"] > 0.0
    assert {"action_mean", "action_log_std_max", "action_stddev_min"} <= set(message["train"])


def test_q57_time_out_bootstrap_uses_the_acted_state(tmp_path: Path) -> None:
    learner = make_learner(make_cfg(tmp_path, "--value_bootstrap=True", "--normalize_returns=False"))
    batch = make_batch(learner)
    buff, _, _ = learner._prepare_batch(batch)
    ended = batch["time_outs"] & batch["dones"]
    expected = batch["rewards"] + 0.99 * batch["values"][:, :-1] * ended
    torch.testing.assert_close(buff["rewards"], expected.flatten())


def test_recurrence_shorter_than_the_rollout(tmp_path: Path) -> None:
    """The stored states of every block of `recurrence` steps are used, not only those of the rollout's start."""
    learner = make_learner(make_cfg(tmp_path, "--use_rnn=True", "--recurrence=4", "--normalize_input=False"))
    batch = make_batch(learner)
    batch["dones"][:] = False
    mb, _ = as_minibatch(learner, batch)
    _, values = forward_minibatch(learner.actor_critic, mb, learner.cfg)
    state = batch["rnn_states"][:, 4]
    out = learner.actor_critic({"obs": batch["obs"]["obs"][:, 4]}, state)
    torch.testing.assert_close(values.reshape(4, 8)[:, 4], out["values"], atol=1e-6, rtol=1e-5)


def test_single_trajectory_of_two_steps(tmp_path: Path) -> None:
    learner = make_learner(make_cfg(tmp_path, "--rollout=2", "--batch_size=2"))
    batch = make_batch(learner)
    batch["policy_id"][0, 1] = 1  # one valid sample
    message = learner.train(batch)
    assert message is not None and np.isfinite(message["train"]["loss"])
    assert all(torch.isfinite(p).all() for p in weights(learner).values())
