"""Small operations that accept torch tensors and NumPy arrays alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


def clone_tensor(t: Tensor | np.ndarray) -> Tensor | np.ndarray:
    """Copy without autograd history."""
    return t.detach().clone() if isinstance(t, Tensor) else np.copy(t)


def unsqueeze_tensor(t: Tensor | np.ndarray, dim: int) -> Tensor | np.ndarray:
    """Insert a dimension of size one."""
    return t.unsqueeze(dim) if isinstance(t, Tensor) else np.expand_dims(t, dim)


def cat_tensors(lt: Sequence[Tensor | np.ndarray]) -> Tensor | np.ndarray:
    """Concatenate along dimension 0; all must be of the same kind."""
    if isinstance(lt[0], Tensor):
        return torch.cat(list(lt), dim=0)  # type: ignore[arg-type]
    return np.concatenate(lt, axis=0)  # type: ignore[arg-type]


def dict_of_lists_cat(d: dict[Any, Any]) -> dict[Any, Any]:
    """Replace every list of tensors or arrays in a nested dict by its concatenation, in place."""
    for key, value in d.items():
        if isinstance(value, dict):
            dict_of_lists_cat(value)
        else:
            # existing keys only, so the iteration stays valid; dict's own setter, as this may be a TensorDict
            dict.__setitem__(d, key, cat_tensors(value))
    return d


def ensure_torch_tensor(t: Tensor | np.ndarray) -> Tensor:
    """The tensor itself, or a tensor that shares memory with the array."""
    return t if isinstance(t, Tensor) else torch.from_numpy(t)


def ensure_numpy_array(t: Tensor | np.ndarray) -> np.ndarray:
    """The array itself, or an array with the tensor's values (sharing memory if it is on the CPU)."""
    return t.detach().cpu().numpy() if isinstance(t, Tensor) else np.asarray(t)
