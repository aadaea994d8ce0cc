"""Acting on a GPU by CUDA graphs: normalisation, forward pass, sampling and packing are one launch per batch.

There is one recording per size of batch, for sizes a half power of two apart: smaller batches leave the last rows of
their recording as they are. Batches in CPU memory travel through pinned memory, with one wait for the device: when the
outputs are read.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sample_factory.algo.utils.cuda_graphs import Recording
from sample_factory.algo.utils.tensor_dict import TensorDict
from sample_factory.utils.utils import log

_NUM_REHEARSALS = 2
_MIN_SIZE = 16

Inputs = TensorDict  # observations by name ``[b, ...]``, and recurrent states ``[b, size]`` under ``RNN_STATES``
RNN_STATES = "__rnn_states__"


def recording_size(num_samples: int) -> int:
    """The smallest of 16, 24, 32, 48, 64, 96, ... that is large enough."""
    size = _MIN_SIZE
    while size < num_samples:
        if size * 3 // 2 >= num_samples:
            return size * 3 // 2
        size *= 2
    return size


class _Batch:
    """The recording for one size of batch and the memory it reads and writes."""

    def __init__(
        self,
        size: int,
        like: Inputs,
        act: Callable[[Inputs], Tensor],
        device: torch.device,
        share_with: Recording[Tensor] | None,
    ) -> None:
        self.inputs = TensorDict(
            {k: torch.zeros((size, *x.shape[1:]), dtype=x.dtype, device=device) for k, x in like.items()}
        )
        on_host = any(not x.is_cuda for x in like.values())
        self.staging = (
            {k: torch.empty_like(x, device="cpu", pin_memory=True) for k, x in self.inputs.items()} if on_host else None
        )
        self.recording = Recording(lambda: act(TensorDict(self.inputs)), _NUM_REHEARSALS, share_with)
        self.outputs_on_host = (
            torch.empty_like(self.recording.result, device="cpu", pin_memory=True) if on_host else None
        )

    def run(self, inputs: Inputs, num_samples: int) -> Tensor:
        for key, target in self.inputs.items():
            source = inputs[key]
            if self.staging is not None:
                staging = self.staging[key]
                staging[:num_samples].copy_(source)
                source = staging[:num_samples]
            target[:num_samples].copy_(source, non_blocking=True)
        outputs = self.recording.replay()[:num_samples]
        if self.outputs_on_host is None:
            return outputs
        on_host = self.outputs_on_host[:num_samples]
        on_host.copy_(outputs, non_blocking=True)
        torch.cuda.current_stream().synchronize()
        return on_host


class CapturedPolicy:
    """Recordings of ``act``, made when a size of batch is met for the first time.

    :param act: packed outputs ``[b, K]`` of a batch; computes the same operations whatever the data are
    """

    def __init__(self, act: Callable[[Inputs], Tensor], device: torch.device) -> None:
        self._act, self._device = act, device
        self._batches: dict[tuple[int, bool], _Batch] = {}
        self._has_failed = False

    def forget(self) -> None:
        """Tensors of the model were replaced."""
        self._batches = {}

    def run(self, inputs: Inputs) -> Tensor | None:
        """Packed outputs ``[b, K]``, overwritten by the next call, where the inputs are; ``None``: impossible."""
        if self._has_failed:
            return None
        first = next(iter(inputs.values()))
        num_samples = len(first)
        key = recording_size(num_samples), first.is_cuda
        batch = self._batches.get(key)
        if batch is None:
            other = next(iter(self._batches.values()), None)
            share_with = None if other is None else other.recording
            try:
                batch = self._batches[key] = _Batch(key[0], inputs, self._act, self._device, share_with)
            except Exception as exc:
                self._has_failed = True
                log.warning(f"The policy acts kernel by kernel, a CUDA graph is impossible: {exc}")
                return None
        return batch.run(inputs, num_samples)
