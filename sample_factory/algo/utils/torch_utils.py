"""Set-up of the torch runtime and small helpers around tensors and modules."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sample_factory.cfg.shadowing import flag_value
from sample_factory.utils.typing import Config

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # <malloc.h>
_KEPT_BYTES = 1 << 30


def init_torch_runtime(cfg: Config, max_num_threads: int | None = 1) -> None:
    """Set up torch in this process: sharing strategy, intra-op threads (``None``: leave them), cuDNN autotuning."""
    torch.multiprocessing.set_sharing_strategy("file_system")
    if max_num_threads is not None:
        torch.set_num_threads(max_num_threads)
    if cfg.device == "gpu":
        torch.backends.cudnn.benchmark = True


def allow_tf32() -> None:
    """Let matrix products and convolutions of float32 tensors on GPUs round their factors to TensorFloat-32."""
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True


def keep_freed_memory() -> None:
    """Tell glibc's allocator not to return memory to the system: a learner needs the same again at its next step.

    Otherwise every step maps its buffers anew, and the kernel clears each page of them. Does nothing with other C
    libraries.
    """
    if sys.platform != "linux":
        return
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        set_option(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def prepare_device(cfg: Config, device: torch.device) -> None:
    """Settings of the process for learning on this device."""
    if device.type == "cpu":
        keep_freed_memory()
    elif flag_value(cfg, "mixed_precision") == "tf32":
        allow_tf32()


def inference_context(is_serial: bool) -> AbstractContextManager[Any]:
    """Context for acting. In serial mode the learner shares the tensors: they must not become inference tensors."""
    return torch.no_grad() if is_serial else torch.inference_mode()


def to_torch_dtype(numpy_dtype: Any) -> torch.dtype:
    """Torch equivalent of a NumPy dtype; ``TypeError`` if there is none."""
    return torch.from_numpy(np.zeros(1, dtype=numpy_dtype)).dtype


def calc_num_elements(module: nn.Module, module_input_shape: Sequence[int]) -> int:
    """Number of output elements of the module per sample, found by running it on one random sample.

    The sample does not come from the global random stream: measuring a layer must not change how the next one is made.
    """
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        x = torch.rand((1, *module_input_shape), generator=generator).to(device)
        return module(x).numel()


def to_scalar(value: Any) -> Any:
    """Python number of a one-element tensor; anything else is returned as it is."""
    return value.item() if isinstance(value, Tensor) else value


def masked_select(x: Tensor, mask: Tensor, num_non_mask: int) -> Tensor:
    """Elements where ``mask`` is set. ``num_non_mask`` is how many are not: with 0 nothing is copied."""
    return x if num_non_mask == 0 else torch.masked_select(x, mask)


def synchronize(cfg: Config, device: torch.device | str) -> None:
    """Wait until the CUDA device has finished its work, unless everything runs in one process anyway."""
    if cfg.serial_mode:
        return
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
