"""Random streams in checkpoints."""

from __future__ import annotations

import zlib

from torch import Generator, Tensor


def restore_generator(generator: Generator, state: Tensor) -> None:
    """Continue the stream of a stored ``Generator.get_state()``.

    Generators of CPUs and GPUs have different states: on the other kind of device a new stream begins that depends on
    the stored state alone.
    """
    state = state.cpu()
    if state.shape == generator.get_state().shape:
        generator.set_state(state)
    else:
        generator.manual_seed(zlib.crc32(state.numpy().tobytes()))
