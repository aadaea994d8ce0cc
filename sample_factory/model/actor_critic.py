"""The model: encoder, core, decoder, and the heads of the actor and the critic.

``forward`` is head (encoders), core (memory) and tail (decoders, heads); the learner calls the three separately.
"""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from sample_factory.algo.utils.action_distributions import (
    ActionMask,
    is_continuous_action_space,
    sample_actions_log_probs,
)
from sample_factory.algo.utils.context import global_model_factory
from sample_factory.algo.utils.running_mean_std import RunningMeanStdInPlace, running_mean_std_summaries
from sample_factory.algo.utils.tensor_dict import TensorDict
from sample_factory.cfg.configurable import Configurable
from sample_factory.cfg.shadowing import flag_value
from sample_factory.model.action_parameterization import (
    ActionParameterizationContinuousNonAdaptiveStddev,
    ActionParameterizationDefault,
    ActionsParameterization,
)
from sample_factory.model.core import CoreInput
from sample_factory.model.model_factory import ModelFactory
from sample_factory.model.model_utils import model_device
from sample_factory.utils.normalize import ObservationNormalizer
from sample_factory.utils.typing import ActionSpace, Config, ObsSpace

_ACTION_MASK = "action_mask"


class ActorCritic(nn.Module, Configurable):
    """What both variants have in common: normalisers, initialisation, sampling, devices.

    The state dict is an interface: its names and their order are those of Sample Factory 2.

    :param obs_space: Dict space without ``action_mask``, which is no input of the encoders.
    """

    action_parameterization: ActionsParameterization

    def __init__(self, obs_space: ObsSpace, action_space: ActionSpace, cfg: Config):
        nn.Module.__init__(self)
        Configurable.__init__(self, cfg)
        self.action_space = action_space
        self.encoders: list[Any] = []  # a plain list: the encoders are registered under their own names
        self.obs_normalizer = ObservationNormalizer(obs_space, cfg)
        self.returns_normalizer = RunningMeanStdInPlace((1,)) if cfg.normalize_returns else None
        self.last_action_distribution: Any = None  # the learner needs it after the forward pass

    def get_action_parameterization(self, decoder_output_size: int) -> ActionsParameterization:
        """The actor's head for features of this size."""
        head: type[ActionParameterizationDefault] | type[ActionParameterizationContinuousNonAdaptiveStddev]
        if not self.cfg.adaptive_stddev and is_continuous_action_space(self.action_space):
            head = ActionParameterizationContinuousNonAdaptiveStddev
        else:
            head = ActionParameterizationDefault
        return head(self.cfg, decoder_output_size, self.action_space)

    def model_to_device(self, device: torch.device | str) -> None:
        """Move everything to a device; parts with a ``model_to_device`` of their own decide for themselves."""
        self._apply(lambda tensor: tensor.to(device), recurse=False)
        for module in self.children():
            if hasattr(module, "model_to_device"):
                module.model_to_device(device)  # type: ignore[operator]
            else:
                module.to(device)

    def device_for_input_tensor(self, input_tensor_name: str) -> torch.device | None:
        """Where the observation of this name is wanted."""
        device = self.encoders[0].device_for_input_tensor(input_tensor_name)
        # An encoder without parameters is wherever its input is, so the input has to go where the heads are.
        return model_device(self) if device is None else device

    def type_for_input_tensor(self, input_tensor_name: str) -> torch.dtype:
        """The dtype in which the observation of this name is wanted."""
        return self.encoders[0].type_for_input_tensor(input_tensor_name)

    def initialize_weights(self, layer: nn.Module) -> None:
        """Initialise one layer by ``policy_initialization``; called for every module of the model.

        Biases (not those of recurrent layers) become zero in any case. ``weight_init_scope`` says whether the built-in
        MLP and convolutional stacks take part (``all``) or keep PyTorch's weights (``effective``, like the original).
        """
        bias = getattr(layer, "bias", None)
        if isinstance(bias, nn.Parameter):
            bias.data.zero_()
        if type(layer) is not nn.Linear and type(layer) is not nn.Conv2d:
            return
        scope = flag_value(self.cfg, "weight_init_scope")
        if scope == "effective" and getattr(layer, "keeps_default_weights", False):
            return
        scheme, gain = self.cfg.policy_initialization, self.cfg.policy_init_gain
        if scheme == "orthogonal":
            nn.init.orthogonal_(layer.weight.data, gain=gain)
        elif scheme == "xavier_uniform":
            nn.init.xavier_uniform_(layer.weight.data, gain=gain)
        # Other names keep PyTorch's weights, like torch_default; a custom model may give them a meaning.

    def normalize_obs(self, obs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Normalised copies of the observations; updates the statistics in training mode."""
        return self.obs_normalizer(obs)

    def summaries(self) -> dict[str, Tensor]:
        """Running statistics of observations and returns."""
        summaries = self.obs_normalizer.summaries()
        if self.returns_normalizer is not None:
            for name, value in running_mean_std_summaries(self.returns_normalizer).items():
                summaries[f"returns_{name}"] = value
        return summaries

    def action_distribution(self) -> Any:
        """Distribution of the most recent forward pass."""
        return self.last_action_distribution

    def _run_actor(
        self, features: Tensor, result: TensorDict, sample_actions: bool, action_mask: ActionMask | None
    ) -> None:
        # Heads written before action masks existed take no mask.
        if action_mask is None:
            logits, self.last_action_distribution = self.action_parameterization(features)
        else:
            logits, self.last_action_distribution = self.action_parameterization(features, action_mask)
        result["action_logits"] = logits
        self._maybe_sample_actions(sample_actions, result)

    def _maybe_sample_actions(self, sample_actions: bool, result: TensorDict) -> None:
        """Add ``log_prob_actions`` and ``actions`` if wanted; part of the interface of models with their own tail.

        They are drawn from ``last_action_distribution``, which the caller has set.
        """
        if sample_actions:
            actions, result["log_prob_actions"] = sample_actions_log_probs(self.last_action_distribution)
            result["actions"] = actions.squeeze(dim=1)

    def forward_head(self, normalized_obs_dict: dict[str, Tensor]) -> Tensor:
        """Encoded observations ``[b, D]``."""
        raise NotImplementedError

    def forward_core(self, head_output: CoreInput, rnn_states: Tensor) -> tuple[Any, Tensor]:
        """Core output and new recurrent states, for ``[b, D]`` or a PackedSequence."""
        raise NotImplementedError

    def forward_tail(
        self,
        core_output: Tensor,
        values_only: bool,
        sample_actions: bool,
        action_mask: ActionMask | None = None,
    ) -> TensorDict:
        """``values``; unless ``values_only`` also ``action_logits``, and ``log_prob_actions, actions`` if sampling."""
        raise NotImplementedError

    def forward(
        self,
        normalized_obs_dict: dict[str, Tensor],
        rnn_states: Tensor,
        values_only: bool = False,
        action_mask: ActionMask | None = None,
    ) -> TensorDict:
        """Act on one observation per row.

        :param normalized_obs_dict: name -> ``[b, ...]``
        :param rnn_states: ``[b, get_rnn_size(cfg)]``
        :param action_mask: non-zero where actions are allowed, see :func:`get_action_distribution`
        :returns: ``values [b]`` (no dimension if b is 1), ``action_logits [b, p]``, ``log_prob_actions [b]``,
            ``actions [b, k]`` (``[b]`` if k is 1), ``new_rnn_states [b, size]``; only values and states if
            ``values_only``.
        """
        head_output = self.forward_head(normalized_obs_dict)
        core_output, new_rnn_states = self.forward_core(head_output, rnn_states)
        if action_mask is None:  # subclasses written before action masks existed take no mask
            result = self.forward_tail(core_output, values_only, sample_actions=True)
        else:
            result = self.forward_tail(core_output, values_only, sample_actions=True, action_mask=action_mask)
        result["new_rnn_states"] = new_rnn_states
        return result


class ActorCriticSharedWeights(ActorCritic):
    """Actor and critic share everything but their heads."""

    def __init__(self, model_factory: ModelFactory, obs_space: ObsSpace, action_space: ActionSpace, cfg: Config):
        super().__init__(obs_space, action_space, cfg)
        self.encoder = model_factory.make_model_encoder_func(cfg, obs_space)
        self.encoders = [self.encoder]
        self.core = model_factory.make_model_core_func(cfg, self.encoder.get_out_size())
        self.decoder = model_factory.make_model_decoder_func(cfg, self.core.get_out_size())
        decoder_out_size = self.decoder.get_out_size()
        self.critic_linear = nn.Linear(decoder_out_size, 1)
        self.action_parameterization = self.get_action_parameterization(decoder_out_size)
        self.apply(self.initialize_weights)

    def forward_head(self, normalized_obs_dict: dict[str, Tensor]) -> Tensor:
        return self.encoder(normalized_obs_dict)

    def forward_core(self, head_output: CoreInput, rnn_states: Tensor) -> tuple[Any, Tensor]:
        return self.core(head_output, rnn_states)

    def forward_tail(
        self,
        core_output: Tensor,
        values_only: bool,
        sample_actions: bool,
        action_mask: ActionMask | None = None,
    ) -> TensorDict:
        features = self.decoder(core_output)
        result = TensorDict(values=self.critic_linear(features).squeeze())
        if not values_only:
            self._run_actor(features, result, sample_actions, action_mask)
        return result


class ActorCriticSeparateWeights(ActorCritic):
    """Two networks. Between head, core and tail their features and states travel side by side, the actor's first."""

    def __init__(self, model_factory: ModelFactory, obs_space: ObsSpace, action_space: ActionSpace, cfg: Config):
        super().__init__(obs_space, action_space, cfg)
        self.actor_encoder = model_factory.make_model_encoder_func(cfg, obs_space)
        self.actor_core = model_factory.make_model_core_func(cfg, self.actor_encoder.get_out_size())
        self.critic_encoder = model_factory.make_model_encoder_func(cfg, obs_space)
        self.critic_core = model_factory.make_model_core_func(cfg, self.critic_encoder.get_out_size())
        # Plain lists, in this order: encoders and cores are called through them, so their items can be replaced.
        self.encoders = [self.actor_encoder, self.critic_encoder]
        self.cores = [self.actor_core, self.critic_core]
        self.core_func = self._core_rnn if cfg.use_rnn else self._core_empty
        self.actor_decoder = model_factory.make_model_decoder_func(cfg, self.actor_core.get_out_size())
        self.critic_decoder = model_factory.make_model_decoder_func(cfg, self.critic_core.get_out_size())
        self.decoders = [self.actor_decoder, self.critic_decoder]
        self.critic_linear = nn.Linear(self.critic_decoder.get_out_size(), 1)
        self.action_parameterization = self.get_action_parameterization(self.actor_decoder.get_out_size())
        self.apply(self.initialize_weights)

    def forward_head(self, normalized_obs_dict: dict[str, Tensor]) -> Tensor:
        return torch.cat([encoder(normalized_obs_dict) for encoder in self.encoders], dim=1)

    def forward_core(self, head_output: CoreInput, rnn_states: Tensor) -> tuple[Any, Tensor]:
        return self.core_func(head_output, rnn_states)

    def _core_empty(self, head_output: CoreInput, rnn_states: Tensor) -> tuple[Any, Tensor]:
        """Without memory there is nothing to run."""
        return head_output, rnn_states

    def _core_rnn(self, head_output: CoreInput, rnn_states: Tensor) -> tuple[Any, Tensor]:
        actor_core, critic_core = self.cores
        actor_input, critic_input = _split_features(head_output, self.encoders[0].get_out_size())
        actor_states, critic_states = rnn_states.chunk(2, dim=1)
        actor_output, new_actor_states = actor_core(actor_input, actor_states)
        critic_output, new_critic_states = critic_core(critic_input, critic_states)
        new_states = torch.cat([new_actor_states, new_critic_states], dim=1)
        return _join_features(actor_output, critic_output), new_states

    def forward_tail(
        self,
        core_output: Tensor,
        values_only: bool,
        sample_actions: bool,
        action_mask: ActionMask | None = None,
    ) -> TensorDict:
        actor_size = (self.cores if self.cfg.use_rnn else self.encoders)[0].get_out_size()
        actor_output, critic_output = _split_features(core_output, actor_size)
        result = TensorDict(values=self.critic_linear(self.critic_decoder(critic_output)).squeeze())
        if not values_only:
            self._run_actor(self.actor_decoder(actor_output), result, sample_actions, action_mask)
        return result


def _split_features(x: Any, num_first: int) -> tuple[Any, Any]:
    """The first features and the others, of ``[b, D]`` or of every step of a PackedSequence.

    A packed sequence stores its steps as rows, so splitting its data splits every sequence: no repacking that could
    reorder sequences of equal length.
    """
    if isinstance(x, PackedSequence):
        first, second = x.data[:, :num_first], x.data[:, num_first:]
        return x._replace(data=first), x._replace(data=second)
    return x[:, :num_first], x[:, num_first:]


def _join_features(first: Any, second: Any) -> Any:
    """The inverse of :func:`_split_features`."""
    if isinstance(first, PackedSequence):
        return first._replace(data=torch.cat([first.data, second.data], dim=1))
    return torch.cat([first, second], dim=1)


def default_make_actor_critic_func(cfg: Config, obs_space: ObsSpace, action_space: ActionSpace) -> ActorCritic:
    """The model used unless another one is registered."""
    cls = ActorCriticSharedWeights if cfg.actor_critic_share_weights else ActorCriticSeparateWeights
    return cls(global_model_factory(), obs_space_without_action_mask(obs_space), action_space, cfg)


def create_actor_critic(cfg: Config, obs_space: ObsSpace, action_space: ActionSpace) -> ActorCritic:
    """Build the registered model.

    :param obs_space: Dict space, as :func:`extract_env_info` provides it.
    """
    if not isinstance(obs_space, spaces.Dict):
        raise ValueError(f"Models take a Dict observation space, got {obs_space}: wrap it as Dict(obs=...)")
    return global_model_factory().make_actor_critic_func(cfg, obs_space, action_space)


def obs_space_without_action_mask(obs_space: ObsSpace) -> ObsSpace:
    """The observations that encoders and normalisers see: all but ``action_mask``."""
    if not isinstance(obs_space, spaces.Dict) or _ACTION_MASK not in obs_space.spaces:
        return obs_space
    return spaces.Dict({key: space for key, space in obs_space.spaces.items() if key != _ACTION_MASK})
