"""Encoders: from normalised observations to one feature vector per sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from sample_factory.algo.utils.torch_utils import calc_num_elements
from sample_factory.model.model_utils import ModelModule, create_mlp, keep_default_weights, model_device, nonlinearity
from sample_factory.utils.typing import Config, ObsSpace
from sample_factory.utils.utils import log

# (output channels, kernel size, stride); no padding, an activation after each. Input is CHW.
_CONV_STACKS: dict[str, list[tuple[int, int, int]]] = {
    "convnet_simple": [(32, 8, 4), (64, 4, 2), (128, 3, 2)],
    "convnet_impala": [(16, 8, 4), (32, 4, 2)],  # Espeholt et al. 2018, the shallow network
    "convnet_atari": [(32, 8, 4), (64, 4, 2), (64, 3, 1)],  # Mnih et al. 2015
}
# Channels and residual blocks of each downsampling stage.
_RESNET_STACKS: dict[str, list[tuple[int, int]]] = {
    "resnet_impala": [(16, 2), (32, 2), (32, 2)],  # Espeholt et al. 2018, the deep network
}


class Encoder(ModelModule):
    """Base of all encoders.

    The encoder of a model gets ``(cfg, obs_space: Dict)``; ``forward(obs_dict)`` takes the dict of normalised
    observations ``[b, ...]`` and returns ``[b, get_out_size()]``.
    """

    def __init__(self, cfg: Config):
        super().__init__(cfg)

    def get_out_size(self) -> int:
        raise NotImplementedError(f"{type(self).__name__} must implement get_out_size()")

    def model_to_device(self, device: torch.device) -> None:
        """Move to a device; override to spread the encoder over several."""
        self.to(device)

    def device_for_input_tensor(self, input_tensor_name: str) -> torch.device | None:
        """Where the observation of this name is wanted; ``None`` if the encoder has no parameters."""
        return model_device(self)

    def type_for_input_tensor(self, input_tensor_name: str) -> torch.dtype:
        """The dtype in which the observation of this name is wanted."""
        return torch.float32


class MultiInputEncoder(Encoder):
    """One encoder per observation of a Dict space, in sorted order of the keys; their outputs are concatenated."""

    def __init__(self, cfg: Config, obs_space: ObsSpace):
        super().__init__(cfg)
        assert isinstance(obs_space, spaces.Dict), f"expected a Dict observation space, got {obs_space}"
        self.obs_keys = sorted(obs_space.spaces)
        self.encoders = nn.ModuleDict({key: _make_encoder(cfg, obs_space[key], key) for key in self.obs_keys})
        self.encoder_out_size = sum(encoder.get_out_size() for encoder in self.encoders.values())  # type: ignore

    def forward(self, obs_dict: dict[str, Tensor]) -> Tensor:
        if len(self.obs_keys) == 1:
            key = self.obs_keys[0]
            return self.encoders[key](obs_dict[key])
        return torch.cat([self.encoders[key](obs_dict[key]) for key in self.obs_keys], dim=1)

    def get_out_size(self) -> int:
        return self.encoder_out_size


def _make_encoder(cfg: Config, space: ObsSpace, name: str) -> Encoder:
    assert space.shape is not None, f"observation {name!r} has no shape: {space}"
    if len(space.shape) == 1:
        return MlpEncoder(cfg, space)
    if len(space.shape) > 1:
        return make_img_encoder(cfg, space)
    raise NotImplementedError(f"Observation {name!r} is a scalar ({space}): give it a dimension or register an encoder")


class MlpEncoder(Encoder):
    """``encoder_mlp_layers`` on a vector ``[b, n]``; the identity if there are none."""

    def __init__(self, cfg: Config, obs_space: ObsSpace):
        super().__init__(cfg)
        assert obs_space.shape is not None
        layers = list(cfg.encoder_mlp_layers)
        self.mlp_head = keep_default_weights(create_mlp(layers, obs_space.shape[0], nonlinearity(cfg)))
        self.encoder_out_size = layers[-1] if layers else obs_space.shape[0]

    def forward(self, obs: Tensor) -> Tensor:
        return self.mlp_head(obs)

    def get_out_size(self) -> int:
        return self.encoder_out_size


class ConvEncoderImpl(nn.Module):
    """Convolutions, flatten, fully connected layers; takes images ``[b, C, H, W]``.

    :param conv_filters: per layer ``(in_channels, out_channels, kernel_size, stride)`` or the string ``"maxpool_2x2"``.
    """

    def __init__(
        self,
        obs_shape: Sequence[int],
        conv_filters: Sequence[Any],
        extra_mlp_layers: Sequence[int],
        activation: nn.Module,
    ):
        super().__init__()
        layers: list[nn.Module] = []
        for layer in conv_filters:
            if layer == "maxpool_2x2":
                layers.append(nn.MaxPool2d((2, 2)))
            elif isinstance(layer, (list, tuple)):
                in_channels, out_channels, kernel_size, stride = layer
                layers += [nn.Conv2d(in_channels, out_channels, kernel_size, stride=stride), activation]
            else:
                raise ValueError(f"Layer {layer!r} is neither (in, out, kernel, stride) nor 'maxpool_2x2'")
        self.conv_head = nn.Sequential(*layers)
        self.conv_head_out_size = _conv_out_size(self.conv_head, obs_shape)
        self.mlp_layers = create_mlp(list(extra_mlp_layers), self.conv_head_out_size, activation)

    def forward(self, obs: Tensor) -> Tensor:
        return self.mlp_layers(self.conv_head(obs).flatten(1))


def _conv_out_size(conv_head: nn.Module, obs_shape: Sequence[int]) -> int:
    try:
        return calc_num_elements(conv_head, obs_shape)
    except RuntimeError as error:
        raise ValueError(
            f"Images of shape {tuple(obs_shape)} do not fit the convolutional encoder ({error}): they must be CHW and "
            "large enough; see encoder_conv_architecture or register an encoder"
        ) from error


class ConvEncoder(Encoder):
    """The plain convolutional networks of ``encoder_conv_architecture``, then ``encoder_conv_mlp_layers``."""

    def __init__(self, cfg: Config, obs_space: ObsSpace):
        super().__init__(cfg)
        assert obs_space.shape is not None
        if cfg.encoder_conv_architecture not in _CONV_STACKS:
            raise NotImplementedError(_unknown_architecture(cfg))
        filters, in_channels = [], obs_space.shape[0]
        for out_channels, kernel_size, stride in _CONV_STACKS[cfg.encoder_conv_architecture]:
            filters.append([in_channels, out_channels, kernel_size, stride])
            in_channels = out_channels
        layers = list(cfg.encoder_conv_mlp_layers)
        self.enc = ConvEncoderImpl(obs_space.shape, filters, layers, nonlinearity(cfg))
        keep_default_weights(self.enc)
        self.encoder_out_size = layers[-1] if layers else self.enc.conv_head_out_size
        log.debug(f"{cfg.encoder_conv_architecture}: {tuple(obs_space.shape)} -> {self.encoder_out_size} features")

    def forward(self, obs: Tensor) -> Tensor:
        return self.enc(obs)

    def get_out_size(self) -> int:
        return self.encoder_out_size


class ResBlock(nn.Module):
    """Activation, convolution, activation, convolution, plus the input."""

    def __init__(self, cfg: Config, input_ch: int, output_ch: int):
        super().__init__()
        self.res_block_core = nn.Sequential(
            nonlinearity(cfg),
            nn.Conv2d(input_ch, output_ch, kernel_size=3, stride=1, padding=1),
            nonlinearity(cfg),
            nn.Conv2d(output_ch, output_ch, kernel_size=3, stride=1, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.res_block_core(x) + x


class ResnetEncoder(Encoder):
    """Residual network: per stage a convolution, max-pooling and residual blocks; then ``encoder_conv_mlp_layers``."""

    def __init__(self, cfg: Config, obs_space: ObsSpace):
        super().__init__(cfg)
        assert obs_space.shape is not None
        if cfg.encoder_conv_architecture not in _RESNET_STACKS:
            raise NotImplementedError(_unknown_architecture(cfg))
        layers: list[nn.Module] = []
        in_channels = obs_space.shape[0]
        for channels, num_blocks in _RESNET_STACKS[cfg.encoder_conv_architecture]:
            layers.append(nn.Conv2d(in_channels, channels, kernel_size=3, stride=1, padding=1))
            layers.append(nn.MaxPool2d(kernel_size=3, stride=2, padding=1))
            layers += [ResBlock(cfg, channels, channels) for _ in range(num_blocks)]
            in_channels = channels
        layers.append(nonlinearity(cfg))
        self.conv_head = nn.Sequential(*layers)
        self.conv_head_out_size = _conv_out_size(self.conv_head, obs_space.shape)
        mlp_layers = list(cfg.encoder_conv_mlp_layers)
        self.mlp_layers = create_mlp(mlp_layers, self.conv_head_out_size, nonlinearity(cfg))
        self.encoder_out_size = mlp_layers[-1] if mlp_layers else self.conv_head_out_size
        log.debug(f"{cfg.encoder_conv_architecture}: {tuple(obs_space.shape)} -> {self.encoder_out_size} features")

    def forward(self, obs: Tensor) -> Tensor:
        return self.mlp_layers(self.conv_head(obs).flatten(1))

    def get_out_size(self) -> int:
        return self.encoder_out_size


def make_img_encoder(cfg: Config, obs_space: ObsSpace) -> Encoder:
    """The image encoder named by ``encoder_conv_architecture``."""
    if cfg.encoder_conv_architecture.startswith("convnet"):
        return ConvEncoder(cfg, obs_space)
    if cfg.encoder_conv_architecture.startswith("resnet"):
        return ResnetEncoder(cfg, obs_space)
    raise NotImplementedError(_unknown_architecture(cfg))


def _unknown_architecture(cfg: Config) -> str:
    known = ", ".join([*_CONV_STACKS, *_RESNET_STACKS])
    return f"Unknown encoder_conv_architecture={cfg.encoder_conv_architecture!r}: use one of {known}"


def default_make_encoder_func(cfg: Config, obs_space: ObsSpace) -> Encoder:
    """The encoder used unless another one is registered."""
    return MultiInputEncoder(cfg, obs_space)
