"""Starting the ranks of a run and watching over them: if one dies, all end."""

from __future__ import annotations

import multiprocessing
import os
import pprint
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sample_factory.algo.runners.experiment_dir import ExperimentInUseError
from sample_factory.algo.runners.termination import TerminationSignals
from sample_factory.algo.utils.child_process import die_with_parent
from sample_factory.algo.utils.misc import ExperimentStatus
from sample_factory.algo.utils.row_threads import set_row_threads
from sample_factory.algo.utils.thread_counts import (
    MAX_THREADS,
    num_row_threads,
    num_threads_from_environment,
    num_usable_cores,
)
from sample_factory.algo.utils.torch_utils import keep_freed_memory
from sample_factory.cfg.errors import ConfigError
from sample_factory.ued.config.checks import USAGE_ERROR, remarks_on
from sample_factory.ued.config.nested import Config
from sample_factory.ued.config.train_args import TrainArgs, import_module
from sample_factory.ued.rollout_threads import set_rollout_threads
from sample_factory.ued.runs import level_grids, run_directory
from sample_factory.ued.runs.assembly import device_of, make_parts
from sample_factory.ued.runs.meta import masked
from sample_factory.ued.runs.preflight import as_wrong_flags, check_run
from sample_factory.ued.runs.ranks import Ranks
from sample_factory.ued.runs.training import Training
from sample_factory.utils.checkpoint_files import CheckpointError
from sample_factory.utils.logging import log
from sample_factory.utils.standard_streams import survive_lost_output
from sample_factory.utils.typing import StatusCode

_POLL_SEC = 0.2
_GRACE_SEC = 5.0
# Of a rank with wrong flags. Its partners may wait for it, unlike for one that was interrupted, whose code is also 2.
_RANK_USAGE_ERROR = 64

USER_ERRORS = (ValueError, CheckpointError, ExperimentInUseError)
"""Errors that a message without traceback explains."""


def run_training(args: TrainArgs) -> StatusCode:
    """Train in this process, or in ``--n_devices`` child processes; returns the exit code. ConfigError for flags that
    cannot work here.
    """
    check_run(args.config)
    for remark in remarks_on(args.values):
        log.warning(remark)
    if args.config.n_devices == 1:
        return run_rank(args.config, Ranks(), init_file="")
    with tempfile.TemporaryDirectory(prefix="ued_ranks_") as folder:
        meeting_point = str(Path(folder) / "meeting_point")
        return _supervise(args.config, meeting_point)


def run_rank(config: Config, ranks: Ranks, init_file: str) -> StatusCode:
    """The part of one rank, in this process."""
    use_threads(config)
    device = device_of(config, ranks.rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        keep_freed_memory()
    with as_wrong_flags():
        parts = make_parts(config, ranks, device)
        if config.level_grid_interval:
            level_grids.check_can_draw(parts.curriculum)
    directory = run_directory.run_directory(config)
    with as_wrong_flags():
        lock = run_directory.lock(directory) if ranks.is_main else None
    if ranks.is_main:  # only now, so that errors of flags are not at the end of a long list
        print(pprint.pformat(masked(config), indent=4), flush=True)
    ranks.connect(init_file, device)
    try:
        with TerminationSignals() as signals:
            return Training(config, parts, ranks, directory, signals).run()
    finally:
        ranks.disconnect()
        if lock is not None:
            lock.release()


class Threads(NamedTuple):
    """Of torch's operations in a rank; sharing the rows of recurrent networks; the most for products in rollouts."""

    of_operations: int
    sharing_rows: int
    of_products: int


def use_threads(config: Config) -> None:
    """Set the threads of this rank, see :func:`num_threads`."""
    threads = num_threads(config, num_usable_cores())
    torch.set_num_threads(threads.of_operations)
    set_row_threads(threads.sharing_rows)
    set_rollout_threads(threads.of_products)


def num_threads(config: Config, usable_cores: int) -> Threads:
    """How many threads a rank uses.

    ``--n_threads`` or ``OMP_NUM_THREADS`` are about those of operations, and then there are no others. Otherwise the
    rank uses its share of all cores but one: the threads of an operation wait for the slowest, and one that has to
    share its core makes an update many times slower. If that is a single thread, rows are shared by as many as there
    are cores, and rollouts measure whether that many threads are of use, see :mod:`rollout_threads`.
    """
    asked = config.n_threads or num_threads_from_environment()
    if asked:
        return Threads(int(asked), 1, 1)
    of_operations = max(1, min((usable_cores - 1) // config.n_devices, MAX_THREADS))
    if of_operations > 1:
        return Threads(of_operations, 1, 1)
    sharing = num_row_threads(usable_cores, config.n_devices)
    return Threads(1, sharing, sharing)


def _supervise(config: Config, meeting_point: str) -> StatusCode:
    """Start all ranks, pass signals on, and end them all as soon as one has died."""
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=_child, args=(config.plain(), rank, meeting_point), name=f"rank {rank}", daemon=True)
        for rank in range(config.n_devices)
    ]
    with TerminationSignals() as signals:
        try:
            for process in processes:
                process.start()
            dead = _wait_for(processes, signals)
            if dead is not None:
                processes[0].join(_GRACE_SEC)  # it explains errors that all ranks have
        finally:
            _end_all(processes)
    if signals.kill_requested():
        return signals.status()
    if dead is not None and dead.exitcode == _RANK_USAGE_ERROR:
        return USAGE_ERROR
    if dead is not None and not (signals.stop_requested() and dead.exitcode == -signal.SIGTERM):
        log.error("%s of the run ended with exit code %s; the others were stopped", dead.name, dead.exitcode)
        return ExperimentStatus.FAILURE
    if signals.stop_requested():
        return signals.status()
    # A rank that a signal was sent to knows which one; the others only know that they are to stop.
    return max(process.exitcode or ExperimentStatus.SUCCESS for process in processes)


def _wait_for(processes: Sequence[BaseProcess], signals: TerminationSignals) -> BaseProcess | None:
    """Until all ranks have ended; at once with the first one that died."""
    passed_on = False
    running = list(processes)
    while running:
        wait([process.sentinel for process in running], timeout=_POLL_SEC)
        for process in [p for p in running if p.exitcode is not None]:
            running.remove(process)
            if _has_died(process):
                return process
        if signals.stop_requested() and not passed_on:
            passed_on = True
            for process in running:
                process.terminate()  # a rank saves and ends in an orderly way
                assert process.pid is not None
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGCONT)  # also if somebody has stopped it
    return None


def _has_died(process: BaseProcess) -> bool:
    """Whether it ended in another way than by itself or on request."""
    assert process.exitcode is not None
    return process.exitcode < 0 or process.exitcode in (ExperimentStatus.FAILURE, _RANK_USAGE_ERROR)


def _end_all(processes: Sequence[BaseProcess]) -> None:
    # Ranks whose partner is gone may be inside a collective operation, where they notice nothing.
    for process in processes:
        if process.is_alive():
            process.kill()
    for process in processes:
        if process.pid is not None:
            process.join(_GRACE_SEC)


def _child(config: dict[str, Any], rank: int, meeting_point: str) -> None:
    die_with_parent()
    survive_lost_output()
    _exit_with(lambda: _run_child(Config.of(config), rank, meeting_point), prints_errors=rank == 0)


def _run_child(config: Config, rank: int, meeting_point: str) -> StatusCode:
    if config.env_module:
        import_module(config.env_module)
    return run_rank(config, Ranks(rank, config.n_devices), meeting_point)


def _exit_with(run: Callable[[], StatusCode], *, prints_errors: bool) -> None:
    """End this process with the exit code of ``run``. Errors of users are the same on all ranks: one reports them."""
    try:
        status = run()
    except USER_ERRORS as exc:
        if prints_errors:
            print(f"error: {exc}", file=sys.stderr, flush=True)
        status = _RANK_USAGE_ERROR if isinstance(exc, ConfigError) else ExperimentStatus.FAILURE
    except BaseException:
        traceback.print_exc()
        status = ExperimentStatus.FAILURE
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(status)
