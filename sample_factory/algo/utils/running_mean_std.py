"""Normalisation by running statistics.

Moments of batches are merged by the parallel algorithm of Chan, Golub and LeVeque (1979): with batch mean ``m``,
variance ``v`` and size ``n``, and running ``mean``, ``var``, ``count``::

    delta = m - mean
    mean += delta * n / (count + n)
    var   = (var * count + v * n + delta^2 * count * n / (count + n)) / (count + n)
    count += n

The initial count of 1 acts as one observation with mean 0 and variance 1.
"""

# No postponed annotations here: torch.jit.script reads those of the class as types.

from collections.abc import Sequence
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from sample_factory.algo.utils.host_statistics import HostScaler, batch_moments, merge_moments, scaling_constants
from sample_factory.utils.utils import log

_VAR_EPS = 1e-5


class RunningMeanStdInPlace(nn.Module):
    """Running mean and variance of one tensor; ``forward`` normalises in place.

    The float64 buffers ``running_mean`` and ``running_var`` have the shape of one sample (``[C]`` if ``per_channel``),
    ``count`` is ``[1]``. Works under ``torch.jit.script``.

    :param input_shape: shape of one sample. ``(1,)`` also accepts batches without that dimension, e.g. returns ``[B]``.
    :param clip: normalised values are clamped to ``[-clip, clip]``, and so is the input of the denormalisation.
    :param per_channel: one mean and variance per channel (dimension 1 of the batch).
    :param norm_only: scale only: no mean is subtracted and nothing is clamped.
    """

    running_mean: Tensor
    running_var: Tensor
    count: Tensor

    def __init__(
        self,
        input_shape: Sequence[int],
        epsilon: float = 1e-5,
        clip: float = 5.0,
        per_channel: bool = False,
        norm_only: bool = False,
    ):
        super().__init__()
        self.input_shape = tuple(input_shape)
        self.eps = epsilon
        self.clip = clip
        self.per_channel = per_channel
        self.norm_only = norm_only

        # Dimensions the statistics are taken over, and the shape that makes them broadcast against a batch.
        num_dims = len(self.input_shape)
        self.axis = [0, *range(2, num_dims + 1)] if per_channel else [0]
        self._stats_shape = torch.jit.annotate(list[int], list(self.input_shape))
        if per_channel:
            self._stats_shape = [self.input_shape[0]] + [1] * (num_dims - 1)
        self._constants_of: Any = None  # which state of the buffers _constants belong to
        self._constants: Any = None

        size = self.input_shape[:1] if per_channel else self.input_shape
        self.register_buffer("running_mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("running_var", torch.ones(size, dtype=torch.float64))
        self.register_buffer("count", torch.ones([1], dtype=torch.float64))

    def forward(self, x: Tensor, denormalize: bool = False, valid_rows: Tensor | None = None) -> None:
        """Normalise (or denormalise) the float tensor ``x`` ``[B, *input_shape]`` in place.

        In training mode, normalising first updates the statistics; ``valid_rows`` then says which rows count,
        see :meth:`update`. All rows are normalised in any case.
        """
        if self.training and not denormalize:
            self.update(x, valid_rows)
        if not denormalize:
            self.normalize_(x)
            return
        mean, std, _ = self.constants()
        if self.norm_only:
            x.mul_(std)
        else:
            x.clamp_(-self.clip, self.clip).mul_(std).add_(mean)

    @torch.jit.export
    def normalize_(self, x: Tensor) -> None:
        """Normalise ``x`` in place with the statistics as they are, in training mode or not."""
        mean, _, inv_std = self.constants()
        if self.norm_only:
            x.mul_(inv_std)
        else:
            x.sub_(mean).mul_(inv_std).clamp_(-self.clip, self.clip)

    @torch.jit.export
    def update(self, x: Tensor, valid_rows: Tensor | None = None) -> None:
        """Merge the rows of ``x`` ``[B, *input_shape]`` into the statistics, in training mode or not.

        :param valid_rows: rows that count: ``bool [B]`` (no device synchronisation; the others may hold anything,
            NaN included) or ``int64 [n]`` row indices. ``None`` means all.
        """
        self._check_shape(x)
        if not torch.jit.is_scripting() and valid_rows is None and self._update_on_host(x):
            return
        excluded: Tensor | None = None
        if valid_rows is not None and valid_rows.dtype == torch.bool:
            excluded = (~valid_rows).reshape([-1] + [1] * (x.dim() - 1))
            num_rows = valid_rows.sum().to(torch.float64).reshape(self.count.shape)
        else:
            if valid_rows is not None:
                x = x.index_select(0, valid_rows)
            num_rows = torch.full_like(self.count, x.size(0))
        mean, var = self._moments(x, excluded, num_rows)
        self._merge(mean, var, num_rows)

    @torch.jit.unused
    def on_host(self) -> Any:
        """The same statistics for NumPy arrays, a ``HostScaler``; ``None`` where it would not do the same."""
        mean, var, count = self._buffers["running_mean"], self._buffers["running_var"], self._buffers["count"]
        assert mean is not None and var is not None and count is not None
        if self.per_channel or self.norm_only or mean.device.type != "cpu" or type(self) is not RunningMeanStdInPlace:
            return None
        return HostScaler(mean, var, count, self.eps, self.clip)

    @torch.jit.unused
    def _update_on_host(self, x: Tensor) -> bool:
        """Whether the batch was merged without torch's small operators."""
        mean, var, count = self.running_mean, self.running_var, self.count
        is_plain = x.device.type == "cpu" == mean.device.type and x.dtype == torch.float32 and x.is_contiguous()
        if not is_plain or self.per_channel or x.requires_grad or len(x) == 0 or torch.compiler.is_compiling():
            return False
        merge_moments(mean, var, count, *batch_moments(x), len(x))
        return True

    def _moments(
        self,
        x: Tensor,
        excluded: Tensor | None,
        num_rows: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Mean and unbiased variance of the rows; the variance of one value and both of no value are zero."""
        # Two passes: torch.var_mean over the first dimension is seven times slower on the CPU.
        values_per_row = x.numel() // max(x.size(0), 1) // max(self.running_mean.numel(), 1)
        num_values = (num_rows * values_per_row).to(x.dtype)
        counted = x if excluded is None else x.masked_fill(excluded, 0.0)
        mean = counted.sum(self.axis, keepdim=True) / num_values.clamp(min=1.0)
        deviations = x - mean
        if excluded is not None:
            deviations.masked_fill_(excluded, 0.0)
        var = deviations.square_().sum(self.axis) / (num_values - 1.0).clamp(min=1.0)
        return mean, var

    def _merge(self, batch_mean: Tensor, batch_var: Tensor, batch_count: Tensor) -> None:
        # In place: the buffers may be shared with other modules, and copies of them are recognised by their version.
        batch_mean = batch_mean.to(torch.float64).reshape(self.running_mean.shape)
        batch_var = batch_var.to(torch.float64).reshape(self.running_var.shape)
        scalar = [1] * self.running_mean.dim()
        count, batch_count = self.count.reshape(scalar), batch_count.reshape(scalar)
        total = count + batch_count
        delta = batch_mean - self.running_mean
        between = delta.square() * (count * batch_count / total)
        self.running_var.mul_(count).add_(batch_var * batch_count).add_(between).div_(total)
        self.running_mean.add_(delta * (batch_count / total))
        self.count.copy_(total.reshape(self.count.shape))

    @torch.jit.export
    def constants(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, standard deviation and its reciprocal in float32, shaped to broadcast against a batch."""
        if torch.jit.is_scripting():
            return self._compute_constants()
        return self._cached_constants()

    def _compute_constants(self) -> tuple[Tensor, Tensor, Tensor]:
        shape = self._stats_shape
        mean = self.running_mean.to(torch.float32).reshape(shape)
        std = torch.sqrt(self.running_var.to(torch.float32) + self.eps).reshape(shape)
        return mean, std, 1.0 / std

    @torch.jit.unused
    def _cached_constants(self) -> tuple[Tensor, Tensor, Tensor]:
        # Acting normalises thousands of times with the same statistics. Every in-place write (load_state_dict and
        # copies through state_dict() or detach() included) moves the version of a tensor; moving the module to another
        # device replaces the tensors. The count also tells writes that bypass the version counter, for instance by
        # another process through shared memory; reading it is free on the CPU only.
        mean, var, count = self._buffers["running_mean"], self._buffers["running_var"], self._buffers["count"]
        assert mean is not None and var is not None and count is not None
        is_traced = torch.compiler.is_compiling() or (mean.is_cuda and torch.cuda.is_current_stream_capturing())
        if mean.is_inference() or var.is_inference() or is_traced:
            return self._compute_constants()
        known = self._constants_of
        count_value = count.item() if count.device.type == "cpu" else None
        state = (mean._version, var._version, count_value)
        if known is None or known[0] is not mean or known[1] is not var or known[2] != state:
            with torch.inference_mode(False), torch.no_grad():
                if count_value is not None and not self.per_channel:
                    self._constants = scaling_constants(mean, var, self.eps)
                else:
                    self._constants = self._compute_constants()
            self._constants_of = (mean, var, state)
        return self._constants

    @torch.jit.unused
    def __getstate__(self) -> dict[str, Any]:
        # Neither copies nor pickles need the cache, and it refers to the buffers of this very object.
        return {**self.__dict__, "_constants_of": None, "_constants": None}

    def _check_shape(self, x: Tensor) -> None:
        shape = list(self.input_shape)
        given = list(x.shape[1:])
        if given != shape and not (len(given) == 0 and shape == [1]):
            raise ValueError(f"RunningMeanStd expects a batch of {shape}, got a batch of {given}")


class RunningMeanStdDictInPlace(nn.Module):
    """One :class:`RunningMeanStdInPlace` per selected key of a Dict observation space.

    :param keys_to_normalize: ``None`` selects every key; names the space does not have are ignored with a warning.
    """

    def __init__(
        self,
        obs_space: spaces.Dict,
        keys_to_normalize: list[str] | None = None,
        epsilon: float = 1e-5,
        clip: float = 5.0,
        per_channel: bool = False,
        norm_only: bool = False,
    ):
        super().__init__()
        self.obs_space = obs_space
        selected = list(obs_space.spaces) if keys_to_normalize is None else keys_to_normalize
        unknown = sorted(set(selected) - set(obs_space.spaces))
        if unknown:
            log.warning(f"normalize_input_keys: no observation is called {unknown}, there are {list(obs_space.spaces)}")
        self.running_mean_std = nn.ModuleDict(
            {
                key: RunningMeanStdInPlace(_shape_of(space), epsilon, clip, per_channel, norm_only)
                for key, space in obs_space.spaces.items()
                if key in selected
            }
        )

    def forward(self, x: dict[str, Tensor], valid_rows: Tensor | None = None) -> None:
        """Normalise the selected tensors of ``x`` in place; ``valid_rows`` as for :class:`RunningMeanStdInPlace`."""
        for key, normalizer in self.running_mean_std.items():
            normalizer(x[key], False, valid_rows)


def _shape_of(space: spaces.Space) -> tuple[int, ...]:
    assert space.shape is not None, f"observation {space} has no shape"
    return tuple(space.shape)


def running_mean_std_summaries(running_mean_std_module: nn.Module) -> dict[str, Tensor]:
    """``{<key>_}running_mean`` and ``{<key>_}running_std`` averaged over elements, for every normaliser in the module.

    Looks at buffers only, so it also works for scripted modules.
    """
    summaries = {}
    for name, buffer in running_mean_std_module.named_buffers():
        *path, kind = name.split(".")
        prefix = f"{path[-1]}_" if path else ""
        if kind == "running_mean":
            summaries[f"{prefix}running_mean"] = buffer.float().mean()
        elif kind == "running_var":
            summaries[f"{prefix}running_std"] = torch.sqrt(buffer.float() + _VAR_EPS).mean()
    return summaries
