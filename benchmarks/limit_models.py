"""The work of a policy without a framework: one forward pass, one SGD step.

Each is offered with this project's model as a module, with the project's shortcuts for standard models and, for vector
observations, with the same network written down in PyTorch and, where it only acts, in NumPy, with nothing around it.
What is slower than another way is no limit.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from sample_factory.algo.sampling.numpy_policy import NumpyPolicy, PolicyOutputs, compile_policy
from sample_factory.algo.utils.action_distributions import calc_num_action_parameters, calc_num_actions
from sample_factory.algo.utils.optimizers import make_optimizer
from sample_factory.model.actor_critic import create_actor_critic
from sample_factory.model.model_utils import get_rnn_size
from sample_factory.model.standard_network import NetworkOfModel, StandardNetwork

if TYPE_CHECKING:
    from sample_factory.utils.typing import Config

Work = Callable[[], int]

_CLIP, _VALUE_COEFF, _ENTROPY_COEFF, _MAX_GRAD_NORM = 0.1, 0.5, 0.003, 4.0
_MAX_OBS = 10.0
_ACTIVATIONS = {"elu": nn.ELU, "relu": nn.ReLU, "tanh": nn.Tanh}
_NUMPY_ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "elu": lambda x: np.maximum(x, np.expm1(np.minimum(x, 0.0))),
    "relu": lambda x: np.maximum(x, 0.0),
    "tanh": np.tanh,
}


def model_functions(
    cfg: Config, obs_space: gym.Space, action_space: gym.Space, num_rows: int
) -> tuple[list[Work], list[Work]]:
    """(ways to act for `num_rows` agents, ways to learn from a minibatch); each returns its number of frames."""
    dict_space = obs_space if isinstance(obs_space, gym.spaces.Dict) else gym.spaces.Dict(obs=obs_space)
    acting_obs, learning_obs = _observations(dict_space, num_rows), _observations(dict_space, cfg.batch_size)
    model = create_actor_critic(cfg, dict_space, action_space)
    acting, learning = [_act_with_model(cfg, model, acting_obs)], [_learn_with_model(cfg, model, learning_obs)]
    policy, network = compile_policy(model, np.random.default_rng(0), deterministic=False), NetworkOfModel().get(model)
    if policy is not None:
        acting.append(_act_compiled(cfg, policy, acting_obs, action_space))
    if network is not None and isinstance(action_space, gym.spaces.Discrete):
        learning.append(_learn_with_network(cfg, model, network, learning_obs))
    sole_space = next(iter(dict_space.spaces.values()))
    is_plain = len(dict_space.spaces) == 1 and len(sole_space.shape or ()) == 1 and not cfg.decoder_mlp_layers
    if is_plain and isinstance(action_space, gym.spaces.Discrete) and (not cfg.use_rnn or cfg.rnn_type == "gru"):
        bare = BareNetwork(cfg, sole_space.shape[0], int(action_space.n))  # type: ignore[index]
        acting.append(_act_bare(bare, next(iter(acting_obs.values()))))
        if not cfg.use_rnn:
            acting.append(_act_numpy(NumpyNetwork(bare, cfg.nonlinearity), next(iter(acting_obs.values())).numpy()))
        learning.append(_learn_bare(cfg, bare, next(iter(learning_obs.values()))))
    return acting, learning


class BareNetwork(nn.Module):
    """Layers of `--encoder_mlp_layers`, a GRU if recurrent, and one linear layer for logits and value together."""

    def __init__(self, cfg: Config, num_inputs: int, num_actions: int) -> None:
        super().__init__()
        sizes = [num_inputs, *cfg.encoder_mlp_layers]
        layers: list[nn.Module] = []
        for size_in, size_out in pairwise(sizes):
            layers += [nn.Linear(size_in, size_out), _ACTIVATIONS[cfg.nonlinearity]()]
        self.body = nn.Sequential(*layers)
        self.gru = nn.GRU(sizes[-1], cfg.rnn_size, cfg.rnn_num_layers) if cfg.use_rnn else None
        self.heads = nn.Linear(cfg.rnn_size if cfg.use_rnn else sizes[-1], num_actions + 1)
        self.register_buffer("mean", torch.zeros(num_inputs))
        self.register_buffer("scale", torch.ones(num_inputs))

    def forward(self, obs: Tensor, states: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Observations ``[t, n, obs]`` -> log-probabilities ``[t * n, actions]``, values ``[t * n]``, states."""
        features = self.body(((obs - self.mean) * self.scale).clamp(-5.0, 5.0))
        if self.gru is not None:
            features, states = self.gru(features, states)
        outputs = self.heads(features.flatten(0, 1))
        return outputs[:, :-1].log_softmax(1), outputs[:, -1], states


class NumpyNetwork:
    """A feed-forward `BareNetwork` in NumPy: fewer microseconds per call for small batches."""

    def __init__(self, network: BareNetwork, nonlinearity: str) -> None:
        linear = [layer for layer in network.body if isinstance(layer, nn.Linear)] + [network.heads]
        self.weights = [layer.weight.detach().numpy().T.copy() for layer in linear]  # [in, out] each
        self.biases = [layer.bias.detach().numpy().copy() for layer in linear]  # [out] each
        self.mean, self.scale = network.mean.numpy(), network.scale.numpy()  # [obs]
        self.activation = _NUMPY_ACTIVATIONS[nonlinearity]

    def __call__(self, obs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Observations ``[n, obs]`` -> log-probabilities ``[n, actions]``, values ``[n]``."""
        x = np.minimum(np.maximum((obs - self.mean) * self.scale, -5.0), 5.0)
        for weights, biases in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = self.activation(x @ weights + biases)
        x = x @ self.weights[-1] + self.biases[-1]
        logits = x[:, :-1]
        shifted = logits - logits.max(1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(1, keepdims=True)), x[:, -1]


def _act_with_model(cfg: Config, model: Any, obs: dict[str, Tensor]) -> Work:
    num_rows = len(next(iter(obs.values())))
    states = torch.zeros(num_rows, get_rnn_size(cfg))  # [rows, size]

    def act() -> int:
        model.eval()
        with torch.inference_mode():
            model(model.normalize_obs(obs), states)
        return num_rows

    return act


def _act_compiled(cfg: Config, policy: NumpyPolicy, obs: dict[str, Tensor], action_space: gym.Space) -> Work:
    arrays = {key: value.numpy() for key, value in obs.items()}
    num_rows = len(next(iter(arrays.values())))
    states, next_states = np.zeros((2, num_rows, get_rnn_size(cfg)), np.float32)
    widths = calc_num_actions(action_space), calc_num_action_parameters(action_space)
    actions, logits = (np.zeros((num_rows, width), np.float32) for width in widths)
    log_probs, values = np.zeros((2, num_rows), np.float32)

    def act() -> int:
        policy.act(arrays, states, PolicyOutputs(actions, logits, log_probs, values), next_states)
        return num_rows

    return act


def _act_bare(network: BareNetwork, obs: Tensor) -> Work:
    rows = obs[None]  # [1, rows, obs]
    states = None
    if network.gru is not None:
        states = torch.zeros(network.gru.num_layers, len(obs), network.gru.hidden_size)

    def act() -> int:
        with torch.inference_mode():
            log_probs, _, _ = network(rows, states)
            actions = (log_probs - torch.empty_like(log_probs).exponential_().log_()).argmax(1, keepdim=True)
            log_probs.gather(1, actions)
        return len(obs)

    return act


def _act_numpy(network: NumpyNetwork, obs: np.ndarray) -> Work:
    rng = np.random.default_rng(0)
    rows = np.arange(len(obs))

    def act() -> int:
        log_probs, _ = network(obs)
        noise = rng.standard_exponential(log_probs.shape, dtype=np.float32)
        actions = (log_probs - np.log(noise)).argmax(1)
        log_probs[rows, actions]
        return len(obs)

    return act


def _learn_with_model(cfg: Config, model: Any, obs: dict[str, Tensor]) -> Work:
    """Rows are ordered by step, then sequence."""
    num_sequences = cfg.batch_size // cfg.rollout
    lengths = torch.full((cfg.rollout,), num_sequences)  # [rollout]
    states = torch.zeros(num_sequences if cfg.use_rnn else cfg.batch_size, get_rnn_size(cfg))
    optimizer = make_optimizer(cfg, list(model.parameters()))

    def outputs(actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        model.train()
        head = model.forward_head(model.normalize_obs(obs))
        core, _ = model.forward_core(PackedSequence(head, lengths) if cfg.use_rnn else head, states)
        result = model.forward_tail(core.data if cfg.use_rnn else core, values_only=False, sample_actions=False)
        distribution = model.action_distribution()
        return distribution.log_prob(actions), distribution.entropy(), result["values"]

    return _sgd_step(cfg.batch_size, outputs, model, optimizer)


def _learn_with_network(cfg: Config, model: Any, network: StandardNetwork, obs: dict[str, Tensor]) -> Work:
    """Rows are ordered by sequence, then step."""
    states = torch.zeros(cfg.batch_size, get_rnn_size(cfg))
    ends = np.zeros(cfg.batch_size, dtype=bool)
    optimizer = make_optimizer(cfg, list(model.parameters()))

    def outputs(actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        model.train()
        logits, values = network.forward(model.normalize_obs(obs), states, ends, cfg.rollout)
        log_probs = logits.log_softmax(1)
        entropy = -(log_probs.exp() * log_probs).sum(1)
        return log_probs.gather(1, actions[:, None]).squeeze(1), entropy, values

    return _sgd_step(cfg.batch_size, outputs, model, optimizer)


def _learn_bare(cfg: Config, network: BareNetwork, obs: Tensor) -> Work:
    by_step = obs.view(cfg.rollout, -1, obs.shape[1])  # [rollout, sequences, obs]
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, eps=cfg.adam_eps, fused=True)

    def outputs(actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        log_probs, values, _ = network(by_step, None)
        entropy = -(log_probs.exp() * log_probs).sum(1)
        return log_probs.gather(1, actions[:, None]).squeeze(1), entropy, values

    return _sgd_step(cfg.batch_size, outputs, network, optimizer)


def _sgd_step(
    batch_size: int,
    outputs: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]],
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> Work:
    """The loss of PPO from (log-probabilities of actions, entropies, values), each ``[batch]``, and a step on it."""
    actions = torch.randint(2, (batch_size,))
    advantages, returns = torch.randn(batch_size), torch.randn(batch_size)
    old_log_probs = torch.full((batch_size,), -0.7)
    parameters = list(module.parameters())

    def learn() -> int:
        log_probs, entropy, values = outputs(actions)
        ratio = (log_probs - old_log_probs).exp()
        policy_loss = -torch.min(ratio * advantages, ratio.clamp(1.0 - _CLIP, 1.0 + _CLIP) * advantages).mean()
        value_loss = (values - returns).square().mean()
        loss = policy_loss + _VALUE_COEFF * value_loss - _ENTROPY_COEFF * entropy.mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, _MAX_GRAD_NORM)
        optimizer.step()
        return batch_size

    return learn


def _observations(space: gym.spaces.Dict, num: int) -> dict[str, Tensor]:
    """Random observations, ``[num, ...]`` each; some bounds are the largest numbers there are."""
    samples = {key: np.stack([sub_space.sample() for _ in range(num)]) for key, sub_space in space.spaces.items()}
    return {
        key: torch.from_numpy(x if x.dtype == np.uint8 else x.clip(-_MAX_OBS, _MAX_OBS)) for key, x in samples.items()
    }
