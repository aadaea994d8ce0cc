"""Cores: the recurrent part of the model.

One agent's recurrent state is one flat row, which trajectory buffers store. GRU: ``[h_layer0, h_layer1, ...]``;
LSTM: ``[h_layer0, c_layer0, h_layer1, c_layer1, ...]``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from sample_factory.model.model_utils import ModelModule
from sample_factory.utils.typing import Config

CoreInput = Tensor | PackedSequence


class ModelCore(ModelModule):
    """Base of all cores: ``forward(head_output, rnn_states) -> (output, new_rnn_states)``.

    ``head_output`` is ``[b, D]`` when acting (one step per row) and a PackedSequence when learning; ``rnn_states`` has
    one row per agent or sequence. Subclasses set ``core_output_size``.
    """

    def __init__(self, cfg: Config):
        super().__init__(cfg)
        self.core_output_size = -1

    def get_out_size(self) -> int:
        return self.core_output_size


class ModelCoreRNN(ModelCore):
    """GRU or LSTM with ``rnn_num_layers`` layers of ``rnn_size``."""

    def __init__(self, cfg: Config, input_size: int):
        super().__init__(cfg)
        if cfg.rnn_type not in ("gru", "lstm"):
            raise ValueError(f"Unknown rnn_type={cfg.rnn_type!r}: use gru or lstm")
        self.is_gru = cfg.rnn_type == "gru"
        self.rnn_num_layers = cfg.rnn_num_layers
        self.core: nn.GRU | nn.LSTM
        if self.is_gru:
            self.core = nn.GRU(input_size, cfg.rnn_size, cfg.rnn_num_layers)
        else:
            self.core = nn.LSTM(input_size, cfg.rnn_size, cfg.rnn_num_layers)
        self.core_output_size = cfg.rnn_size

    def forward(self, head_output: CoreInput, rnn_states: Tensor) -> tuple[CoreInput, Tensor]:
        states = self._unflatten(rnn_states)
        if isinstance(head_output, PackedSequence):
            output, new_states = self.core(head_output, states)
        else:
            output, new_states = self._single_step(head_output, states)
        return output, self._flatten(new_states)

    def _single_step(self, x: Tensor, states: Tensor | tuple[Tensor, Tensor]) -> tuple[Tensor, object]:
        # Cells give the same numbers as the sequence modules, without their set-up: acting is latency bound.
        cells = self.core.all_weights
        if isinstance(states, tuple):
            hidden, cell_states = [], []
            for layer, weights in enumerate(cells):
                x, c = torch.lstm_cell(x, [states[0][layer], states[1][layer]], *weights)
                hidden.append(x)
                cell_states.append(c)
            return x, (torch.stack(hidden), torch.stack(cell_states))
        hidden = []
        for layer, weights in enumerate(cells):
            x = torch.gru_cell(x, states[layer], *weights)
            hidden.append(x)
        return x, torch.stack(hidden)

    def _unflatten(self, rnn_states: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Rows ``[b, size]`` as the RNN wants them: ``[layers, b, H]``, for LSTM a pair of them."""
        batch_size, hidden_size = rnn_states.shape[0], self.core_output_size
        if self.is_gru:
            return rnn_states.reshape(batch_size, self.rnn_num_layers, hidden_size).transpose(0, 1).contiguous()
        per_layer = rnn_states.reshape(batch_size, self.rnn_num_layers, 2, hidden_size).permute(2, 1, 0, 3).contiguous()
        return per_layer[0], per_layer[1]  # h, c

    def _flatten(self, states: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        """The inverse of :meth:`_unflatten`."""
        if isinstance(states, tuple):
            states = torch.stack(states, dim=1).flatten(0, 1)  # [2 * layers, b, H]: h and c of layer 0, of layer 1, ...
        return states.transpose(0, 1).flatten(1)


class ModelCoreIdentity(ModelCore):
    """No memory: hands everything through."""

    def __init__(self, cfg: Config, input_size: int):
        super().__init__(cfg)
        self.core_output_size = input_size

    def forward(self, head_output: CoreInput, fake_rnn_states: Tensor) -> tuple[CoreInput, Tensor]:
        return head_output, fake_rnn_states


def default_make_core_func(cfg: Config, core_input_size: int) -> ModelCore:
    """The core used unless another one is registered."""
    return ModelCoreRNN(cfg, core_input_size) if cfg.use_rnn else ModelCoreIdentity(cfg, core_input_size)
