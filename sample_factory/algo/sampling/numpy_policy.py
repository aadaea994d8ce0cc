"""The forward pass of standard models on the CPU, without the cost of calling torch for every layer.

Acting in cheap environments is bound by the number of calls, not by arithmetic: with 32 observations a model of two
layers of 64 takes 130 us through torch modules and 35 us here. :func:`compile_policy` recognises models that consist of
the built-in parts only (exact types: whoever subclasses a part gets the general path). The numbers are those of the
module up to rounding; the random stream is a different one.

Small arrays are views of the module's parameters; large ones are copied whenever the weights have changed. Features are
rows: ``W @ x`` with ``x`` ``[features, n]`` is the product that BLAS computes fastest for few columns.
"""

from __future__ import annotations

from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from torch import Tensor, nn

from sample_factory.algo.sampling.numpy_actions import ActionSampler, make_action_sampler
from sample_factory.algo.sampling.numpy_layers import Affine, Convolutions, GruCell, dense_layers, is_mlp
from sample_factory.algo.sampling.numpy_normalizers import ImageNormalizer, Normalizer
from sample_factory.algo.utils.blas_threads import OneBlasThread
from sample_factory.model.action_parameterization import ActionParameterizationDefault
from sample_factory.model.actor_critic import ActorCriticSharedWeights
from sample_factory.model.conv_stack import plain_convolutions
from sample_factory.model.core import ModelCoreIdentity, ModelCoreRNN
from sample_factory.model.decoder import MlpDecoder
from sample_factory.model.dense_stack import has_hooks
from sample_factory.model.encoder import ConvEncoder, ConvEncoderImpl, MlpEncoder, MultiInputEncoder
from sample_factory.utils.normalize import ObservationNormalizer


class PolicyOutputs(NamedTuple):
    """Where one step of one batch goes; every array may be a strided view, float32."""

    actions: np.ndarray  # [n, num_actions]
    action_logits: np.ndarray  # [n, num_parameters]
    log_prob_actions: np.ndarray  # [n]
    values: np.ndarray  # [n]


class NumpyPolicy:
    """Acts like ``actor_critic`` on arrays. :meth:`refresh` after its weights or statistics may have changed."""

    def __init__(self, actor_critic: ActorCriticSharedWeights, sampler: ActionSampler):
        self._module = actor_critic
        self._sampler = sampler
        encoder: Any = actor_critic.encoder
        self._keys: list[str] = list(encoder.obs_keys)
        self._normalizers = {
            key: _normalizer_of(encoder.encoders[key], key, actor_critic.obs_normalizer) for key in self._keys
        }
        self.is_recurrent = isinstance(actor_critic.core, ModelCoreRNN)
        self._one_thread = OneBlasThread()
        self._bind()

    def _bind(self) -> None:
        """Take views of the parameters as they are now."""
        module: Any = self._module
        self._encoders = {key: _encoder_layers(module.encoder.encoders[key]) for key in self._keys}
        self._cells = (
            [GruCell(module.core.core, i) for i in range(module.core.rnn_num_layers)] if self.is_recurrent else []
        )
        self._decoder = dense_layers(module.decoder.mlp)
        self._heads = [module.action_parameterization.distribution_linear, module.critic_linear]
        num_outputs = sum(head.out_features for head in self._heads)
        # Logits and value come from one product.
        self._head_weight = np.empty((num_outputs, self._heads[0].in_features), np.float32)
        self._head_bias = np.empty(num_outputs, np.float32)
        self._head = Affine(self._head_weight, self._head_bias)
        self._tensors: list[Tensor] = list(module.parameters())
        self._addresses = [tensor.data_ptr() for tensor in self._tensors]
        self.refresh()

    def refresh(self) -> None:
        if [tensor.data_ptr() for tensor in self._tensors] != self._addresses:
            return self._bind()  # somebody replaced the storage of a parameter
        start = 0
        for head in self._heads:
            stop = start + head.out_features
            self._head_weight[start:stop] = head.weight.detach().numpy()
            self._head_bias[start:stop] = head.bias.detach().numpy()
            start = stop
        for normalizer in self._normalizers.values():
            normalizer.refresh()
        layers: list[Any] = [*chain(*self._encoders.values()), *self._cells, *self._decoder, self._head]
        for layer in layers:
            layer.refresh()

    def act(self, obs: dict[str, np.ndarray], states: np.ndarray, out: PolicyOutputs, next_states: np.ndarray) -> None:
        """Act on observations ``[n, ...]`` and recurrent states ``[n, size]``, and write all outputs.

        Models without memory neither read ``states`` nor write ``next_states``.

        :raises ValueError: an output is NaN.
        """
        with self._one_thread:
            features = [self._features(key, obs[key]) for key in self._keys]
            x = features[0] if len(features) == 1 else np.concatenate(features)  # [features, n]
            size = 0
            for cell in self._cells:
                rows = slice(size, size + cell.size)
                x = cell(x, states[:, rows].T)
                next_states[:, rows] = x.T
                size = rows.stop
            for layer in self._decoder:
                x = layer(x)
            head = self._head(x)
        out.values[...] = head[-1]
        out.action_logits[...] = head[:-1].T
        self._sampler(head[:-1], out.actions, out.log_prob_actions)

    def _features(self, key: str, obs: np.ndarray) -> np.ndarray:
        x = self._normalizers[key](obs)
        if x.ndim == 2:
            x = x.T
        for layer in self._encoders[key]:
            x = layer(x)
        return x


def compile_policy(actor_critic: nn.Module, rng: np.random.Generator, deterministic: bool) -> NumpyPolicy | None:
    """The model as a :class:`NumpyPolicy`, or ``None`` if it has parts that only torch can compute."""
    if type(actor_critic) is not ActorCriticSharedWeights or not _is_standard(actor_critic):
        return None
    sampler = make_action_sampler(actor_critic.action_space, rng, deterministic)
    return None if sampler is None else NumpyPolicy(actor_critic, sampler)


def _is_standard(model: ActorCriticSharedWeights) -> bool:
    parts_are_known = (
        type(model.encoder) is MultiInputEncoder
        and _is_known_core(model.core)
        and type(model.decoder) is MlpDecoder
        and type(model.action_parameterization) is ActionParameterizationDefault
        and type(model.obs_normalizer) is ObservationNormalizer
    )
    if not parts_are_known or any(_is_changed(module) for module in model.modules()):
        return False
    if any(parameter.device.type != "cpu" or parameter.dtype.itemsize != 4 for parameter in model.parameters()):
        return False
    encoders: Any = model.encoder.encoders  # type: ignore[union-attr]
    if not all(_is_known_encoder(encoder) for encoder in encoders.values()):
        return False
    normalizers = [Normalizer(key, model.obs_normalizer) for key in encoders]
    return is_mlp(model.decoder.mlp) and all(n.is_supported for n in normalizers)  # type: ignore[union-attr, arg-type]


def _is_known_encoder(encoder: Any) -> bool:
    if type(encoder) is MlpEncoder:
        return is_mlp(encoder.mlp_head)
    if type(encoder) is not ConvEncoder or type(encoder.enc) is not ConvEncoderImpl:
        return False
    return plain_convolutions(encoder.enc.conv_head) is not None and is_mlp(encoder.enc.mlp_layers)


def _normalizer_of(encoder: Any, key: str, normalizer: ObservationNormalizer) -> Normalizer:
    return (ImageNormalizer if type(encoder) is ConvEncoder else Normalizer)(key, normalizer)


def _encoder_layers(encoder: Any) -> list[Any]:
    if type(encoder) is MlpEncoder:
        return list(dense_layers(encoder.mlp_head))
    stack = plain_convolutions(encoder.enc.conv_head)
    assert stack is not None
    return [Convolutions(stack), *dense_layers(encoder.enc.mlp_layers)]


def _is_known_core(core: nn.Module) -> bool:
    return type(core) is ModelCoreIdentity or (type(core) is ModelCoreRNN and type(core.core) is nn.GRU)


def _is_changed(module: nn.Module) -> bool:
    # Methods replaced on an object (``model.normalize_obs = ...``) change what it computes just as hooks do.
    replaced = {"normalize_obs", "forward_head", "forward_core", "forward_tail"} & module.__dict__.keys()
    return bool(replaced) or has_hooks(module)


def needs_action_mask(obs_space: spaces.Space) -> bool:
    """Whether actions can be forbidden, which only the general path knows about."""
    return isinstance(obs_space, spaces.Dict) and "action_mask" in obs_space.spaces
