"""What a run takes from the operating system, compared with what is left of it before anything is started.

Shared memory that ends while it is used kills processes with SIGBUS, and running out of files or processes shows up as
an error somewhere in the middle of the start. Both can be counted beforehand.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path

import psutil
import torch
from gymnasium import spaces
from torch import nn

from sample_factory.algo.utils import message_queue
from sample_factory.algo.utils.env_info import EnvInfo
from sample_factory.algo.utils.level_tables import table_bytes
from sample_factory.algo.utils.shared_buffers import num_stored_levels, rollouts_per_iteration, trajectory_layout
from sample_factory.algo.utils.topology import sampling_topology
from sample_factory.algo.utils.torch_utils import to_torch_dtype
from sample_factory.model.model_utils import get_rnn_size
from sample_factory.utils.typing import Config
from sample_factory.utils.utils import log

SHARED_MEMORY_DIR = "/dev/shm"
_CGROUP_DIR = "/sys/fs/cgroup"

# Queues in shared memory, where there are no sockets for them; pages are taken when messages first reach them.
_QUEUE_BYTES = 0 if message_queue.is_supported() else 5_000_000
_MIN_TENSOR_BYTES = 4096  # a page
_OTHER_TENSORS = 20  # words of the policy channel, versions, life signs: a page each

# Counted in runs: open files of the main process, and threads of each process.
_FILES_OF_ANY_RUN = 30
_FILES_PER_PROCESS = 10
_THREADS_PER_PROCESS = 4
_SOFT_LIMIT_OF_FILES = 4096
_NAME_OF_LIMIT = {resource.RLIMIT_NOFILE: "open files", resource.RLIMIT_NPROC: "processes"}
_SERVER_PROCESSES = 3  # resource tracker, fork server, test instance of the environment


class ResourceError(RuntimeError):
    """The machine cannot give what the configuration asks for; the message names the flags to change."""


@dataclass(frozen=True)
class ResourceNeeds:
    """``shared_bytes``: trajectories (and queues), without weights. ``files``: open files of the main process."""

    shared_bytes: int
    files: int
    processes: int

    @classmethod
    def of(cls, cfg: Config, env_info: EnvInfo) -> ResourceNeeds:
        topology = sampling_topology(cfg)
        inference = 0 if topology.inference_in_rollout_workers else topology.inference_workers_per_policy
        workers = cfg.num_workers + cfg.num_policies * (1 + inference)
        if cfg.serial_mode:
            return cls(0, _FILES_OF_ANY_RUN, _SERVER_PROCESSES)
        step_bytes = list(_bytes_per_step(cfg, env_info))
        blocks = 2 if cfg.async_rl else max(1, rollouts_per_iteration(cfg, env_info))
        rows = cfg.num_workers * cfg.num_envs_per_worker * env_info.num_agents * blocks
        tensors = sum(max(_MIN_TENSOR_BYTES, rows * (cfg.rollout + 1) * size) for size in step_bytes)
        levels: list[int] = []
        if env_info.level_spec is not None:
            num_envs = cfg.num_workers * cfg.num_envs_per_worker
            levels = [
                max(_MIN_TENSOR_BYTES, n) for n in table_bytes(env_info.level_spec, num_stored_levels(cfg), num_envs)
            ]
        num_queues = 1 + cfg.num_policies + workers
        return cls(
            shared_bytes=tensors + sum(levels) + _OTHER_TENSORS * _MIN_TENSOR_BYTES + num_queues * _QUEUE_BYTES,
            files=_FILES_OF_ANY_RUN + len(step_bytes) + len(levels) + _FILES_PER_PROCESS * workers,
            processes=workers + _SERVER_PROCESSES,
        )


def _bytes_per_step(cfg: Config, env_info: EnvInfo) -> Iterator[int]:
    """Of every trajectory tensor: bytes of one step of one trajectory."""
    assert isinstance(env_info.obs_space, spaces.Dict)
    for space in env_info.obs_space.spaces.values():
        yield to_torch_dtype(space.dtype).itemsize * prod(space.shape or ())  # type: ignore[arg-type]
    for field in trajectory_layout(env_info, get_rnn_size(cfg)):
        dtype = field.dtype if isinstance(field.dtype, torch.dtype) else to_torch_dtype(field.dtype)
        yield dtype.itemsize * prod(d for d in field.shape if d)


def raise_soft_limits() -> None:
    """Before any process is started, because all of them inherit the limits of this moment from the fork server."""
    for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC):
        soft, hard = resource.getrlimit(kind)
        if soft == resource.RLIM_INFINITY or (kind == resource.RLIMIT_NOFILE and soft >= _SOFT_LIMIT_OF_FILES):
            continue
        # Not without limit: programs that close every possible file when they start another one would take minutes.
        wanted = _SOFT_LIMIT_OF_FILES if kind == resource.RLIMIT_NOFILE else hard
        wanted = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        if wanted != soft:
            log.info(f"Raising the soft limit of {_NAME_OF_LIMIT[kind]} from {soft} to {wanted}")
            resource.setrlimit(kind, (wanted, hard))


def check_resources(cfg: Config, env_info: EnvInfo) -> None:
    """Raise soft limits where that is enough.

    :raises ResourceError: shared memory, open files or processes do not suffice.
    """
    needs = ResourceNeeds.of(cfg, env_info)
    check_shared_memory(needs.shared_bytes, _advice_about_memory(cfg))
    require_open_files(needs.files, cfg)
    require_processes(needs.processes, cfg)


def check_room_for_weights(cfg: Config, model: nn.Module) -> None:
    """The weights of every policy are shared twice.

    :raises ResourceError: the shared memory is too small for them.
    """
    tensors = [*model.parameters(), *model.buffers()]
    size = 2 * cfg.num_policies * sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    check_shared_memory(size, f"use a smaller model or fewer policies (--num_policies={cfg.num_policies})")


def check_shared_memory(needed: int, advice: str, directory: str = SHARED_MEMORY_DIR) -> None:
    """:raises ResourceError: fewer than ``needed`` bytes are free."""
    try:
        stats = os.statvfs(directory)
    except OSError:
        return  # this system keeps shared memory somewhere else
    free = stats.f_bavail * stats.f_frsize
    if needed > free:
        raise ResourceError(
            f"Shared memory is too small: {_mib(needed)} needed, {_mib(free)} free in {directory}; {advice}. A "
            f"container needs a larger one: docker run --shm-size={max(1, -(-needed // 2**29))}g"
        )


def _advice_about_memory(cfg: Config) -> str:
    return (
        f"lower --num_workers={cfg.num_workers}, --num_envs_per_worker={cfg.num_envs_per_worker} or "
        f"--rollout={cfg.rollout}, or use --serial_mode=True"
    )


def _advice_about_processes(cfg: Config) -> str:
    return f"lower --num_workers={cfg.num_workers} or --policy_workers_per_policy={cfg.policy_workers_per_policy}"


def require_open_files(needed: int, cfg: Config) -> None:
    """:raises ResourceError: even the hard limit is too low."""
    limit = _raised_limit(resource.RLIMIT_NOFILE, needed)
    if limit is not None:
        raise ResourceError(
            f"Too few open files are allowed: about {needed} needed, the hard limit is {limit} (ulimit -Hn); "
            f"{_advice_about_processes(cfg)}, or have the limit raised"
        )


def require_processes(num_processes: int, cfg: Config) -> None:
    """:raises ResourceError: the user, or the container, may not have so many processes and threads."""
    threads = num_processes * _THREADS_PER_PROCESS
    problem = None
    if os.geteuid() != 0:  # the limit does not apply to root
        wanted = threads + _threads_of_this_user()
        limit = _raised_limit(resource.RLIMIT_NPROC, wanted)
        if limit is not None:
            problem = f"about {wanted} needed for all programs of this user, the hard limit is {limit} (ulimit -Hu)"
    left = _tasks_left_in_cgroup()
    if left is not None and threads > left:
        problem = f"about {threads} needed, the container (cgroup pids.max) allows {left} more"
    if problem is not None:
        raise ResourceError(f"Too few processes are allowed: {problem}; {_advice_about_processes(cfg)}")


def _raised_limit(kind: int, needed: int) -> int | None:
    """Raise the soft limit to what is needed; returns the hard limit if that is too low."""
    soft, hard = resource.getrlimit(kind)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return None
    if hard != resource.RLIM_INFINITY and hard < needed:
        return hard
    # Environments open files of their own; more than the hard limit is not to be had.
    wanted = 2 * needed if hard == resource.RLIM_INFINITY else min(hard, 2 * needed)
    log.info(f"Raising the soft limit of {_NAME_OF_LIMIT[kind]} to {wanted}")
    resource.setrlimit(kind, (wanted, hard))
    return None


def _threads_of_this_user() -> int:
    user, count = os.getuid(), 0
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.uids().real == user:
                count += process.num_threads()
    return count


def _tasks_left_in_cgroup(directory: str = _CGROUP_DIR) -> int | None:
    """Tasks that the cgroup (version 2) of this process may still start; None without a limit."""
    try:
        own = Path("/proc/self/cgroup").read_text().split("0::", 1)[1].splitlines()[0].strip("/")
        folder = Path(directory, own)
        return int((folder / "pids.max").read_text()) - int((folder / "pids.current").read_text())
    except (OSError, IndexError, ValueError):  # no such cgroup, or the limit is "max"
        return None


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:.1f} MiB"
