"""A dict of tensors that can be indexed like one tensor: the shape of trajectory buffers and training batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sample_factory.algo.utils.misc import MAGIC_FLOAT, MAGIC_INT
from sample_factory.algo.utils.tensor_utils import cat_tensors, clone_tensor
from sample_factory.utils.utils import log


class TensorDict(dict):
    """Maps names to torch tensors, NumPy arrays or nested mappings.

    String keys give ordinary dict access. Any other index is applied to every leaf: ``d[3]``,
    ``d[2:5]``, ``d[idx, t]``.
    """

    def __getitem__(self, key: Any) -> Any:
        """The value of a string key, or a new TensorDict of ``leaf[key]`` (views for int and slice indices)."""
        if isinstance(key, str):
            return dict.__getitem__(self, key)
        return _index(self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        """Set a string key, or overwrite ``leaf[key]`` of every leaf named in the mapping ``value``.

        Names the destination does not have are ignored: whoever writes may know more than whoever stores. Torch and
        NumPy mix freely, values are converted to the dtype of the destination.
        """
        if isinstance(key, str):
            dict.__setitem__(self, key, value)
        else:
            _overwrite(self, key, value)


def _index(tensors: Mapping[str, Any], idx: Any) -> TensorDict:
    return TensorDict({k: _index(v, idx) if isinstance(v, dict) else v[idx] for k, v in tensors.items()})


def _overwrite(stored: Mapping[str, Any], idx: Any, new: Mapping[str, Any]) -> None:
    for key, value in new.items():
        destination = stored.get(key)
        if destination is None:
            continue
        if isinstance(destination, Mapping):
            _overwrite(destination, idx, value)
        elif isinstance(destination, np.ndarray):
            destination[idx] = _as_numpy(value)
        elif isinstance(destination, Tensor):
            _overwrite_tensor(destination, idx, value)
        else:
            raise ValueError(f"Type {type(destination)} not supported in set_data_func")


def _overwrite_tensor(destination: Tensor, idx: Any, value: Any) -> None:
    source = _as_torch(value)
    if source.dtype != destination.dtype or source.device != destination.device:
        # Advanced indices do not convert by themselves.
        source = source.to(device=destination.device, dtype=destination.dtype)
    destination[idx] = source


def _as_numpy(value: Any) -> np.ndarray:
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, Tensor):
        return value.detach().cpu().numpy()
    raise ValueError(f"Type {type(value)} not supported in set_data_func")


def _as_torch(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(value) if min(value.strides, default=0) < 0 else value)
    raise ValueError(f"Type {type(value)} not supported in set_data_func")


def clone_tensordict(d: Mapping[str, Any]) -> TensorDict:
    """Deep copy without autograd history."""
    return TensorDict({k: clone_tensordict(v) if isinstance(v, dict) else clone_tensor(v) for k, v in d.items()})


def shallow_recursive_copy(d: Mapping[str, Any]) -> TensorDict:
    """New dicts at every level, the same tensors."""
    return TensorDict({k: shallow_recursive_copy(v) if isinstance(v, dict) else v for k, v in d.items()})


def tensor_dict_to_numpy(d: Mapping[str, Any]) -> TensorDict:
    """NumPy views of CPU tensors: both sides share memory. Every leaf must be a torch tensor."""
    numpy_dict = TensorDict()
    for key, value in d.items():
        if isinstance(value, dict):
            numpy_dict[key] = tensor_dict_to_numpy(value)
        else:
            assert isinstance(value, Tensor), f"{key} is a {type(value)}, not a tensor"
            numpy_dict[key] = value.numpy()
    return numpy_dict


def to_numpy(t: Tensor | Mapping[str, Any]) -> np.ndarray | TensorDict:
    """NumPy view of one CPU tensor, or of all tensors of a dict."""
    if isinstance(t, Tensor):
        return t.numpy()
    return tensor_dict_to_numpy(t)


def cat_tensordicts(lst: list[TensorDict]) -> TensorDict:
    """Concatenate dicts of the same structure along dimension 0, torch or NumPy; an empty list gives an empty dict."""
    if not lst:
        return TensorDict()
    joined = TensorDict()
    for key, first in lst[0].items():
        parts = [d[key] for d in lst]
        joined[key] = cat_tensordicts(parts) if isinstance(first, dict) else cat_tensors(parts)
    return joined


def find_invalid_data(
    t: Mapping[str, Any], msg: str | None = None, keys: Iterable[str] | None = None
) -> dict[str, Tensor]:
    """Debugging aid: names of leaves that hold NaN, infinity or the poison of unwritten buffers, with a mask of where.

    Bytes are reported only where a whole row (first dimension) is poison, because a pixel may well have that value.
    ``keys`` limits the search to these top-level names; ``msg`` starts the log line.
    """
    selected = set(t.keys() if keys is None else keys)
    invalid: dict[str, Tensor] = {}
    for key, value in t.items():
        if key not in selected:
            continue
        if isinstance(value, dict):
            nested = find_invalid_data(value, msg)
            invalid.update({f"{key}.{name}": mask for name, mask in nested.items()})
            continue
        mask = _invalid_elements(torch.as_tensor(value))
        if bool(mask.any()):
            invalid[key] = mask
            log.error(f"{msg or 'Check'}: {int(mask.sum())} of {mask.numel()} elements of {key} are invalid")
    return invalid


def _invalid_elements(x: Tensor) -> Tensor:
    if x.dtype.is_floating_point:
        return ~torch.isfinite(x) | (x == MAGIC_FLOAT)
    if x.dtype == torch.bool:
        return torch.zeros_like(x)
    is_magic = x == MAGIC_INT
    if x.dtype in (torch.uint8, torch.int8) and x.dim() > 0:
        whole_rows = is_magic.flatten(1).all(dim=1) if x.dim() > 1 else is_magic
        return is_magic & whole_rows.reshape([-1] + [1] * (x.dim() - 1))
    return is_magic
