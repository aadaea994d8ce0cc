"""Normalisation of observations before they reach a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from sample_factory.utils.typing import Config, ObsSpace

if TYPE_CHECKING:
    from sample_factory.algo.utils.running_mean_std import RunningMeanStdDictInPlace

_EPS = 1e-8
_SCALED_KEY = "obs"  # obs_subtract_mean and obs_scale are about this observation only


class ObservationNormalizer(nn.Module):
    """Float copies of observations: fixed shift and scale of the key ``obs``, then running statistics per key.

    In training mode ``forward`` updates the statistics. Which rows of the batch count is chosen by ``valid_rows``
    (``bool [B]`` or row indices; ``None``: all); every row is normalised. :meth:`update` only updates.

    :raises ValueError: ``obs_subtract_mean`` or ``obs_scale`` is set, but there is no observation ``obs``.
    """

    def __init__(self, obs_space: ObsSpace, cfg: Config):
        super().__init__()
        # Function-level: this public path lies below algo.utils in the layers of the package.
        from sample_factory.algo.utils.running_mean_std import RunningMeanStdDictInPlace
        from sample_factory.algo.utils.tensor_dict import TensorDict

        assert isinstance(obs_space, spaces.Dict), f"expected a Dict observation space, got {obs_space}"
        self._dict_type = TensorDict
        self.sub_mean = float(cfg.obs_subtract_mean)
        self.scale = float(cfg.obs_scale)
        self.should_sub_mean = abs(self.sub_mean) > _EPS
        self.should_scale = abs(self.scale - 1.0) > _EPS
        self.should_normalize = bool(cfg.normalize_input)
        if (self.should_sub_mean or self.should_scale) and _SCALED_KEY not in obs_space.spaces:
            raise ValueError(
                f"obs_subtract_mean={self.sub_mean} and obs_scale={self.scale} apply to the observation "
                f"{_SCALED_KEY!r}, but the environment only has {list(obs_space.spaces)}: leave them at 0 and 1 and "
                "scale the observations in the environment"
            )
        self.running_mean_std: RunningMeanStdDictInPlace | None = None
        if self.should_normalize:
            self.running_mean_std = RunningMeanStdDictInPlace(obs_space, cfg.normalize_input_keys)

    def forward(self, obs_dict: dict[str, Tensor], valid_rows: Tensor | None = None) -> dict[str, Tensor]:
        """Normalised float32 copies of all observations ``[B, ...]``, or ``obs_dict`` itself if nothing is enabled."""
        if not (self.should_sub_mean or self.should_scale or self.should_normalize):
            return obs_dict
        with torch.no_grad():
            return self._dict_type({key: self._normalize(key, x, valid_rows) for key, x in obs_dict.items()})

    def update(self, obs_dict: dict[str, Tensor], valid_rows: Tensor | None = None) -> None:
        """Merge the rows of ``obs_dict`` into the running statistics without normalising anything."""
        if self.running_mean_std is None:
            return
        with torch.no_grad():
            for key, normalizer in self.running_mean_std.running_mean_std.items():
                x = obs_dict[key]
                if valid_rows is not None and valid_rows.dtype != torch.bool:
                    x = x.index_select(0, valid_rows)
                    normalizer.update(self._shift_and_scale(key, x))  # type: ignore[operator]
                else:
                    normalizer.update(self._shift_and_scale(key, x), valid_rows)  # type: ignore[operator]

    def _normalize(self, key: str, x: Tensor, valid_rows: Tensor | None) -> Tensor:
        x = self._shift_and_scale(key, x)
        normalizer = self.statistics_of(key)
        if normalizer is not None:
            normalizer(x, False, valid_rows)
        return x

    def statistics_of(self, key: str) -> Any:
        """The running statistics of an observation, ``None`` if it has none."""
        return None if self.running_mean_std is None else self.running_mean_std.running_mean_std._modules.get(key)

    def normalize_steps(self, obs_dict: dict[str, Tensor], valid_rows: Tensor | None) -> dict[str, Tensor]:
        """What :meth:`forward` gives in training mode; float32 tensors of ``obs_dict`` are overwritten."""
        with torch.no_grad():
            normalized = self._dict_type()
            for key, x in obs_dict.items():
                x = normalized[key] = self._shift_and_scale(key, x, owned=True)
                normalizer = self.statistics_of(key)
                if normalizer is not None:
                    normalizer.update(x, valid_rows)
                    normalizer.normalize_(x)
            return normalized

    def normalize_frozen(self, obs_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """What :meth:`forward` gives in evaluation mode, whatever the mode."""
        if not (self.should_sub_mean or self.should_scale or self.should_normalize):
            return obs_dict
        with torch.no_grad():
            normalized = self._dict_type({key: self._shift_and_scale(key, x) for key, x in obs_dict.items()})
            for key, x in normalized.items():
                normalizer = self.statistics_of(key)
                if normalizer is not None:
                    normalizer.normalize_(x)
            return normalized

    def fixed_constants(self, key: str) -> tuple[float, float]:
        """``(shift, scale)``: an observation becomes ``(x - shift) / scale`` before anything else."""
        if key != _SCALED_KEY:
            return 0.0, 1.0
        return self.sub_mean if self.should_sub_mean else 0.0, self.scale if self.should_scale else 1.0

    def _shift_and_scale(self, key: str, x: Tensor, owned: bool = False) -> Tensor:
        """A float32 copy, shifted and scaled by the fixed constants; no copy if ``x`` is float32 and ``owned``."""
        if x.dtype != torch.float32:
            x = x.to(torch.float32)
        elif not owned:
            x = x.clone()
        if key == _SCALED_KEY:
            if self.should_sub_mean:
                x.sub_(self.sub_mean)
            if self.should_scale:
                x.mul_(1.0 / self.scale)
        return x

    def summaries(self) -> dict[str, Tensor]:
        """``<key>_running_mean`` and ``<key>_running_std`` of every normalised observation."""
        from sample_factory.algo.utils.running_mean_std import running_mean_std_summaries

        return {} if self.running_mean_std is None else running_mean_std_summaries(self.running_mean_std)
