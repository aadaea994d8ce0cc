"""Launcher backend: processes on this machine, a few at a time."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from os.path import join

from sample_factory.algo.utils.misc import ExperimentStatus
from sample_factory.launcher.outcomes import Outcome, command_argv, describe_exit, outcome_table
from sample_factory.launcher.run_description import RunDescription
from sample_factory.utils.gpu_utils import CUDA_ENVVAR
from sample_factory.utils.processes import kill
from sample_factory.utils.typing import StatusCode
from sample_factory.utils.utils import log

POLL_INTERVAL_SEC = 0.1
STOP_TIMEOUT_SEC = 60.0


def add_os_parallelism_args(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Options of the `processes` backend."""
    parser.add_argument("--num_gpus", default=1, type=int, help="How many GPUs to use")
    parser.add_argument("--max_parallel", default=4, type=int, help="Maximum simultaneous experiments")
    parser.add_argument(
        "--experiments_per_gpu",
        default=-1,
        type=int,
        help="How many experiments share a GPU; -1 leaves CUDA_VISIBLE_DEVICES alone",
    )
    return parser


@dataclass(frozen=True, slots=True)
class _Job:
    name: str
    argv: list[str]
    experiment_dir: str
    env_vars: Mapping[str, str] | None


@dataclass(frozen=True, slots=True)
class _RunningJob:
    job: _Job
    process: subprocess.Popen
    gpu: int | None


class _ProcessPool:
    """Starts jobs while there is room, collects how they ended."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._max_parallel = max(1, args.max_parallel)
        self._num_gpus = max(1, args.num_gpus)
        self._experiments_per_gpu = args.experiments_per_gpu
        self.running: list[_RunningJob] = []
        self.outcomes: list[Outcome] = []

    def has_room(self) -> bool:
        room = len(self.running) < self._max_parallel
        if self._experiments_per_gpu > 0:
            room = room and len(self.running) < self._num_gpus * self._experiments_per_gpu
        return room

    def start(self, job: _Job) -> None:
        env = dict(os.environ)
        gpu = self._least_busy_gpu() if self._experiments_per_gpu > 0 else None
        if gpu is not None:
            env[CUDA_ENVVAR] = str(gpu)
        env.update({key: str(value) for key, value in (job.env_vars or {}).items()})
        log.info("Starting %s: %s", job.name, job.argv)
        try:
            process = subprocess.Popen(job.argv, env=env, stdin=subprocess.DEVNULL)
        except OSError as exc:
            log.error("Could not start %s: %s", job.name, exc)
            self.outcomes.append(Outcome(job.name, None, f"could not be started: {exc}"))
            return
        self.running.append(_RunningJob(job, process, gpu))

    def collect(self) -> None:
        """Take note of the jobs that have ended."""
        for item in list(self.running):
            exit_code = item.process.poll()
            if exit_code is None:
                continue
            self.running.remove(item)
            outcome = Outcome(item.job.name, exit_code, describe_exit(exit_code, item.job.experiment_dir))
            self.outcomes.append(outcome)
            if outcome.failed:
                log.error("Experiment %s failed with exit code %d: %s", outcome.name, exit_code, outcome.cause)
            else:
                log.info("Experiment %s finished", outcome.name)

    def stop(self) -> None:
        """Ask the running jobs to save and stop, kill those that do not within the time limit."""
        for item in self.running:
            item.process.terminate()
        deadline = time.monotonic() + STOP_TIMEOUT_SEC
        for item in self.running:
            try:
                item.process.wait(timeout=max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                kill(item.process.pid)
                item.process.wait()
        self.collect()

    def _least_busy_gpu(self) -> int:
        load = Counter(item.gpu for item in self.running)
        return min(range(self._num_gpus), key=lambda gpu: load[gpu])


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM end the launcher like Ctrl-C: its experiments save and stop instead of going on as orphans."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may install signal handlers
        return
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def run(run_description: RunDescription, args: argparse.Namespace) -> StatusCode:
    """Run all experiments; SUCCESS only if each of them exited with 0. One failure does not stop the others."""
    jobs = [
        _Job(name, command_argv(command), join(args.train_dir, root, name), env_vars)
        for command, name, root, env_vars in run_description.generate_experiments(args.train_dir)
    ]
    log.info("Starting %d processes, at most %d in parallel", len(jobs), args.max_parallel)
    pool = _ProcessPool(args)
    try:
        with _sigterm_interrupts():
            _run_jobs(pool, jobs, args.pause_between)
    except KeyboardInterrupt:
        log.warning("Interrupted, stopping %d running experiments", len(pool.running))
        pool.stop()
        return ExperimentStatus.INTERRUPTED

    failed = [outcome for outcome in pool.outcomes if outcome.failed]
    if failed:
        log.error("%d of %d experiments failed:\n%s", len(failed), len(jobs), outcome_table(failed))
        return ExperimentStatus.FAILURE
    log.info("All %d experiments finished", len(jobs))
    return ExperimentStatus.SUCCESS


def _run_jobs(pool: _ProcessPool, jobs: list[_Job], pause_between_sec: float) -> None:
    """Consumes the list of jobs, waits for room in the pool and for the pause; jobs that end unblock it."""
    waiting = list(jobs)
    next_start = 0.0
    while waiting or pool.running:
        pool.collect()
        if waiting and pool.has_room() and time.monotonic() >= next_start:
            pool.start(waiting.pop(0))
            next_start = time.monotonic() + pause_between_sec
            continue
        time.sleep(POLL_INTERVAL_SEC)
