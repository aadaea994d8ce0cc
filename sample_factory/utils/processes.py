"""Ending processes and binding them to CPU cores."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import psutil

from sample_factory.utils.logging import log


def kill(proc_pid: int) -> None:
    """Kill the process and all its descendants; a process that is already gone is fine."""
    try:
        process = psutil.Process(proc_pid)
        descendants = process.children(recursive=True)
    except psutil.NoSuchProcess:
        return
    for proc in [*descendants, process]:
        try:
            proc.kill()
        except psutil.NoSuchProcess:
            continue


def join_or_kill(process: Any, timeout: float = 1.0) -> None:
    """Wait up to `timeout` seconds for a multiprocessing process, then kill it with its descendants."""
    process.join(timeout)
    if process.is_alive():
        log.warning("Process %r is still alive after %.1f s, killing it", process.name, timeout)
        kill(process.pid)
        process.join(timeout)


def list_child_processes() -> list[psutil.Process]:
    """All living descendants of this process."""
    return psutil.Process().children(recursive=True)


def kill_processes(processes: Iterable[psutil.Process]) -> None:
    """Kill these psutil processes; the ones that are gone are skipped."""
    for process in processes:
        try:
            if process.is_running():
                log.debug("Killing process %s (pid %d)", process.name(), process.pid)
                process.kill()
        except psutil.NoSuchProcess:
            continue


def cores_for_worker_process(worker_idx: int, num_workers: int, cpu_count: int) -> list[int] | None:
    """CPU cores to bind a worker to, None to leave its affinity alone.

    Full rounds of `cpu_count` workers get one core each. The remaining workers share all the cores evenly when
    their number divides the number of cores; otherwise the scheduler decides.
    """
    num_single_core = (num_workers // cpu_count) * cpu_count
    if worker_idx < num_single_core:
        return [worker_idx % cpu_count]

    num_remaining = num_workers % cpu_count
    if num_remaining == 0 or cpu_count % num_remaining != 0:
        return None
    block = cpu_count // num_remaining
    first = (worker_idx % cpu_count) * block
    return list(range(first, first + block))


def set_process_cpu_affinity(worker_idx: int, num_workers: int) -> None:
    """Bind this worker process to its share of the cores the program may use (where the system supports it)."""
    process = psutil.Process()
    if not hasattr(process, "cpu_affinity"):
        log.debug("CPU affinity is not supported on this system")
        return

    available = sorted(process.cpu_affinity() or range(os.cpu_count() or 1))
    cores = cores_for_worker_process(worker_idx, num_workers, len(available))
    if cores is not None:
        # Indices into the allowed cores, so containers and batch systems that grant a subset work as well.
        process.cpu_affinity([available[core] for core in cores])
    log.debug("Worker %d uses CPU cores %s", worker_idx, process.cpu_affinity())


def set_process_niceness(niceness: int) -> None:
    """Lower (or, with the rights for it, raise) the scheduling priority of this process; 0 leaves it as inherited."""
    if niceness == 0:
        return
    try:
        psutil.Process().nice(niceness)
    except psutil.AccessDenied:
        log.error(f"Not allowed to set niceness {niceness}; use a non-negative --default_niceness")
