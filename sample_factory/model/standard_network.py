"""Recognises models made of the package's own parts and runs them for the learner with fewer, larger operations.

Models, parts or methods that anybody replaced, hooks, other devices and dtypes: there is no standard network, and the
model is called as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from operator import is_
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sample_factory.model.action_parameterization import ActionParameterizationDefault
from sample_factory.model.actor_critic import ActorCritic, ActorCriticSharedWeights
from sample_factory.model.conv_stack import ConvStack, convolve, plain_convolutions
from sample_factory.model.core import ModelCoreIdentity, ModelCoreRNN
from sample_factory.model.decoder import MlpDecoder
from sample_factory.model.dense_stack import (
    HOOK_ATTRIBUTES,
    DenseStack,
    RecordedHeads,
    dense,
    dense_with_heads,
    has_hooks,
    plain_linear,
    plain_stack,
    stack_forward,
)
from sample_factory.model.encoder import ConvEncoder, ConvEncoderImpl, MlpEncoder, MultiInputEncoder
from sample_factory.model.gru_sequence import gru_layer, rows_to_reset
from sample_factory.utils.normalize import ObservationNormalizer

GruParameters = tuple[Tensor, Tensor, Tensor, Tensor]

# As defined here: replaced later, they must be called.
_METHODS: tuple[tuple[type, tuple[tuple[str, Any], ...]], ...] = tuple(
    (cls, tuple((name, getattr(cls, name)) for name in names))
    for cls, names in (
        (
            ActorCriticSharedWeights,
            (
                "normalize_obs",
                "forward",
                "forward_head",
                "forward_core",
                "forward_tail",
                "_run_actor",
                "_maybe_sample_actions",
                "action_distribution",
            ),
        ),
        (MultiInputEncoder, ("forward", "device_for_input_tensor", "type_for_input_tensor")),
        (MlpEncoder, ("forward", "device_for_input_tensor", "type_for_input_tensor")),
        (ConvEncoder, ("forward", "device_for_input_tensor", "type_for_input_tensor")),
        (ConvEncoderImpl, ("forward",)),
        (ObservationNormalizer, ("forward",)),
        (ModelCoreIdentity, ("forward",)),
        (ModelCoreRNN, ("forward",)),
        (MlpDecoder, ("forward",)),
        (ActionParameterizationDefault, ("forward",)),
    )
)


def _are_methods_original() -> bool:
    return all(getattr(cls, name) is method for cls, methods in _METHODS for name, method in methods)


def _is_plain(module: Any, cls: type) -> bool:
    return type(module) is cls and not has_hooks(module)


class _Structure:
    """What a model consisted of when it was looked at, to find out quickly that nothing was replaced since."""

    def __init__(self, model: nn.Module) -> None:
        modules = list(model.modules())
        self._modules, self._types = modules, [type(m) for m in modules]
        self._hooks = [m.__dict__[name] for m in modules for name in HOOK_ATTRIBUTES]
        self._attributes = [m.__dict__ for m in modules]
        self._num_attributes = [len(attributes) for attributes in self._attributes]
        self._owners: list[Any] = [owner for m in modules for owner in (m._modules, m._parameters) if owner]
        self._num_owned = [len(owner) for owner in self._owners]
        self._owned = [x for owner in self._owners for x in owner.values()]

    def is_unchanged(self) -> bool:
        if any(self._hooks) or not all(map(is_, map(type, self._modules), self._types)):
            return False
        # New attributes: somebody may have replaced a method of one object.
        if list(map(len, self._attributes)) != self._num_attributes:
            return False
        if list(map(len, self._owners)) != self._num_owned:
            return False
        return all(map(is_, chain.from_iterable(owner.values() for owner in self._owners), self._owned))


class NetworkOfModel:
    """The standard network of a model, looked up again whenever the model is not what it was."""

    def __init__(self) -> None:
        self._model: Any = None
        self._structure: _Structure | None = None
        self._network: StandardNetwork | None = None

    def get(self, model: Any) -> StandardNetwork | None:
        """``None`` if the model is not a standard one."""
        is_known = self._model is model and self._structure is not None and self._structure.is_unchanged()
        if not is_known:
            self._model, self._network = model, StandardNetwork.of(model)
            # Other models may become standard ones, for instance when a hook is removed: look again next time.
            self._structure = None if self._network is None else _Structure(model)
        return self._network if _are_methods_original() else None


@dataclass(frozen=True)
class StandardNetwork:
    """One observation; convolutions if it is an image; MLP; GRU or no memory; MLP decoder; linear heads."""

    obs_key: str
    conv_head: nn.Module | None
    convolutions: ConvStack | None  # the layers of conv_head, if they are plain ones
    encoder: DenseStack
    gru_layers: tuple[GruParameters, ...]  # none: no memory
    decoder: DenseStack
    actor: tuple[Tensor, Tensor]
    critic: tuple[Tensor, Tensor]
    has_plain_normalizer: bool

    @classmethod
    def of(cls, model: ActorCritic) -> StandardNetwork | None:
        """The network of this model as long as nobody changes the model's structure; ``None`` if it is another kind."""
        if not _is_plain(model, ActorCriticSharedWeights) or not _are_methods_original():
            return None
        if any(name in model.__dict__ for name in ("forward_head", "forward_core", "forward_tail")):
            return None
        parts: dict[str, Any] = model._modules
        encoder, decoder, head = parts["encoder"], parts["decoder"], parts["action_parameterization"]
        if not (
            _is_plain(encoder, MultiInputEncoder)
            and len(encoder.obs_keys) == 1
            and _is_plain(decoder, MlpDecoder)
            and _is_plain(head, ActionParameterizationDefault)
        ):
            return None
        obs_key = encoder.obs_keys[0]
        obs_encoder = encoder.encoders[obs_key]
        conv_head: nn.Module | None = None
        if _is_plain(obs_encoder, MlpEncoder):
            encoder_stack = plain_stack(obs_encoder.mlp_head)
        elif _is_plain(obs_encoder, ConvEncoder) and _is_plain(obs_encoder.enc, ConvEncoderImpl):
            conv_head, encoder_stack = obs_encoder.enc.conv_head, plain_stack(obs_encoder.enc.mlp_layers)
        else:
            return None
        decoder_stack = plain_stack(decoder.mlp)
        actor, critic = plain_linear(head.distribution_linear), plain_linear(parts["critic_linear"])
        gru_layers = _plain_core(parts["core"])
        if encoder_stack is None or gru_layers is None or decoder_stack is None or actor is None or critic is None:
            return None
        normalizer = parts["obs_normalizer"]
        has_plain_normalizer = _is_plain(normalizer, ObservationNormalizer) and "normalize_obs" not in model.__dict__
        return cls(
            obs_key,
            conv_head,
            plain_convolutions(conv_head),
            encoder_stack,
            gru_layers,
            decoder_stack,
            actor,
            critic,
            has_plain_normalizer,
        )

    def forward(
        self,
        normalized_obs: dict[str, Tensor],
        rnn_states: Tensor,
        ends: np.ndarray | None,
        recurrence: int,
        rounded: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Logits ``[b, A]`` and values ``[b]`` of trajectories of ``recurrence`` steps, trajectory after trajectory.

        :param rnn_states: states before every step ``[b, H]``; used at the first step of each trajectory
        :param rounded: all matrix products but those of the heads have the precision of bfloat16
        :param ends: bool ``[b]``, steps after which the state is reset; only needed with a GRU
        """
        x = normalized_obs[self.obs_key]
        if self.conv_head is not None:
            x = self._image_features(x, rounded)
        if not self.gru_layers:
            return self._without_memory(x, rounded)
        assert ends is not None
        shape = (-1, recurrence)
        # Step after step, so that the recurrence works on contiguous memory.
        x = dense(self.encoder, x.unflatten(0, shape).transpose(0, 1).flatten(0, 1), rounded)
        resets = rows_to_reset(ends.reshape(shape))
        states = rnn_states[::recurrence]
        for parameters, initial in zip(self.gru_layers, states.chunk(len(self.gru_layers), dim=1), strict=True):
            x = gru_layer(x, initial, resets, parameters, rounded)
        logits, values = dense_with_heads(self.decoder, self.actor, self.critic, x, rounded)
        back = (recurrence, -1)
        return logits.unflatten(0, back).transpose(0, 1).flatten(0, 1), values.view(back).t().reshape(-1)

    def _image_features(self, images: Tensor, rounded: bool) -> Tensor:
        assert self.conv_head is not None
        if self.convolutions is not None and not rounded:
            return convolve(self.convolutions, images)
        with torch.autocast("cpu", torch.bfloat16, enabled=rounded):
            features: Tensor = self.conv_head(images).flatten(1)
        return features.float()

    def _without_memory(self, x: Tensor, rounded: bool) -> tuple[Tensor, Tensor]:
        layers = self._joined_layers()
        if layers is None:
            return dense_with_heads(self.decoder, self.actor, self.critic, dense(self.encoder, x, rounded), rounded)
        return dense_with_heads(layers, self.actor, self.critic, x, rounded)

    def _joined_layers(self) -> DenseStack | None:
        """Encoder and decoder as one stack, ``None`` if their activations differ."""
        encoder, decoder = self.encoder, self.decoder
        if encoder.parameters and decoder.parameters and encoder.activation != decoder.activation:
            return None
        activation = encoder.activation if encoder.parameters else decoder.activation
        return DenseStack(encoder.parameters + decoder.parameters, activation)

    @property
    def is_recordable(self) -> bool:
        """Whether :meth:`record` is possible: nothing but linear layers and one activation."""
        return self.conv_head is None and not self.gru_layers and self._joined_layers() is not None

    def record(self, normalized_obs: dict[str, Tensor], rounded: bool = False) -> RecordedHeads:
        """Forward pass without autograd that can be run backwards."""
        layers = self._joined_layers()
        assert layers is not None
        return RecordedHeads(layers, self.actor, self.critic, normalized_obs[self.obs_key], rounded)

    def values(self, normalized_obs: dict[str, Tensor], rnn_states: Tensor) -> Tensor:
        """Values ``[b]`` of single steps, not differentiable; ``rnn_states`` ``[b, H]`` are those before the step."""
        with torch.no_grad():
            if self.is_recordable:
                layers = self._joined_layers()
                assert layers is not None
                weight, bias = self.critic
                features = stack_forward(normalized_obs[self.obs_key], *layers)[-1]
                return torch.addmv(bias.expand(len(features)), features, weight[0])
            ends = np.ones(len(rnn_states), dtype=bool)
            return self.forward(normalized_obs, rnn_states, ends, recurrence=1)[1]


def _plain_core(core: Any) -> tuple[GruParameters, ...] | None:
    """Parameters of the GRU layers, none of them for no memory; ``None`` if the core is something else."""
    if _is_plain(core, ModelCoreIdentity):
        return ()
    if not _is_plain(core, ModelCoreRNN) or type(core.core) is not nn.GRU or has_hooks(core.core):
        return None
    layers = tuple((w[0], w[1], w[2], w[3]) for w in core.core.all_weights)
    is_plain = all(p.dtype == torch.float32 and p.device.type == "cpu" for layer in layers for p in layer)
    return layers if is_plain else None
