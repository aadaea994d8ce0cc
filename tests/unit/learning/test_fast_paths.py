"""Standard models on the CPU take shortcuts; with all of them closed the learner gives the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from sample_factory.algo.learning import policy_update, preparation
from sample_factory.algo.learning.gradient_step import GradientStep
from sample_factory.algo.learning.learner import Learner
from sample_factory.algo.utils.running_mean_std import RunningMeanStdInPlace
from sample_factory.model.standard_network import NetworkOfModel

from .learner_setup import invalidate, make_batch, make_cfg, make_env_info, make_learner

VECTOR = make_env_info()
IMAGE = make_env_info(obs_space=spaces.Dict(obs=spaces.Box(0, 255, (3, 36, 36), np.uint8)))
MASKED = make_env_info(
    obs_space=spaces.Dict(obs=spaces.Box(-10.0, 10.0, (4,), np.float32), action_mask=spaces.Box(0, 1, (3,), np.int8))
)
BOX = make_env_info(action_space=spaces.Box(-1.0, 1.0, (2,), np.float32))
DEEP = ("--encoder_mlp_layers", "16", "12", "--decoder_mlp_layers", "10")
GRU = ("--use_rnn=True", "--recurrence=8", "--decoder_mlp_layers", "10")
CONV = ("--encoder_conv_architecture=convnet_atari", "--encoder_conv_mlp_layers", "16", "--obs_scale=255.0")
VTRACE = ("--with_vtrace=True", "--normalize_returns=False", "--recurrence=8")

CASES: dict[str, tuple[Any, tuple[str, ...]]] = {
    "mlp": (VECTOR, DEEP),
    "tanh": (VECTOR, (*DEEP, "--nonlinearity=tanh")),
    "relu": (VECTOR, (*DEEP, "--nonlinearity=relu", "--optimizer=lamb")),
    "no_layers": (VECTOR, ("--encoder_mlp_layers",)),
    "kl": (VECTOR, ("--kl_loss_coeff=0.3", "--exploration_loss_coeff=0.1", "--ppo_clip_value=0.05")),
    "symmetric_kl": (VECTOR, ("--exploration_loss=symmetric_kl", "--exploration_loss_coeff=0.1")),
    "bootstrap": (VECTOR, ("--value_bootstrap=True", "--normalize_input=False", "--max_grad_norm=0.05")),
    "mlp_vtrace": (VECTOR, (*DEEP, *VTRACE)),
    "gru": (VECTOR, GRU),
    "gru_layers": (VECTOR, ("--use_rnn=True", "--rnn_num_layers=2", "--recurrence=4")),
    "gru_vtrace": (VECTOR, (*GRU, *VTRACE)),
    "lstm": (VECTOR, ("--use_rnn=True", "--rnn_type=lstm")),
    "separate": (VECTOR, ("--actor_critic_share_weights=False",)),
    "conv": (IMAGE, (*CONV, "--nonlinearity=relu")),
    "conv_shifted": (IMAGE, (*CONV, "--obs_subtract_mean=20.0", "--normalize_input=False")),
    "conv_gru": (IMAGE, (*CONV, *GRU)),
    "box": (BOX, DEEP),
    "masked": (MASKED, DEEP),
}


def close_shortcuts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NetworkOfModel, "get", lambda self, model: None)
    monkeypatch.setattr(policy_update, "can_fuse", lambda *args: False)
    monkeypatch.setattr(preparation, "is_plain_host_batch", lambda buff: False)
    monkeypatch.setattr(RunningMeanStdInPlace, "_update_on_host", lambda self, x: False)
    monkeypatch.setattr(GradientStep, "_apply_on_host", None)
    original = GradientStep.__init__

    def without_host(self: GradientStep, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self._on_cpu = False

    monkeypatch.setattr(GradientStep, "__init__", without_host)


def train(learner: Learner, some_invalid: bool) -> dict[str, Any]:
    """Statistics of the last of three iterations."""
    message: dict[str, Any] | None = None
    for seed in range(3):
        batch = make_batch(learner, seed)
        if some_invalid:
            invalidate(batch)
        learner.last_summary_time = 0.0
        message = learner.train(batch)
    assert message is not None
    return message["train"]


@pytest.mark.parametrize("some_invalid", [False, True], ids=["all_valid", "some_invalid"])
@pytest.mark.parametrize("case", CASES)
def test_same_weights_with_and_without_shortcuts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, some_invalid: bool
) -> None:
    env_info, flags = CASES[case]
    # Exact arithmetic would give the same; Adam magnifies rounding where a gradient is almost zero, unlike a large eps.
    argv = ("--num_epochs=2", "--num_batches_per_epoch=2", "--adam_eps=1e-3", *flags)
    fast = make_learner(make_cfg(tmp_path / "fast", *argv), env_info)
    fast_stats = train(fast, some_invalid)
    close_shortcuts(monkeypatch)
    slow = make_learner(make_cfg(tmp_path / "slow", *argv), env_info)
    slow_stats = train(slow, some_invalid)

    assert fast.train_step == slow.train_step > 0
    expected = slow.actor_critic.state_dict()
    for name, value in fast.actor_critic.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=5e-6, msg=lambda m, n=name: f"{n}: {m}")
    assert set(fast_stats) == set(slow_stats)
    for name, value in slow_stats.items():
        assert fast_stats[name] == pytest.approx(value, rel=2e-3, abs=1e-5), name


@pytest.mark.parametrize("case", ["mlp", "tanh", "relu", "no_layers", "gru", "gru_layers", "conv", "conv_gru", "box"])
def test_standard_models_are_recognised(tmp_path: Path, case: str) -> None:
    env_info, flags = CASES[case]
    learner = make_learner(make_cfg(tmp_path, *flags), env_info)
    assert NetworkOfModel().get(learner.actor_critic) is not None


@pytest.mark.parametrize("case", ["lstm", "separate"])
def test_other_models_are_not(tmp_path: Path, case: str) -> None:
    env_info, flags = CASES[case]
    learner = make_learner(make_cfg(tmp_path, *flags), env_info)
    assert NetworkOfModel().get(learner.actor_critic) is None


def test_changes_of_a_model_are_noticed(tmp_path: Path) -> None:
    learner = make_learner(make_cfg(tmp_path, *DEEP))
    model, networks = learner.actor_critic, NetworkOfModel()
    before = networks.get(model)
    assert before is not None and networks.get(model) is before

    layers = model.encoder.encoders["obs"].mlp_head
    replacement = torch.nn.Linear(4, 16)
    layers[0] = replacement
    after = networks.get(model)
    assert after is not None and after.encoder.parameters[0] is replacement.weight

    handle = layers[2].register_forward_hook(lambda *args: None)
    assert networks.get(model) is None, "a hook has to be called"
    handle.remove()
    assert networks.get(model) is not None

    recurrent = make_learner(make_cfg(tmp_path, *GRU)).actor_critic
    assert networks.get(recurrent) is not None
    recurrent.core.core.register_forward_hook(lambda *args: None)
    assert networks.get(recurrent) is None

    model.forward_tail = model.forward_tail
    assert networks.get(model) is None, "a method of this one object was replaced"
    del model.forward_tail
    layers[1] = torch.nn.SiLU()
    assert networks.get(model) is None


@pytest.mark.parametrize("method", ["forward_head", "_maybe_sample_actions"])
def test_replaced_methods_of_a_class_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    learner = make_learner(make_cfg(tmp_path))
    networks = NetworkOfModel()
    assert networks.get(learner.actor_critic) is not None
    cls = type(learner.actor_critic)
    original = getattr(cls, method)
    monkeypatch.setattr(cls, method, lambda self, *args: original(self, *args))
    assert networks.get(learner.actor_critic) is None


def test_a_single_trajectory_is_left_untouched(tmp_path: Path) -> None:
    """Views and copies look alike with one row: the batch must not be normalised in place."""
    learner = make_learner(make_cfg(tmp_path, "--batch_size=8", "--rollout=8"))
    batch = make_batch(learner)
    obs = batch["obs"]["obs"].clone()
    learner.train(batch)
    assert torch.equal(batch["obs"]["obs"], obs)
