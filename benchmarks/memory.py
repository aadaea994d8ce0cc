"""Memory of a run that trains, beside the original: same program, same flags, same moment.

    python -m benchmarks.memory --original=/path/to/python

``--original`` is the Python of an environment that has ``sample-factory==2.1.1`` installed. Some seconds after the
first training report, read from the kernel: private memory of the rollout workers (pages nobody else has), the
proportional share of all processes together, and the memory in use that was made to be shared. MB are 10^6 bytes.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.process_tree import ProcessTree, descendants, memory_of
from benchmarks.results_io import REPOSITORY, Row, paired_row, write_result
from benchmarks.startup import COMMON, ENVIRON, ORDINARY, SCRIPT

ENDLESS = (*COMMON, "--save_every_sec=100000", "--train_for_env_steps=10000000000")
# One environment object of 64 agents per split, and as many agents as ordinary environments.
VECTOR = ("--env=vector_CartPole-v1", "--batched_sampling=True", "--num_envs_per_worker=1", "--worker_num_splits=1")
CASES = {
    "vector environment, 1 worker": (*VECTOR, "--num_workers=1"),
    "ordinary environments, 2 workers": (*ORDINARY, "--num_envs_per_worker=32", "--num_workers=2"),
    "ordinary environments, 16 workers": (*ORDINARY, "--num_workers=16"),
}
ASKED_OF_WORKER = "<= 40 MB"
_WORKER = re.compile(r"(?:ROLLOUT worker|Worker) \d+(?: started, process|\s+pid)\s+(\d+)")
_INFERENCE = re.compile(r"InferenceWorker_p\d+-w\d+(?: started, process|\s+pid)\s+(\d+)")
_FRAMES = re.compile(r"Total num frames: (\d+)\.")
_TAIL_LINES = 40


@dataclass(frozen=True)
class Memory:
    """MB of 10^6 bytes. Private memory: median of the rollout workers; all inference workers, 0 without processes."""

    worker_mb: float
    inference_mb: float
    pss_mb: float
    shm_mb: float
    num_processes: int


def measure(command: Sequence[str], folder: str, extra_env: dict[str, str], args: argparse.Namespace) -> Memory:
    """:raises RuntimeError: no training report within the time limit."""
    env = {**os.environ, **ENVIRON, "FIRST_STEP_MARK": str(Path(folder) / "first_step"), **extra_env}
    tree = ProcessTree(command, folder, env)
    watchdog = threading.Timer(args.timeout, tree.process.kill)
    watchdog.start()
    workers: list[int] = []
    inference_workers: list[int] = []
    tail: list[str] = []
    try:
        for line in tree.lines():
            tail = [*tail[-_TAIL_LINES:], line]
            if found := _WORKER.search(line):
                workers.append(int(found[1]))
            elif found := _INFERENCE.search(line):
                inference_workers.append(int(found[1]))
            elif (found := _FRAMES.search(line)) and int(found[1]) > 0:
                time.sleep(args.settle)
                return _memory_now(workers, inference_workers)
        raise RuntimeError(f"{command[0]}: no training report:\n{''.join(tail)}")
    finally:
        watchdog.cancel()
        tree.kill()


def _memory_now(workers: Sequence[int], inference_workers: Sequence[int]) -> Memory:
    everything = [memory_of(process.pid) for process in descendants(os.getpid())]
    return Memory(
        worker_mb=statistics.median(memory_of(pid).private_mb for pid in workers),
        inference_mb=sum(memory_of(pid).private_mb for pid in inference_workers),
        pss_mb=sum(use.pss_mb for use in everything),
        shm_mb=sum(use.shm_mb for use in everything),
        num_processes=len(everything),
    )


def measure_case(args: argparse.Namespace, name: str) -> list[Row]:
    sides: list[list[Memory]] = [[], []]
    for pair in range(args.pairs):
        for side, (python, extra_env) in enumerate(
            ((args.original, {"PYTHONPATH": ""}), (sys.executable, {"PYTHONPATH": str(REPOSITORY)}))
        ):
            with tempfile.TemporaryDirectory() as folder:
                flags = [*ENDLESS, *CASES[name], f"--seed={pair}", f"--train_dir={folder}", "--experiment=run"]
                sides[side].append(measure([python, str(SCRIPT), *flags], folder, extra_env, args))
        print(f"{name}: original {sides[0][-1]}\n{name}: ours     {sides[1][-1]}", flush=True)
    original, ours = sides
    asked = ASKED_OF_WORKER if name.startswith("vector") else None

    def row(label: str, field: str, asked: str | None = None) -> Row:
        values = [[float(getattr(memory, field)) for memory in side] for side in (ours, original)]
        return paired_row(f"{name}: {label}", *values, "MB", lower_is_better=True, asked=asked)

    return [
        row("private memory of a rollout worker", "worker_mb", asked),
        row("share of all processes together", "pss_mb"),
        row("shared memory", "shm_mb"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--original", required=True, help="Python that has sample-factory 2.1.1 installed")
    parser.add_argument("--cases", nargs="+", choices=sorted(CASES), default=list(CASES))
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--settle", type=float, default=8.0, help="seconds between the first report and the reading")
    parser.add_argument("--timeout", type=float, default=240.0, help="seconds a run may take")
    parser.add_argument("--no_write", action="store_true", help="print only")
    args = parser.parse_args()
    rows = [row for name in args.cases for row in measure_case(args, name)]
    if not args.no_write:
        print(write_result("memory", rows))


if __name__ == "__main__":
    main()
