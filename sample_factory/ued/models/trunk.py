"""From observations to features: one convolution, embeddings of scalars, vectors as they are."""

from __future__ import annotations

from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from sample_factory.ued.envs.interfaces import ObservationSpec
from sample_factory.ued.models.init import orthogonal_
from sample_factory.ued.models.options import ModelOptions
from sample_factory.ued.models.windows import WindowTable, window_product

KERNEL = 3  # side of the convolution's window
_SMALL_IMAGE = 64  # pixels


def activate(x: Tensor, activation: str) -> Tensor:
    """``activation`` of the last axis; ``crelu`` doubles it: first relu(x), then relu(-x)."""
    if activation == "relu":
        return torch.relu(x)
    if activation == "leaky_relu":
        return F.leaky_relu(x, 0.01)
    if activation == "gelu":
        return F.gelu(x, approximate="tanh")
    return torch.relu(torch.cat([x, -x], dim=-1))


class Trunk(nn.Module):
    """Features ``[..., num_features]`` of observations: image positions by row, column and channel, then every scalar,
    then every vector.

    :param ignored: names of observations that the network does not use
    """

    matrix_idx: Tensor

    def __init__(
        self,
        spec: ObservationSpec,
        options: ModelOptions,
        ignored: Collection[str] = (),
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        height, width, channels = self.image_shape = spec.image
        if min(height, width) < KERNEL:
            raise ValueError(f"images of shape {spec.image} are smaller than the window of {KERNEL}x{KERNEL}")
        self.activation = options.base_activation
        self.scalar_sizes = {name: size for name, size in spec.scalars.items() if name not in ignored}
        self.vector_sizes = {name: size for name, size in spec.vectors.items() if name not in ignored}
        self.conv = nn.Conv2d(channels, options.n_conv_filters, KERNEL)
        orthogonal_(self.conv.weight, options.activation_gain, generator)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]
        self.scalars = nn.ModuleDict()
        for name, size in self.scalar_sizes.items():
            layer = _scalar_layer(name, size, options, generator)
            if layer is not None:
                self.scalars[name] = layer
        self.is_small = height * width <= _SMALL_IMAGE
        if self.is_small:
            self.register_buffer("matrix_idx", _matrix_indices(spec.image, options.n_conv_filters), persistent=False)
        self.positions = (height - KERNEL + 1) * (width - KERNEL + 1)
        self.channels = options.n_conv_filters * (2 if self.activation == "crelu" else 1)
        self.num_features = (
            self.positions * self.channels
            + len(self.scalars) * options.scalar_embed_dim
            + sum(self.vector_sizes.values())
        )

    def forward(self, obs: dict[str, Tensor]) -> Tensor:
        image = obs["image"]
        batch = image.shape[:-3]
        parts = [self.image_features(image.reshape(-1, *self.image_shape)).view(*batch, -1)]
        return torch.cat(parts + self.other_features(obs), dim=-1)

    def image_features(self, images: Tensor) -> Tensor:
        """Features ``[N, positions * channels]`` of images ``[N, H, W, C]``."""
        images = images.to(self.conv.weight.dtype)
        if self.is_small:
            matrix, bias = self.dense_convolution()
            maps = torch.addmm(bias, images.flatten(1), matrix)
            maps = maps.unflatten(1, (self.positions, -1))  # [N, H' W', F]
        else:
            maps = self.conv(images.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # [N, H', W', F]
        return activate(maps, self.activation).flatten(1)

    def window_product(self, obs: dict[str, Tensor], windows: WindowTable, weight: Tensor, bias: Tensor) -> Tensor:
        """``forward(obs) weight^T + bias`` for observations ``[N, ...]`` whose images have these ``windows``."""
        contents = F.linear(windows.contents, self.conv.weight.flatten(1), self.conv.bias)
        others = self.other_features(obs)
        joined = torch.cat(others, dim=-1) if others else weight.new_zeros(len(windows.changes), 0)
        return window_product(activate(contents, self.activation), joined, weight, bias, windows)

    def dense_convolution(self) -> tuple[Tensor, Tensor]:
        """The convolution of small images as one matrix ``[H W C, H' W' F]`` and a bias: faster than many windows."""
        weight, bias = self.conv.weight, self.conv.bias
        matrix = torch.cat([weight.flatten(), weight.new_zeros(1)])[self.matrix_idx]
        return matrix, bias.repeat(self.positions)  # type: ignore[union-attr]

    def other_features(self, obs: dict[str, Tensor]) -> list[Tensor]:
        """Features of scalars and vectors, ``[..., D]`` each."""
        parts = []
        for name, layer in self.scalars.items():
            if isinstance(layer, nn.Embedding):
                parts.append(layer(obs[name].long()))
            else:
                parts.append(layer(obs[name].unsqueeze(-1).float() / self.scalar_sizes[name]))
        return parts + [obs[name].float() for name in self.vector_sizes]


def _scalar_layer(name: str, size: int, options: ModelOptions, generator: Generator | None) -> nn.Module | None:
    if options.scalar_embed_dim == 0:
        return None
    if options.n_scalar_embeddings == 0:
        dense = nn.Linear(1, options.scalar_embed_dim)
        orthogonal_(dense.weight, 1.0, generator)
        nn.init.zeros_(dense.bias)
        return dense
    rows = size if options.n_scalar_embeddings is None else options.n_scalar_embeddings
    if rows < size:
        raise ValueError(
            f"n_scalar_embeddings={rows} is too small: the observation {name!r} has {size} values; set that, or 0"
        )
    table = nn.Embedding(rows, options.scalar_embed_dim)
    orthogonal_(table.weight, 1.0, generator)
    return table


def _matrix_indices(shape: tuple[int, int, int], num_filters: int) -> Tensor:
    """The convolution as a matrix: for each input ``(y, x, channel)`` and output ``(row, column, filter)``, which
    element of the flat weight ``[F, C, 3, 3]`` connects them, int64; one past the last for none.
    """
    height, width, channels = shape
    y, x, channel, row, column, filter_idx = torch.meshgrid(
        *(torch.arange(n) for n in (height, width, channels, height - KERNEL + 1, width - KERNEL + 1, num_filters)),
        indexing="ij",
    )
    dy, dx = y - row, x - column
    inside = (dy >= 0) & (dy < KERNEL) & (dx >= 0) & (dx < KERNEL)
    idx = ((filter_idx * channels + channel) * KERNEL + dy) * KERNEL + dx
    size = num_filters * channels * KERNEL * KERNEL
    return torch.where(inside, idx, size).reshape(height * width * channels, -1)
