"""How many threads torch should use inside of one operation ("intra-op threads").

The rule for the processes of learners: as many as the arithmetic of one call keeps busy, as long as there are cores
nobody else needs. Rollout and inference workers have one. The threads of one operation wait for the slowest of them,
several thousand times per second: one that has to share its core makes all of them slow (a recurrent learner takes five
times as long with two threads as with one when other processes keep both cores busy). Where that leaves a learner one
thread, the rows of its minibatches may be shared by threads that hardly ever wait for each other (see
:mod:`row_threads`). ``OMP_NUM_THREADS`` in the environment wins over all of this.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import torch
from gymnasium import spaces
from torch import nn

from sample_factory.algo.utils.row_threads import MAX_ROW_THREADS, get_row_threads, set_row_threads
from sample_factory.algo.utils.topology import sampling_topology
from sample_factory.utils.typing import Config

# Waking a thread and waiting for it costs some ten microseconds, and much more when cores are shared; a core does about
# 50-100 GFLOP per second.
MIN_FLOPS_PER_THREAD = 1e8
MAX_THREADS = 16
_RESERVED_CORES = 1  # for the main process, the system and whatever else the machine does


def choose_num_threads(flops_per_call: float, usable_cores: int, busy_processes: int) -> int:
    """ThreadCounts for calls of ``flops_per_call`` floating point operations each (an update by a minibatch).

    :param usable_cores: cores this process may run on, see :func:`num_usable_cores`
    :param busy_processes: other processes of the run that compute at the same time on these cores
    :returns: at least 1, at most 16: one per 100 MFLOP, no more than cores that the others and the system leave
    """
    if usable_cores < 1 or busy_processes < 0 or flops_per_call < 0.0:
        raise ValueError(f"no such machine: {flops_per_call=}, {usable_cores=}, {busy_processes=}")
    useful = int(flops_per_call / MIN_FLOPS_PER_THREAD)
    available = usable_cores - busy_processes - _RESERVED_CORES
    return max(1, min(useful, available, MAX_THREADS))


def num_usable_cores() -> int:
    """Cores the scheduler may run this process on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def num_threads_from_environment() -> int | None:
    """What the user asked for by ``OMP_NUM_THREADS``; ``None`` if nothing, or nothing that is a number."""
    first_level = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first_level) if first_level.isdigit() and int(first_level) > 0 else None


def flops_per_sample(model: nn.Module, obs_space: Any) -> float:
    """About how many floating point operations one forward pass takes per sample; a third of one with gradient.

    Two per weight; those of a convolution count once per position, from the size of the largest image in ``obs_space``
    (a Dict space) and the strides of the layers before. The model is not run.
    """
    image_spaces = obs_space.spaces.values() if isinstance(obs_space, spaces.Dict) else ()
    positions = float(max((s.shape[1] * s.shape[2] for s in image_spaces if s.shape and len(s.shape) == 3), default=1))
    flops = 0.0
    for module in model.modules():
        weights = sum(p.numel() for name, p in module._parameters.items() if p is not None and "weight" in name)
        is_convolution = isinstance(module, nn.Conv2d)
        if is_convolution or isinstance(module, (nn.MaxPool2d, nn.AvgPool2d)):
            positions = max(positions / _area(module.stride), 1.0)
        flops += 2.0 * weights * (positions if is_convolution else 1.0)
    return flops


def _area(stride: Any) -> float:
    return float(stride[0] * stride[1]) if isinstance(stride, tuple) else float(stride) ** 2


def _flops_per_update(cfg: Config, model: nn.Module, obs_space: Any) -> float:
    """Of one minibatch: a gradient costs twice as much as the forward pass."""
    return 3.0 * flops_per_sample(model, obs_space) * cfg.batch_size


def num_learner_threads(cfg: Config, model: nn.Module, obs_space: Any) -> int:
    """For the process of one learner, beside the rollout workers, inference workers and other learners of the run."""
    asked = num_threads_from_environment()
    if asked is not None:
        return asked
    topology = sampling_topology(cfg)
    others = cfg.num_workers + cfg.num_policies - 1
    if not topology.inference_in_rollout_workers:
        others += cfg.num_policies * topology.inference_workers_per_policy
    return choose_num_threads(_flops_per_update(cfg, model, obs_space), num_usable_cores(), others)


def num_row_threads(usable_cores: int, learners: int) -> int:
    """ThreadCounts that share rows in each of ``learners`` processes, if the operations of torch have one thread there.

    Cores are counted as if nobody else needed them: these threads do not suffer from company.
    """
    return max(1, min(usable_cores // learners, MAX_ROW_THREADS))


class ThreadCounts(NamedTuple):
    """Of torch's operations, and sharing rows."""

    of_operations: int
    sharing_rows: int


def threads_now() -> ThreadCounts:
    """The setting of this process."""
    return ThreadCounts(torch.get_num_threads(), get_row_threads())


def set_threads(threads: ThreadCounts) -> None:
    torch.set_num_threads(threads.of_operations)
    set_row_threads(threads.sharing_rows)


def use_learner_threads(cfg: Config, model: nn.Module, obs_space: Any) -> ThreadCounts:
    """Set, and return, the threads of a learner's process. On a GPU one of each is enough."""
    of_operations = 1 if cfg.device == "gpu" else num_learner_threads(cfg, model, obs_space)
    threads = ThreadCounts(of_operations, _sharing_rows(cfg, of_operations))
    set_threads(threads)
    return threads


def limit_serial_threads(cfg: Config, model: nn.Module, obs_space: Any) -> None:
    """The same for serial mode, where no other process of the run computes, and what the user set is not exceeded."""
    if cfg.device == "gpu" or num_threads_from_environment() is not None:
        return
    useful = choose_num_threads(_flops_per_update(cfg, model, obs_space), num_usable_cores(), busy_processes=0)
    of_operations = min(torch.get_num_threads(), useful)
    set_threads(ThreadCounts(of_operations, _sharing_rows(cfg, of_operations)))


def _sharing_rows(cfg: Config, of_operations: int) -> int:
    may_share = of_operations == 1 and cfg.device != "gpu" and num_threads_from_environment() is None
    return num_row_threads(num_usable_cores(), 1 if cfg.serial_mode else cfg.num_policies) if may_share else 1
