"""Acting in NumPy gives what the torch module gives, for every model it claims to know; others are left alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from sample_factory.algo.sampling.numpy_policy import NumpyPolicy, PolicyOutputs, compile_policy
from sample_factory.algo.utils.action_distributions import calc_num_action_parameters, calc_num_actions
from sample_factory.algo.utils.rl_utils import prepare_and_normalize_obs
from sample_factory.model.actor_critic import create_actor_critic
from tests.unit.learning.learner_setup import make_cfg

VECTOR = spaces.Dict(obs=spaces.Box(-1, 1, (4,)))
TWO_INPUTS = spaces.Dict(measurements=spaces.Box(-5, 5, (3,)), obs=spaces.Box(0, 255, (6,), np.uint8))
IMAGE = spaces.Dict(obs=spaces.Box(0, 255, (3, 36, 40), np.uint8))
IMAGE_AND_VECTOR = spaces.Dict(camera=spaces.Box(-1, 1, (2, 36, 36)), obs=spaces.Box(-1, 1, (4,)))
ACTION_SPACES = [
    spaces.Discrete(2),
    spaces.Discrete(5),
    spaces.Box(-1, 1, (3,)),
    spaces.MultiDiscrete([2, 3]),
    spaces.Tuple([spaces.Discrete(3), spaces.Box(-1, 1, (2,)), spaces.Discrete(2)]),
]


def make_model(*flags: str, obs_space=VECTOR, action_space=None):
    torch.manual_seed(3)
    cfg = make_cfg("train_dir", "--env=x", "--use_rnn=False", "--encoder_mlp_layers", "16", "8", *flags)
    model = create_actor_critic(cfg, obs_space, action_space or spaces.Discrete(3))
    for parameter in model.parameters():  # biases start at zero
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    model.eval()
    return model


def outputs_for(n: int, action_space) -> PolicyOutputs:
    k, p = calc_num_actions(action_space), calc_num_action_parameters(action_space)
    shapes = [(n, k), (n, p), (n,), (n,)]
    return PolicyOutputs(*(np.full(shape, np.nan, np.float32) for shape in shapes))


def act(model, obs, seed=0, deterministic=False) -> PolicyOutputs:
    policy = compile_policy(model, np.random.default_rng(seed), deterministic)
    assert policy is not None
    out = outputs_for(len(next(iter(obs.values()))), model.action_space)
    n = len(next(iter(obs.values())))
    policy.act(obs, np.zeros((n, 1), np.float32), out, np.zeros((n, 1), np.float32))
    return out


def random_obs(obs_space, n=7) -> dict[str, np.ndarray]:
    obs_space.seed(1)
    samples = [obs_space.sample() for _ in range(n)]
    return {key: np.stack([sample[key] for sample in samples]) for key in obs_space.spaces}


def check_against_module(model, obs, tolerance=1e-6) -> None:
    """``tolerance``: what sums of many numbers lose by rounding, as a part of the largest output."""
    out = act(model, obs)
    with torch.no_grad():
        tensors = {key: torch.from_numpy(value) for key, value in obs.items()}
        n = len(out.values)
        expected = model(prepare_and_normalize_obs(model, tensors), torch.zeros(n, 1))
        log_probs = model.action_distribution().log_prob(torch.from_numpy(out.actions))
    size = max(1.0, float(expected["values"].abs().max()), float(expected["action_logits"].abs().max()))
    np.testing.assert_allclose(out.values, expected["values"].numpy(), rtol=1e-5, atol=tolerance * size)
    np.testing.assert_allclose(out.action_logits, expected["action_logits"].numpy(), rtol=1e-5, atol=tolerance * size)
    np.testing.assert_allclose(out.log_prob_actions, log_probs.numpy(), rtol=1e-4, atol=3.0 * tolerance * size)


@pytest.mark.parametrize("action_space", ACTION_SPACES, ids=str)
@pytest.mark.parametrize("nonlinearity", ["elu", "relu", "tanh"])
def test_outputs_are_those_of_the_module(action_space, nonlinearity):
    check_against_module(make_model(f"--nonlinearity={nonlinearity}", action_space=action_space), random_obs(VECTOR))


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--normalize_input=False",),
        ("--obs_subtract_mean=100", "--obs_scale=50"),
        ("--obs_scale=255", "--normalize_input=False"),
        ("--normalize_input_keys", "obs"),
        ("--decoder_mlp_layers", "12", "10"),
    ],
)
def test_observations_of_several_kinds(flags):
    model = make_model(*flags, obs_space=TWO_INPUTS)
    obs = random_obs(TWO_INPUTS, n=50)
    model.obs_normalizer.update({key: torch.from_numpy(value).float() for key, value in obs.items()})
    check_against_module(model, obs)


@pytest.mark.parametrize("obs_space", [IMAGE, IMAGE_AND_VECTOR], ids=["image", "image_and_vector"])
@pytest.mark.parametrize(
    "flags",
    [
        ("--nonlinearity=relu",),
        ("--nonlinearity=elu", "--normalize_input=False"),
        ("--obs_subtract_mean=3", "--obs_scale=50", "--encoder_conv_mlp_layers", "300", "40"),
        ("--obs_scale=255", "--normalize_input=False", "--encoder_conv_architecture=convnet_impala"),
    ],
)
def test_images(flags, obs_space):
    model = make_model(*flags, obs_space=obs_space)
    obs = random_obs(obs_space, n=50)
    model.obs_normalizer.update({key: torch.from_numpy(value).float() for key, value in obs.items()})
    before = {key: value.copy() for key, value in obs.items()}
    check_against_module(model, {key: value[:9] for key, value in obs.items()}, tolerance=5e-6)
    assert all(np.array_equal(obs[key], before[key]) for key in obs)


@pytest.mark.parametrize("obs_space, flags", [(IMAGE, ()), (VECTOR, ("--encoder_mlp_layers", "512", "512"))])
def test_refresh_follows_weights_that_are_copied(obs_space, flags):
    model, obs = make_model(*flags, obs_space=obs_space), random_obs(obs_space)
    policy = compile_policy(model, np.random.default_rng(0), False)
    out, states = outputs_for(7, model.action_space), np.zeros((7, 1), np.float32)
    policy.act(obs, states, out, states)
    for parameter in model.parameters():
        parameter.data.mul_(1.1)
    policy.refresh()
    policy.act(obs, states, out, states)
    with torch.no_grad():
        tensors = {key: torch.from_numpy(value) for key, value in obs.items()}
        expected = model(prepare_and_normalize_obs(model, tensors), torch.zeros(7, 1))["values"].numpy()
    np.testing.assert_allclose(out.values, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("n, rnn_size", [(1, 24), (2, 24), (7, 24), (1, 450), (2, 450), (7, 450)])  # 450: rearranged
def test_gru_carries_its_states(num_layers, n, rnn_size):
    model = make_model("--use_rnn=True", f"--rnn_size={rnn_size}", f"--rnn_num_layers={num_layers}")
    policy = compile_policy(model, np.random.default_rng(0), False)
    assert policy.is_recurrent
    expected_states = torch.zeros(n, rnn_size * num_layers)
    states = expected_states.numpy().copy()
    for seed in range(4):
        obs = np.random.default_rng(seed).normal(size=(n, 4)).astype(np.float32)
        out, next_states = outputs_for(n, model.action_space), np.full_like(states, np.nan)
        policy.act({"obs": obs}, states, out, next_states)
        with torch.no_grad():
            expected = model(prepare_and_normalize_obs(model, {"obs": torch.from_numpy(obs.copy())}), expected_states)
        expected_states, states = expected["new_rnn_states"], next_states
        np.testing.assert_allclose(next_states, expected_states.numpy(), rtol=1e-4, atol=2e-6)
        np.testing.assert_allclose(out.action_logits, expected["action_logits"].numpy(), rtol=1e-4, atol=2e-6)
        np.testing.assert_allclose(out.values, expected["values"].reshape(-1).numpy(), rtol=1e-4, atol=2e-6)


def test_refresh_follows_weights_statistics_and_replaced_storage():
    model, obs = make_model(), random_obs(VECTOR)
    policy = compile_policy(model, np.random.default_rng(0), False)
    out = outputs_for(7, model.action_space)

    def values() -> np.ndarray:
        policy.refresh()
        policy.act(obs, np.zeros((7, 1), np.float32), out, np.zeros((7, 1), np.float32))
        return out.values.copy()

    before = values()
    with torch.no_grad():
        model.critic_linear.bias.add_(1.0)
    np.testing.assert_allclose(values(), before + 1.0, atol=1e-6)
    model.obs_normalizer.update({"obs": torch.full((1000, 4), 3.0)})
    moved = values()
    assert not np.allclose(moved, before + 1.0, atol=1e-3)
    model.critic_linear.bias.data = torch.zeros(1)  # other memory than the views look at
    after = values()
    with torch.no_grad():
        tensors = {key: torch.from_numpy(value) for key, value in obs.items()}
        expected = model(prepare_and_normalize_obs(model, tensors), torch.zeros(7, 1))["values"].numpy()
    np.testing.assert_allclose(after, expected, rtol=1e-5, atol=1e-6)


def test_actions_follow_the_distribution():
    model, n = make_model(action_space=spaces.Discrete(4)), 40_000
    obs = {"obs": np.zeros((n, 4), np.float32)}
    out = act(model, obs)
    probs = np.exp(out.action_logits[0]) / np.exp(out.action_logits[0]).sum()
    frequencies = np.bincount(out.actions[:, 0].astype(int), minlength=4) / n
    np.testing.assert_allclose(frequencies, probs, atol=4 * 0.5 / n**0.5)
    assert np.array_equal(out.actions, act(model, obs).actions)
    assert not np.array_equal(out.actions, act(model, obs, seed=1).actions)


def test_an_impossible_action_is_never_chosen():
    model = make_model(action_space=spaces.Discrete(2))
    with torch.no_grad():
        model.action_parameterization.distribution_linear.bias.copy_(torch.tensor([200.0, 0.0]))
    assert not act(model, {"obs": np.zeros((10_000, 4), np.float32)}).actions.any()


def test_continuous_actions_have_the_means_and_deviations_of_the_parameters():
    model, n = make_model(action_space=spaces.Box(-1, 1, (2,))), 40_000
    out = act(model, {"obs": np.zeros((n, 4), np.float32)})
    means, stddevs = out.action_logits[0, :2], np.exp(out.action_logits[0, 2:])
    np.testing.assert_allclose(out.actions.mean(axis=0), means, atol=5 * stddevs.max() / n**0.5)
    np.testing.assert_allclose(out.actions.std(axis=0), stddevs, rtol=0.03)


@pytest.mark.parametrize("action_space", ACTION_SPACES[:3], ids=str)
def test_deterministic_actions_are_the_most_likely_ones(action_space):
    model, obs = make_model(action_space=action_space), random_obs(VECTOR)
    out = act(model, obs, deterministic=True)
    if isinstance(action_space, spaces.Discrete):
        assert np.array_equal(out.actions[:, 0], out.action_logits.argmax(axis=1))
    else:
        np.testing.assert_array_equal(out.actions, out.action_logits[:, :3])


@pytest.mark.parametrize("action_space", ACTION_SPACES[:4], ids=str)
def test_nan_is_an_error(action_space):
    with pytest.raises(ValueError, match="NaN"):
        act(make_model(action_space=action_space), {"obs": np.full((2, 4), np.nan, np.float32)})


def replaced_normalization(model) -> None:
    model.normalize_obs = lambda obs: obs


def hooked_encoder(model) -> None:
    model.encoder.register_forward_hook(lambda *args: None)


def unknown_activation(model) -> None:
    model.encoder.encoders["obs"].mlp_head[1] = nn.ELU(alpha=0.5)


@pytest.mark.parametrize("change", [replaced_normalization, hooked_encoder, unknown_activation])
def test_changed_models_are_left_to_torch(change):
    model = make_model()
    assert isinstance(compile_policy(model, np.random.default_rng(0), False), NumpyPolicy)
    change(model)
    assert compile_policy(model, np.random.default_rng(0), False) is None


@pytest.mark.parametrize(
    "flags, kwargs",
    [
        (("--use_rnn=True", "--rnn_type=lstm"), {}),
        (("--actor_critic_share_weights=False",), {}),
        (("--adaptive_stddev=False",), {"action_space": spaces.Box(-1, 1, (2,))}),
        (("--encoder_conv_architecture=resnet_impala",), {"obs_space": IMAGE}),
    ],
)
def test_other_models_are_left_to_torch(flags, kwargs):
    assert compile_policy(make_model(*flags, **kwargs), np.random.default_rng(0), False) is None
