"""Constants shared by the components: status codes, message keys, signal names, poison values."""

from __future__ import annotations

import os

import psutil
import torch

from sample_factory.utils.typing import StatusCode

EPS = 1e-8

# Poison written into freshly allocated trajectory buffers: whoever reads a slot nobody wrote notices.
MAGIC_FLOAT = -4242.42
MAGIC_INT = 43

# Keys of the messages components send to the runner.
EPISODIC = "episodic"
LEARNER_ENV_STEPS = "learner_env_steps"
TRAIN_STATS = "train"
TIMING_STATS = "timing"
STATS_KEY = "stats"
SAMPLES_COLLECTED = "samples_collected"
TIME_SHARES = "time_shares"
FAULTS = "faults"
CURRICULUM_STATS = "curriculum"
POLICY_ID_KEY = "policy_id"


class ExperimentStatus:
    """How a run ended. Script mains do ``sys.exit(main())``, so this is the exit code of training."""

    SUCCESS: StatusCode = 0
    FAILURE: StatusCode = 1
    INTERRUPTED: StatusCode = 2


def new_trajectories_signal(policy_id: int) -> str:
    """Name of the signal that announces finished trajectories of one policy."""
    return f"p{policy_id}_trajectories"


def advance_rollouts_signal(worker_idx: int) -> str:
    """Name of the signal that tells one rollout worker its actions are ready."""
    return f"advance{worker_idx}"


def memory_stats(process: str, device: torch.device) -> dict[str, float]:
    """Resident memory of this process in MiB and, on CUDA, allocated and cached device memory in 1e6 bytes."""
    stats = {f"memory_{process}": psutil.Process(os.getpid()).memory_info().rss / 2**20}
    if device.type == "cuda":
        stats[f"gpu_mem_{process}"] = torch.cuda.memory_allocated(device) / 1e6
        stats[f"gpu_cache_{process}"] = torch.cuda.memory_reserved(device) / 1e6
    return stats
