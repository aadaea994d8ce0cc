"""Numbers computed once with Sample Factory 2: the same inputs must give the same outputs forever."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from sample_factory.algo.utils.action_distributions import CategoricalActionDistribution, ContinuousActionDistribution
from sample_factory.algo.utils.optimizers import Lamb
from sample_factory.algo.utils.rl_utils import gae_advantages, prepare_and_normalize_obs
from sample_factory.algo.utils.running_mean_std import RunningMeanStdInPlace
from sample_factory.model.actor_critic import ActorCritic, create_actor_critic
from sample_factory.model.model_utils import get_rnn_size
from tests.model_configs import box_actions, image_obs, model_cfg, vector_obs


def _close(actual: Any, expected: Any, tolerance: float = 2e-6) -> None:
    torch.testing.assert_close(torch.as_tensor(actual), torch.tensor(expected), atol=tolerance, rtol=0.0)


def test_gae() -> None:
    advantages = gae_advantages(
        torch.tensor([[1.0, 2.0, 3.0], [0.5, 0.0, -1.0]]),
        torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]]),
        torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8]]),
        torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 1.0, 1.0]]),
        0.9,
        0.8,
    )
    _close(advantages, [[3.970080, 4.014000, 2.700000], [0.0, 0.0, -0.98]])


def test_running_mean_std() -> None:
    normalizer = RunningMeanStdInPlace((1,))
    x = torch.tensor([1.0, 2.0, 3.0, 6.0])
    normalizer(x)
    _close(x, [-0.603957, -0.172559, 0.258839, 1.553031])
    assert normalizer.running_mean.item() == pytest.approx(2.4)
    assert normalizer.running_var.item() == pytest.approx(5.373333, abs=1e-6)
    assert normalizer.count.item() == 5


def test_categorical() -> None:
    distribution = CategoricalActionDistribution(torch.tensor([[0.0, 1.0, 2.0]]))
    other = CategoricalActionDistribution(torch.tensor([[1.0, 0.0, 0.0]]))
    _close(distribution.entropy(), [0.832396])
    _close(distribution.kl_divergence(other), [0.629018])
    _close(distribution.symmetric_kl_with_uniform_prior(), [0.287605])
    _close(distribution.log_prob(torch.tensor([[2]])), [-0.407606])


def test_gaussian() -> None:
    distribution = ContinuousActionDistribution(torch.tensor([[0.1, -0.2, 0.3, -0.4]]))
    other = ContinuousActionDistribution(torch.zeros(1, 4))
    _close(distribution.entropy(), [2.737877])
    _close(distribution.kl_divergence(other), [0.260724])
    _close(distribution.log_prob(torch.tensor([[0.5, 0.5]])), [-2.327039])
    extreme = ContinuousActionDistribution(torch.tensor([[0.0, 0.0, -20.0, 20.0]]))
    torch.testing.assert_close(extreme.stddevs, torch.tensor([[1e-4, 1e4]]))


def test_lamb() -> None:
    p = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = Lamb([p], lr=0.01, betas=(0.9, 0.999), eps=1e-6)
    p.grad = torch.tensor([0.5, 0.1])
    optimizer.step()
    _close(p.detach(), [0.984186, -2.015809])
    p.grad = torch.tensor([0.2, -0.3])
    optimizer.step()
    _close(p.detach(), [0.964532, -2.004997])


def _fill(model: ActorCritic) -> None:
    """Deterministic weights: element j of the i-th parameter is 0.1 sin(1 + i + 0.37 j)."""
    with torch.no_grad():
        for i, (_, p) in enumerate(model.named_parameters()):
            j = torch.arange(p.numel(), dtype=torch.float64)
            p.copy_((0.1 * torch.sin(1.0 + i + 0.37 * j)).to(torch.float32).view(p.shape))
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.fill_(0.1)
            elif name.endswith("running_var"):
                buffer.fill_(2.0)


def _observations(obs_space: spaces.Dict) -> dict[str, Tensor]:
    observations = {}
    for key, space in obs_space.spaces.items():
        assert space.shape is not None
        x = 0.5 * np.cos(0.11 * np.arange(2 * math.prod(space.shape)))
        if space.dtype == np.uint8:
            x = np.floor((x + 0.5) * 200)
        observations[key] = torch.from_numpy(x.astype(space.dtype).reshape(2, *space.shape))
    return observations


def _forward(cfg: Any, obs_space: spaces.Dict, action_space: spaces.Space) -> dict[str, Tensor]:
    model = create_actor_critic(cfg, obs_space, action_space)
    _fill(model)
    model.eval()
    size = get_rnn_size(cfg)
    rnn_states = torch.from_numpy((0.05 * np.sin(0.2 * np.arange(2 * size))).astype(np.float32).reshape(2, size))
    with torch.no_grad():
        return model(prepare_and_normalize_obs(model, _observations(obs_space)), rnn_states)


def test_g1_vector_gru() -> None:
    cfg = model_cfg(encoder_mlp_layers=[8], rnn_size=8)
    out = _forward(cfg, vector_obs(4), spaces.Discrete(2))
    _close(out["values"], [0.093488, 0.098609])
    _close(out["action_logits"], [[-0.080838, -0.051794], [-0.076622, -0.057307]])
    _close(out["new_rnn_states"].sum(dim=1), [0.136574, 0.164574], 5e-6)
    _close(out["new_rnn_states"][0, :3], [-0.064192, -0.037607, -0.038013])


def test_g2_continuous_fixed_stddev() -> None:
    cfg = model_cfg(
        encoder_mlp_layers=[8, 6],
        nonlinearity="tanh",
        use_rnn=False,
        adaptive_stddev=False,
        initial_stddev=0.5,
        continuous_tanh_scale=1.5,
    )
    out = _forward(cfg, vector_obs(5), box_actions(3))
    _close(out["values"], [-0.012278, -0.012349])
    _close(
        out["action_logits"],
        [
            [0.020445, 0.045641, -0.058789, 0.065699, 0.088515, 0.099351],
            [0.020509, 0.045644, -0.058857, 0.065699, 0.088515, 0.099351],
        ],
    )
    _close(out["new_rnn_states"], [[0.0], [0.05 * math.sin(0.2)]])  # handed through


def test_g3_lstm_two_layers() -> None:
    cfg = model_cfg(encoder_mlp_layers=[8], rnn_type="lstm", rnn_num_layers=2, rnn_size=4)
    out = _forward(cfg, vector_obs(4), spaces.Discrete(2))
    _close(out["values"], [-0.059898, -0.056059])
    _close(out["action_logits"], [[0.106670, 0.101358], [0.104830, 0.097825]])
    _close(out["new_rnn_states"].sum(dim=1), [0.581097, 0.194015], 5e-6)
    _close(out["new_rnn_states"][0, :3], [0.050709, 0.022279, 0.029898])


def test_g4_separate_weights() -> None:
    cfg = model_cfg(encoder_mlp_layers=[8], rnn_size=4, actor_critic_share_weights=False, decoder_mlp_layers=[5])
    out = _forward(cfg, vector_obs(4), spaces.Discrete(3))
    _close(out["values"], [-0.048744, -0.048929])
    _close(out["action_logits"], [[0.111064, 0.119500, 0.064347], [0.110850, 0.119983, 0.064295]])
    _close(out["new_rnn_states"].sum(dim=1), [0.430260, 0.449755], 5e-6)


def test_g5_convnet() -> None:
    cfg = model_cfg(encoder_conv_mlp_layers=[16], use_rnn=False, obs_scale=255.0, obs_subtract_mean=10.0)
    out = _forward(cfg, image_obs(3, 64, 64), spaces.Discrete(3))
    _close(out["values"], [-0.020030, -0.020039])
    _close(out["action_logits"], [[-0.127193, -0.086777, -0.034944], [-0.127240, -0.086832, -0.035001]])


def test_g6_resnet() -> None:
    cfg = model_cfg(
        encoder_conv_architecture="resnet_impala",
        nonlinearity="relu",
        encoder_conv_mlp_layers=[16],
        use_rnn=False,
        obs_scale=255.0,
    )
    out = _forward(cfg, image_obs(3, 20, 20), spaces.Discrete(3))
    _close(out["values"], [3.975049, 3.839276], 1e-5)
    _close(out["action_logits"], [[-6.140382, -5.194094, -3.569710], [-6.089193, -5.190967, -3.615052]], 1e-5)


def test_g7_dict_and_tuple() -> None:
    cfg = model_cfg(encoder_mlp_layers=[6], use_rnn=False, normalize_input_keys=["aux"])
    box = spaces.Box(-1.0, 1.0, (4,), np.float32)
    obs_space = spaces.Dict(aux=spaces.Box(-1.0, 1.0, (3,), np.float32), obs=box)
    out = _forward(cfg, obs_space, spaces.Tuple([spaces.Discrete(2), box_actions(2)]))
    _close(out["values"], [-0.098420, -0.097089])
    _close(
        out["action_logits"],
        [
            [0.131875, 0.017985, 0.067434, 0.097703, -0.045615, -0.086421],
            [0.131871, 0.019394, 0.066680, 0.096700, -0.044321, -0.086113],
        ],
    )
