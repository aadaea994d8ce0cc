"""Training with every kind of space, encoder, head and optimiser: serial, a few iterations each."""

from __future__ import annotations

import pytest

from sample_factory.algo.learning.checkpoints import read_checkpoint
from sample_factory.algo.utils.misc import ExperimentStatus
from tests.integration.harness import SERIAL, SYNC, checkpoints, train
from tests.integration.spaces_env import ACTION_SPACES, register

SHORT = (*SERIAL, *SYNC, "--train_for_env_steps=300")


def run(tmp_path, *args, observation="vector", action="discrete"):
    status, runner = train(tmp_path, *SHORT, *args, env=register(observation, action))
    assert status == ExperimentStatus.SUCCESS
    assert runner.env_steps[0] > 300
    return read_checkpoint(str(checkpoints(tmp_path)[-1]), "cpu")["model"]


@pytest.mark.parametrize("action", ACTION_SPACES)
def test_action_space(tmp_path, action):
    run(tmp_path, action=action)


@pytest.mark.parametrize("action", ["discrete", "box", "tuple_of_discrete", "mixed_tuple", "multi_discrete"])
def test_exploration_and_kl_losses(tmp_path, action):
    losses = ("--exploration_loss=symmetric_kl", "--exploration_loss_coeff=0.01", "--kl_loss_coeff=0.1")
    run(tmp_path, *losses, action=action)


@pytest.mark.parametrize(
    "stddev", [("--adaptive_stddev=True",), ("--adaptive_stddev=False", "--continuous_tanh_scale=2.0")]
)
def test_continuous_heads(tmp_path, stddev):
    model = run(tmp_path, *stddev, action="box")
    assert ("action_parameterization.learned_stddev" in model) == ("--adaptive_stddev=False" in stddev)


@pytest.mark.parametrize("architecture", ["convnet_simple", "convnet_impala", "resnet_impala"])
@pytest.mark.parametrize("observation", ["image", "dict"])
def test_encoders(tmp_path, architecture, observation):
    flags = (f"--encoder_conv_architecture={architecture}", "--encoder_conv_mlp_layers", "16", "--obs_scale=255.0")
    batched = f"--batched_sampling={observation == 'dict'}"
    model = run(tmp_path, *flags, batched, observation=observation)
    assert any(name.startswith("encoder.encoders.obs.") for name in model)


@pytest.mark.parametrize(
    "flags",
    [
        ("--optimizer=lamb",),
        ("--lr_schedule=kl_adaptive_minibatch",),
        ("--lr_schedule=kl_adaptive_epoch", "--num_epochs=2"),
        ("--lr_schedule=linear_decay",),
        ("--value_bootstrap=True", "--normalize_returns=False", "--normalize_input=False"),
        ("--decoder_mlp_layers", "16", "8"),
        ("--policy_initialization=xavier_uniform", "--nonlinearity=tanh"),
        ("--policy_initialization=torch_default", "--nonlinearity=relu", "--weight_init_scope=all"),
        ("--actor_critic_share_weights=False",),
        ("--use_rnn=True", "--with_vtrace=True", "--normalize_returns=False"),
        ("--use_rnn=True", "--recurrence=4"),
    ],
)
def test_learning_options(tmp_path, flags):
    run(tmp_path, *flags)
