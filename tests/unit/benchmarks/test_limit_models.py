"""What the limits are made of does the work it stands for."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

from benchmarks import limit_models
from benchmarks.limit_models import BareNetwork, NumpyNetwork, model_functions
from sample_factory.cfg.arguments import parse_full_cfg, parse_sf_args
from sample_factory.model.actor_critic import create_actor_critic

VECTOR = gym.spaces.Box(-1.0, 1.0, (4,), np.float32)
IMAGE = gym.spaces.Box(0, 255, (4, 84, 84), np.uint8)
ACTIONS = gym.spaces.Discrete(3)


def config(*flags: str):
    argv = ["--env=e", "--experiment=e", "--encoder_mlp_layers", "8", "8", "--rollout=4", "--batch_size=16", *flags]
    parser, _ = parse_sf_args(argv)
    return parse_full_cfg(parser, argv)


@pytest.mark.parametrize("flags", [("--use_rnn=False",), ("--rnn_size=8",)], ids=["mlp", "gru"])
def test_acting_and_learning_count_their_frames_with_all_networks(flags):
    acting, learning = model_functions(config(*flags), VECTOR, ACTIONS, 5)
    assert [act() for act in acting] == [5] * (3 if flags[0].startswith("--rnn") else 4)
    assert [learn() for learn in learning] == [16, 16, 16]


def test_what_cannot_be_written_down_in_a_few_lines_has_the_model_of_the_project():
    for cfg, space, num_ways in (
        (config("--use_rnn=False"), IMAGE, 2),
        (config("--rnn_type=lstm", "--rnn_size=8"), VECTOR, 1),
        (config("--use_rnn=False", "--decoder_mlp_layers", "8"), VECTOR, 2),
    ):
        acting, learning = model_functions(cfg, space, ACTIONS, 2)
        assert len(acting) == len(learning) == num_ways
        assert [act() for act in acting] == [2] * num_ways
        assert [learn() for learn in learning] == [16] * num_ways


@pytest.mark.parametrize(
    "flags",
    [("--use_rnn=False",), ("--use_rnn=False", "--nonlinearity=tanh"), ("--rnn_size=8",)],
    ids=["mlp", "tanh", "gru"],
)
def test_the_bare_network_is_the_network_of_the_project(flags):
    """Same number of weights, and the same outputs once they hold the same values."""
    cfg = config(*flags)
    model = create_actor_critic(cfg, gym.spaces.Dict(obs=VECTOR), ACTIONS).eval()
    bare = BareNetwork(cfg, 4, 3)
    source = dict(model.named_parameters())
    head = ("action_parameterization.distribution_linear", "critic_linear")
    with torch.no_grad():
        for name in ("weight", "bias"):
            getattr(bare.heads, name).copy_(torch.cat([source[f"{part}.{name}"] for part in head]))
        rest = [value for name, value in source.items() if not name.startswith(head)]
        targets = [value for name, value in bare.named_parameters() if not name.startswith("heads")]
        for target, value in zip(targets, rest, strict=True):
            target.copy_(value)
        obs = torch.rand(6, 4)
        states = torch.zeros(6, cfg.rnn_size if cfg.use_rnn else 1)
        expected = model(model.normalize_obs({"obs": obs}), states)
        log_probs, values, _ = bare(obs[None], states[None] if cfg.use_rnn else None)
    assert torch.allclose(log_probs, expected["action_logits"].log_softmax(1), atol=1e-5)
    assert torch.allclose(values, expected["values"], atol=1e-5)
    if not cfg.use_rnn:
        log_probs_numpy, values_numpy = NumpyNetwork(bare, cfg.nonlinearity)(obs.numpy())
        assert np.allclose(log_probs_numpy, log_probs.numpy(), atol=1e-5)
        assert np.allclose(values_numpy, values.numpy(), atol=1e-5)


def test_a_learning_step_changes_the_weights(monkeypatch):
    cfg = config("--use_rnn=False")
    model = create_actor_critic(cfg, gym.spaces.Dict(obs=VECTOR), ACTIONS)
    before = [value.clone() for value in model.parameters()]
    monkeypatch.setattr(limit_models, "create_actor_critic", lambda *args: model)
    _, learning = model_functions(cfg, VECTOR, ACTIONS, 2)
    learning[0]()
    assert all(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
