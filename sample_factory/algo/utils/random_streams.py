"""States of the random streams of this process, in plain types that a checkpoint may hold.

A process has the global generators of ``random``, NumPy and torch, and the streams of its components. In a learner
process those are the learner's; in serial mode all components live in one process, so a checkpoint holds all streams of
the run. Streams of components that do not exist yet when a checkpoint is loaded are continued when they are created.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

_streams: dict[str, np.random.Generator] = {}
_pending: dict[str, dict[str, Any]] = {}


def register(name: str, rng: np.random.Generator) -> None:
    """``rng`` is the stream of this name from now on; it continues where a loaded one of that name ended."""
    state = _pending.pop(name, None)
    if state is not None:
        rng.bit_generator.state = state
    _streams[name] = rng


def forget_all() -> None:
    """Another run begins in this process."""
    _streams.clear()
    _pending.clear()


def get_states() -> dict[str, Any]:
    """States of all streams: dictionaries, numbers, strings and tensors on the CPU (long lists take long to read)."""
    numpy_state: dict[str, Any] = np.random.get_state(legacy=False)  # type: ignore[assignment]
    version, words, gauss = random.getstate()
    states: dict[str, Any] = {
        "python": [version, torch.tensor(words), gauss],
        "numpy": _plain(numpy_state),
        "torch": torch.get_rng_state(),
        "components": {name: _plain(dict(rng.bit_generator.state)) for name, rng in _streams.items()},
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def set_states(states: dict[str, Any]) -> None:
    """Continue all streams from :func:`get_states`."""
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    np.random.set_state(_with_arrays(states["numpy"]))
    torch.set_rng_state(states["torch"].cpu())
    if "cuda" in states and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(states["cuda"].cpu())
    _pending.clear()
    for name, state in states["components"].items():
        if name in _streams:
            _streams[name].bit_generator.state = state
        else:
            _pending[name] = state


def _plain(state: Any) -> Any:
    if isinstance(state, dict):
        return {key: _plain(value) for key, value in state.items()}
    if isinstance(state, np.ndarray):
        return torch.from_numpy(state.astype(np.int64))
    return state.item() if isinstance(state, np.generic) else state


def _with_arrays(state: Any) -> Any:
    if isinstance(state, dict):
        return {key: _with_arrays(value) for key, value in state.items()}
    return state.cpu().numpy() if isinstance(state, torch.Tensor) else state
