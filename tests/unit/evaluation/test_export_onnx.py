from __future__ import annotations

import inspect

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

from sample_factory.algo.utils.context import reset_global_context
from sample_factory.cfg.arguments import load_from_checkpoint
from sample_factory.enjoy import make_env
from sample_factory.export_onnx import (
    create_forward,
    create_onnx_exporter,
    export_onnx,
    generate_args,
    generate_rnn_states,
    patch_forward,
    sample_space,
    unsqueeze_args,
)
from tests.unit.evaluation.experiments import (
    CountdownEnv,
    MaskedEnv,
    TeamEnv,
    make_experiment,
    parse_eval,
    register,
)


@pytest.fixture(autouse=True)
def fresh_registry():
    reset_global_context()
    yield
    reset_global_context()


class PixelEnv(CountdownEnv):
    observation_space = gym.spaces.Box(0, 255, (3, 36, 36), np.uint8)
    action_space = gym.spaces.Box(-1, 1, (2,), np.float32)


def test_generated_args_have_a_row_per_sample_and_the_type_of_the_space():
    space = gym.spaces.Dict(
        obs=gym.spaces.Box(0, 255, (3, 4), np.uint8), level=gym.spaces.Discrete(5), speed=gym.spaces.Box(-1, 1, ())
    )
    args = generate_args(space, batch_size=6)
    assert {key: tuple(value.shape) for key, value in args.items()} == {"obs": (6, 3, 4), "level": (6,), "speed": (6,)}
    assert args["obs"].dtype == torch.uint8 and not args["level"].is_floating_point()
    assert generate_args(gym.spaces.Discrete(3)) == {}


def test_samples_are_tensors_and_get_a_batch_dimension():
    sample = sample_space(gym.spaces.Dict(a=gym.spaces.Dict(b=gym.spaces.Box(0, 1, (2,)))))
    assert sample["a"]["b"].shape == (2,)
    assert unsqueeze_args(sample)["a"]["b"].shape == (1, 2)


def test_explicit_forward_passes_arguments_by_key():
    forward = create_forward(lambda **kwargs: kwargs, ["obs", "front camera", "class"])
    assert list(inspect.signature(forward).parameters) == ["obs", "input_1", "input_2"]
    assert forward(1, 2, 3) == {"obs": 1, "front camera": 2, "class": 3}


def test_patched_module_takes_positional_arguments():
    class Sum(nn.Module):
        def forward(self, **kwargs):
            return kwargs["a"] - kwargs["b"]

    module = Sum()
    patch_forward(module, ["a", "b"])
    assert module(torch.tensor(5), torch.tensor(3)) == 2


def test_rnn_states_start_at_zero(tmp_path):
    states = generate_rnn_states(parse_eval("some", tmp_path, "--rnn_size=24"))
    assert states.shape == (1, 24) and states.dtype == torch.float32 and not states.any()


def test_exporter_returns_environment_actions(tmp_path):
    register("countdown", CountdownEnv, [])
    make_experiment("countdown", tmp_path, "--use_rnn=False")
    cfg = load_from_checkpoint(parse_eval("countdown", tmp_path))
    env = make_env(cfg)
    exporter = create_onnx_exporter(cfg, env)
    actions = exporter(**generate_args(env.observation_space, 5))
    assert actions.shape == (5,) and actions.dtype == torch.int32


def export(tmp_path, env_name: str, env_class, *options: str):
    """Runtime session of the exported policy, and the policy itself."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    register(env_name, env_class, [])
    make_experiment(env_name, tmp_path, "--rnn_size=8", *options)
    cfg = parse_eval(env_name, tmp_path, "--eval_deterministic=True")
    path = str(tmp_path / "policy.onnx")
    assert export_onnx(cfg, path) == 0
    cfg = load_from_checkpoint(cfg)
    env = make_env(cfg)
    return onnxruntime.InferenceSession(path), create_onnx_exporter(cfg, env), env.observation_space


def names(nodes) -> list[str]:
    return [node.name for node in nodes]


@pytest.mark.parametrize("env_class", [CountdownEnv, PixelEnv, MaskedEnv])
@pytest.mark.parametrize("batch_size", [1, 7])
def test_feed_forward_graph_agrees_with_torch_for_any_batch(tmp_path, env_class, batch_size):
    session, exporter, obs_space = export(
        tmp_path, "some_env", env_class, "--use_rnn=False", "--encoder_conv_architecture=convnet_atari"
    )
    assert names(session.get_inputs()) == list(obs_space.spaces) and names(session.get_outputs()) == ["output_actions"]
    args = generate_args(obs_space, batch_size)
    with torch.no_grad():
        expected = exporter(**{key: value.clone() for key, value in args.items()})
    (actions,) = session.run(None, {key: value.numpy() for key, value in args.items()})
    np.testing.assert_allclose(actions, expected.numpy(), atol=1e-5)
    assert actions.shape == expected.shape and (actions.dtype == np.int32) == (expected.dtype == torch.int32)


@pytest.mark.parametrize("options", [("--rnn_type=gru",), ("--rnn_type=lstm", "--rnn_num_layers=2")])
def test_recurrent_graph_agrees_with_torch_over_several_steps(tmp_path, options):
    session, exporter, obs_space = export(tmp_path, "some_env", CountdownEnv, *options)
    assert names(session.get_inputs()) == ["obs", "rnn_states"]
    assert names(session.get_outputs()) == ["output_actions", "output_rnn_states"]
    rnn_states = generate_rnn_states(exporter.cfg)
    onnx_states = rnn_states.numpy()
    for _ in range(4):
        args = generate_args(obs_space)
        actions, onnx_states = session.run(None, {"obs": args["obs"].numpy(), "rnn_states": onnx_states})
        with torch.no_grad():
            expected, rnn_states = exporter(obs=args["obs"], rnn_states=rnn_states)
        np.testing.assert_array_equal(actions, expected.numpy())
        np.testing.assert_allclose(onnx_states, rnn_states.numpy(), atol=1e-5)


def test_mixed_actions_have_one_output_per_sub_space(tmp_path):
    session, _, obs_space = export(tmp_path, "team", TeamEnv, "--use_rnn=False")
    assert names(session.get_outputs()) == ["output_actions_0", "output_actions_1"]
    discrete, continuous = session.run(None, {"obs": generate_args(obs_space, 3)["obs"].numpy()})
    assert discrete.shape == (3,) and continuous.shape == (3, 2)


def test_sampled_actions_can_be_exported_too(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    register("countdown", CountdownEnv, [])
    make_experiment("countdown", tmp_path, "--use_rnn=False")
    path = str(tmp_path / "policy.onnx")
    assert export_onnx(parse_eval("countdown", tmp_path), path) == 0
    session = onnxruntime.InferenceSession(path)
    (actions,) = session.run(None, {"obs": np.zeros((200, 3), np.float32)})
    assert set(actions.tolist()) == {0, 1}
