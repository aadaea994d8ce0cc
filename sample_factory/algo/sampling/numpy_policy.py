"""The forward pass of standard models on the CPU, without the cost of calling torch for every layer.

Acting in cheap environments is bound by the number of calls, not by arithmetic: with 32 observations a model of two
layers of 64 takes 130 us through torch modules and 35 us here. :func:`compile_policy` recognises models that consist of
the built-in parts only (exact types: whoever subclasses a part gets the general path). The numbers are those of the
module up to rounding; the random stream is a different one.

The arrays are views of the module's parameters, so weights that are updated in place need no copying. Features are
rows: ``W @ x`` with ``x`` ``[features, n]`` is the product that BLAS computes fastest for few columns.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from torch import Tensor, nn

from sample_factory.algo.sampling.numpy_actions import ActionSampler, make_action_sampler
from sample_factory.algo.sampling.numpy_layers import Dense, GruCell, dense_layers, is_mlp
from sample_factory.algo.utils.blas_threads import OneBlasThread
from sample_factory.algo.utils.running_mean_std import RunningMeanStdInPlace
from sample_factory.model.action_parameterization import ActionParameterizationDefault
from sample_factory.model.actor_critic import ActorCriticSharedWeights
from sample_factory.model.core import ModelCoreIdentity, ModelCoreRNN
from sample_factory.model.decoder import MlpDecoder
from sample_factory.model.dense_stack import has_hooks
from sample_factory.model.encoder import MlpEncoder, MultiInputEncoder
from sample_factory.utils.normalize import ObservationNormalizer

_SCALED_KEY = "obs"


class PolicyOutputs(NamedTuple):
    """Where one step of one batch goes; every array may be a strided view, float32."""

    actions: np.ndarray  # [n, num_actions]
    action_logits: np.ndarray  # [n, num_parameters]
    log_prob_actions: np.ndarray  # [n]
    values: np.ndarray  # [n]


class _Normalizer:
    """One observation: fixed shift and scale, then running statistics; always a contiguous float32 copy ``[n, D]``."""

    def __init__(self, key: str, normalizer: ObservationNormalizer):
        self._shift = normalizer.sub_mean if key == _SCALED_KEY and normalizer.should_sub_mean else None
        self._scale = 1.0 / normalizer.scale if key == _SCALED_KEY and normalizer.should_scale else None
        running = normalizer.running_mean_std
        self._module = None if running is None else running.running_mean_std._modules.get(key)
        clip = float(getattr(self._module, "clip", 0.0))
        self._low, self._high = np.float32(-clip), np.float32(clip)
        self._buffers: dict[int, np.ndarray] = {}

    @property
    def is_supported(self) -> bool:
        module = self._module
        if module is None:
            return True
        return type(module) is RunningMeanStdInPlace and not (module.norm_only or module.per_channel)

    def refresh(self) -> None:
        if self._module is None:
            return
        # As RunningMeanStdInPlace.constants() does, without its cache: this is called when the statistics have changed.
        module: Any = self._module
        self._mean = module.running_mean.numpy().astype(np.float32)
        variance = module.running_var.numpy().astype(np.float32)
        self._inverse_std = np.float32(1.0) / np.sqrt(variance + np.float32(module.eps))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        out = self._buffers.get(len(x))
        if out is None:
            out = self._buffers[len(x)] = np.empty(x.shape, np.float32)
        if self._shift is None and self._scale is None and self._module is not None and x.dtype == np.float32:
            np.subtract(x, self._mean, out=out)
        else:
            self._shift_and_scale(x, out)
            if self._module is None:
                return out
            np.subtract(out, self._mean, out=out)
        np.multiply(out, self._inverse_std, out=out)
        np.minimum(out, self._high, out=out)
        np.maximum(out, self._low, out=out)
        return out

    def _shift_and_scale(self, x: np.ndarray, out: np.ndarray) -> None:
        np.copyto(out, x, casting="unsafe")
        if self._shift is not None:
            out -= np.float32(self._shift)
        if self._scale is not None:
            out *= np.float32(self._scale)


class NumpyPolicy:
    """Acts like ``actor_critic`` on arrays. :meth:`refresh` after its weights or statistics may have changed."""

    def __init__(self, actor_critic: ActorCriticSharedWeights, sampler: ActionSampler):
        self._module = actor_critic
        self._sampler = sampler
        encoder: Any = actor_critic.encoder
        self._keys: list[str] = list(encoder.obs_keys)
        self._normalizers = {key: _Normalizer(key, actor_critic.obs_normalizer) for key in self._keys}
        self.is_recurrent = isinstance(actor_critic.core, ModelCoreRNN)
        self._one_thread = OneBlasThread()
        self._bind()

    def _bind(self) -> None:
        """Take views of the parameters as they are now."""
        module: Any = self._module
        self._encoders = {key: dense_layers(module.encoder.encoders[key].mlp_head) for key in self._keys}
        self._cells = (
            [GruCell(module.core.core, i) for i in range(module.core.rnn_num_layers)] if self.is_recurrent else []
        )
        self._decoder = dense_layers(module.decoder.mlp)
        self._heads = [module.action_parameterization.distribution_linear, module.critic_linear]
        num_outputs = sum(head.out_features for head in self._heads)
        # Logits and value come from one product.
        self._head_weight = np.empty((num_outputs, self._heads[0].in_features), np.float32)
        self._head_bias = np.empty((num_outputs, 1), np.float32)
        self._head = Dense(self._head_weight, self._head_bias, None)
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
            self._head_bias[start:stop, 0] = head.bias.detach().numpy()
            start = stop
        for normalizer in self._normalizers.values():
            normalizer.refresh()

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
        x = self._normalizers[key](obs).T
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
    if not all(type(encoder) is MlpEncoder and is_mlp(encoder.mlp_head) for encoder in encoders.values()):
        return False
    normalizers = [_Normalizer(key, model.obs_normalizer) for key in encoders]
    return is_mlp(model.decoder.mlp) and all(n.is_supported for n in normalizers)  # type: ignore[union-attr, arg-type]


def _is_known_core(core: nn.Module) -> bool:
    return type(core) is ModelCoreIdentity or (type(core) is ModelCoreRNN and type(core.core) is nn.GRU)


def _is_changed(module: nn.Module) -> bool:
    # Methods replaced on an object (``model.normalize_obs = ...``) change what it computes just as hooks do.
    replaced = {"normalize_obs", "forward_head", "forward_core", "forward_tail"} & module.__dict__.keys()
    return bool(replaced) or has_hooks(module)


def needs_action_mask(obs_space: spaces.Space) -> bool:
    """Whether actions can be forbidden, which only the general path knows about."""
    return isinstance(obs_space, spaces.Dict) and "action_mask" in obs_space.spaces
