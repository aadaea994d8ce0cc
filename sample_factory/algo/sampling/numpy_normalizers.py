"""Observations as :mod:`numpy_policy` wants them, by the constants of the model's normaliser."""

from __future__ import annotations

import numpy as np
import torch

from sample_factory.algo.utils.running_mean_std import RunningMeanStdInPlace
from sample_factory.utils.normalize import ObservationNormalizer

_SCALED_KEY = "obs"


class Normalizer:
    """One observation: fixed shift and scale, then running statistics; always a contiguous float32 copy ``[n, D]``."""

    def __init__(self, key: str, normalizer: ObservationNormalizer):
        self._shift = normalizer.sub_mean if key == _SCALED_KEY and normalizer.should_sub_mean else None
        self._scale = 1.0 / normalizer.scale if key == _SCALED_KEY and normalizer.should_scale else None
        self._statistics = normalizer.statistics_of(key)
        clip = float(getattr(self._statistics, "clip", 0.0))
        self._low, self._high = np.float32(-clip), np.float32(clip)
        self._buffers: dict[int, np.ndarray] = {}

    @property
    def is_supported(self) -> bool:
        statistics = self._statistics
        if statistics is None:
            return True
        return type(statistics) is RunningMeanStdInPlace and not (statistics.norm_only or statistics.per_channel)

    def refresh(self) -> None:
        if self._statistics is None:
            return
        # As RunningMeanStdInPlace.constants() does, without its cache: this is called when the statistics have changed.
        statistics = self._statistics
        self._mean = statistics.running_mean.numpy().astype(np.float32)
        variance = statistics.running_var.numpy().astype(np.float32)
        self._inverse_std = np.float32(1.0) / np.sqrt(variance + np.float32(statistics.eps))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        out = self._buffers.get(len(x))
        if out is None:
            out = self._buffers[len(x)] = np.empty(x.shape, np.float32)
        if self._shift is None and self._scale is None and self._statistics is not None and x.dtype == np.float32:
            np.subtract(x, self._mean, out=out)
        else:
            self._shift_and_scale(x, out)
            if self._statistics is None:
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


class ImageNormalizer(Normalizer):
    """The same for images, with all constants in one shift and one factor per pixel: every pass takes long."""

    def __init__(self, key: str, normalizer: ObservationNormalizer):
        super().__init__(key, normalizer)
        self._fixed_shift, self._fixed_scale = normalizer.fixed_constants(key)
        self._center, self._factor = torch.tensor(self._fixed_shift), torch.tensor(1.0 / self._fixed_scale)

    def refresh(self) -> None:
        super().refresh()
        if self._statistics is not None:
            self._center = torch.from_numpy(self._mean * np.float32(self._fixed_scale) + np.float32(self._fixed_shift))
            self._factor = torch.from_numpy(self._inverse_std / np.float32(self._fixed_scale))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        out = torch.from_numpy(x).to(torch.float32, copy=True).sub_(self._center).mul_(self._factor)
        if self._statistics is not None:
            out.clamp_(float(self._low), float(self._high))
        return out.numpy()
