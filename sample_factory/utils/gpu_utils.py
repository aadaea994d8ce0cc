"""Dealing out GPUs to processes by means of CUDA_VISIBLE_DEVICES. Nothing here initialises CUDA."""

from __future__ import annotations

import os
from collections.abc import Sequence

from sample_factory.utils.get_available_gpus import get_gpus_without_triggering_pytorch_cuda_initialization
from sample_factory.utils.logging import log
from sample_factory.utils.typing import Config, PolicyID

CUDA_ENVVAR = "CUDA_VISIBLE_DEVICES"


def set_global_cuda_envvars(cfg: Config) -> None:
    """Define CUDA_VISIBLE_DEVICES for this process and its children, unless the user did.

    It becomes empty with `cfg.device == "cpu"`, otherwise the list of all GPUs.
    """
    if CUDA_ENVVAR not in os.environ:
        no_gpus = cfg.device == "cpu"
        os.environ[CUDA_ENVVAR] = "" if no_gpus else get_gpus_without_triggering_pytorch_cuda_initialization()
    log.info("Environment var %s is '%s'", CUDA_ENVVAR, os.environ[CUDA_ENVVAR])


def get_available_gpus() -> list[int | str]:
    """Physical ids listed in CUDA_VISIBLE_DEVICES: numbers, or UUIDs (GPU-..., MIG-...) where those are used."""
    ids = [gpu.strip() for gpu in os.environ.get(CUDA_ENVVAR, "").split(",")]
    return [int(gpu) if gpu.isdecimal() else gpu for gpu in ids if gpu and gpu != "-1"]


def gpus_for_process(process_idx: int, num_gpus_per_process: int, gpu_mask: Sequence[int] | None = None) -> list[int]:
    """Indices into the visible GPUs (the k of "cuda:k") for one process; [] without GPUs.

    Processes get GPUs in turn. `gpu_mask` lists the indices that may be dealt out (default: all).
    """
    num_visible = len(get_available_gpus())
    if num_visible == 0:
        return []

    candidates = list(range(num_visible))
    if gpu_mask is not None:
        assert len(gpu_mask) <= num_visible, f"{len(gpu_mask)} GPUs requested ({gpu_mask}), {num_visible} visible"
        outside = [gpu for gpu in gpu_mask if gpu not in candidates]
        if outside:
            raise ValueError(
                f"GPU indices {outside} do not exist: {num_visible} GPUs are visible, use 0..{num_visible - 1}"
            )
        candidates = list(gpu_mask)

    first = process_idx * num_gpus_per_process
    return [candidates[(first + k) % len(candidates)] for k in range(num_gpus_per_process)] if candidates else []


def set_gpus_for_process(
    process_idx: int, num_gpus_per_process: int, process_type: str, gpu_mask: Sequence[int] | None = None
) -> list[int]:
    """Let this process see only its share of the GPUs; returns their indices among those visible before."""
    visible = get_available_gpus()
    gpus = gpus_for_process(process_idx, num_gpus_per_process, gpu_mask)
    if not gpus:
        os.environ[CUDA_ENVVAR] = ""
        log.debug("Not using GPUs for %s process %d", process_type, process_idx)
        return gpus

    os.environ[CUDA_ENVVAR] = ",".join(str(visible[gpu]) for gpu in gpus)
    log.info(
        "Set environment var %s to '%s' (GPU indices %s) for %s process %d",
        CUDA_ENVVAR,
        os.environ[CUDA_ENVVAR],
        gpus,
        process_type,
        process_idx,
    )
    return gpus


def cuda_envvars_for_policy(policy_id: PolicyID, process_type: str) -> None:
    """Let this process see only the GPU of the policy."""
    set_gpus_for_process(policy_id, 1, process_type)
