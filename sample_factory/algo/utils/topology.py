"""Where inference runs, and what follows from it for groups of environments and numbers of inference workers.

=============== ======================================= ===================================================
placement       inference workers of a policy           environments of a rollout worker
=============== ======================================= ===================================================
``separate``    ``policy_workers_per_policy`` processes ``worker_num_splits`` groups: one steps while the
                                                        others wait for actions
``rollout``     one inside every rollout worker         one group: nobody has to wait for another process,
                                                        so all are acted for with one forward pass
serial mode     one on the only loop                    one group, for the same reason
=============== ======================================= ===================================================

On a CPU a message to another process costs more than the forward pass of a small model, and the forward pass of a large
one keeps a core busy wherever it runs: ``rollout`` is the better choice. A GPU wants few processes and large batches:
``separate``. Workers whose vectorised environments live on the GPU may act themselves: their steps and forward passes
then follow each other on one stream, and nobody waits for the device in between.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sample_factory.cfg.shadowing import flag_value
from sample_factory.utils.typing import Config

AUTO, SEPARATE, ROLLOUT = "auto", "separate", "rollout"


@dataclass(frozen=True)
class SamplingTopology:
    """``inference_in_rollout_workers`` is never set in serial mode, where everything is in one process anyway."""

    inference_in_rollout_workers: bool
    inference_workers_per_policy: int
    num_splits: int


def sampling_topology(cfg: Config) -> SamplingTopology:
    """What ``--inference_placement``, ``--serial_mode`` and the device amount to on this machine."""
    if cfg.serial_mode:
        return SamplingTopology(False, cfg.policy_workers_per_policy, 1)
    if _placement(cfg) == ROLLOUT:
        return SamplingTopology(True, cfg.num_workers, 1)
    return SamplingTopology(False, cfg.policy_workers_per_policy, cfg.worker_num_splits)


def _placement(cfg: Config) -> str:
    placement = flag_value(cfg, "inference_placement")
    if placement != AUTO:
        return str(placement)
    if cfg.policy_workers_per_policy > 1:  # whoever asks for several inference processes wants inference processes
        return SEPARATE
    on_cpu = cfg.device == "cpu" or not torch.cuda.is_available()
    # Vectorised environments on a GPU need nobody who collects requests into large batches.
    is_vectorised_on_gpu = cfg.batched_sampling and bool(cfg.actor_worker_gpus)
    return ROLLOUT if on_cpu or is_vectorised_on_gpu else SEPARATE
