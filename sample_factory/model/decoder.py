"""Decoders: layers between the core and the heads."""

from __future__ import annotations

from torch import Tensor

from sample_factory.model.model_utils import ModelModule, create_mlp, keep_default_weights, nonlinearity
from sample_factory.utils.typing import Config


class Decoder(ModelModule):
    """Base of all decoders: ``forward(core_output [b, D]) -> [b, get_out_size()]``."""


class MlpDecoder(Decoder):
    """``decoder_mlp_layers``, or the identity if there are none."""

    def __init__(self, cfg: Config, decoder_input_size: int):
        super().__init__(cfg)
        self.core_input_size = decoder_input_size
        layers = list(cfg.decoder_mlp_layers)
        self.mlp = keep_default_weights(create_mlp(layers, decoder_input_size, nonlinearity(cfg)))
        self.decoder_out_size = layers[-1] if layers else decoder_input_size

    def forward(self, core_output: Tensor) -> Tensor:
        return self.mlp(core_output)

    def get_out_size(self) -> int:
        return self.decoder_out_size


def default_make_decoder_func(cfg: Config, core_input_size: int) -> Decoder:
    """The decoder used unless another one is registered."""
    return MlpDecoder(cfg, core_input_size)
