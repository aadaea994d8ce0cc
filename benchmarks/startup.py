"""How long and how much CPU a run takes until it trains, beside the original: same program, same flags, interleaved.

    python -m benchmarks.startup --original=/path/to/python --workers 1 16 --pairs=3

``--original`` is the Python of an environment that has ``sample-factory==2.1.1`` installed. The moments, found in the
same way for both:

- *first environment step*: the environment itself leaves a mark (see ``marked_gym.py``).
- *first SGD step*: runs have ``--train_for_env_steps=1``, so both end as soon as their learner reports trained frames;
  the moment is the first line that says that a component stops or has stopped.
- *exit*: the last process of the tree is gone, counted from the moment before.

CPU seconds are those of the whole tree from the start of the first process to the first SGD step, exact for
short-lived processes, too (see ``process_tree.py``).
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.process_tree import ProcessTree
from benchmarks.results_io import REPOSITORY, Row, paired_row, write_result

SCRIPT = Path(__file__).with_name("marked_gym.py")
COMMON = (
    "--device=cpu",
    "--with_wandb=False",
    "--use_rnn=False",
    "--encoder_mlp_layers",
    "64",
    "64",
    "--async_rl=True",
    "--rollout=32",
    "--batch_size=1024",
    "--num_epochs=1",
)
ORDINARY = ("--env=CartPole-v1", "--batched_sampling=False", "--num_envs_per_worker=2", "--worker_num_splits=2")
FLAGS = (*COMMON, *ORDINARY, "--train_for_env_steps=1")
# Modules are compiled once, as in every installed package; the warm-up run of each side writes what is missing.
ENVIRON = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": ""}
ASKED_OF_CPU = {16: "4x"}
_STOPPING = re.compile(r"\] (Component \S+ stopped|Stopping \S+\.\.\.)")
_TAIL_LINES = 40


@dataclass(frozen=True)
class StartUp:
    """One run. Seconds since the start of the program, but ``exit_sec``: since the first SGD step."""

    first_env_step_sec: float
    first_sgd_step_sec: float
    cpu_sec: float
    exit_sec: float


def measure(command: Sequence[str], folder: str, extra_env: dict[str, str], timeout_sec: float) -> StartUp:
    """:raises RuntimeError: the run failed, did not train, or took longer than the time limit."""
    mark = Path(folder) / "first_step"
    env = {**os.environ, **ENVIRON, "FIRST_STEP_MARK": str(mark), **extra_env}
    tree = ProcessTree(command, folder, env)
    watchdog = threading.Timer(timeout_sec, tree.process.kill)
    watchdog.start()
    moment: tuple[float, float] | None = None
    tail: list[str] = []
    try:
        for line in tree.lines():
            tail = [*tail[-_TAIL_LINES:], line]
            if moment is None and _STOPPING.search(line):
                cpu_sec = tree.cpu_sec()
                moment = time.time(), cpu_sec
        ended_at = tree.wait()
    finally:
        watchdog.cancel()
        tree.kill()
    if moment is None or not mark.exists() or tree.exit_code != 0:
        raise RuntimeError(f"{command[0]}: no complete run (exit code {tree.exit_code}):\n{''.join(tail)}")
    start = tree.started_at
    return StartUp(mark.stat().st_mtime - start, moment[0] - start, moment[1], ended_at - moment[0])


def measure_pair(original: str, flags: Sequence[str], timeout_sec: float) -> tuple[StartUp, StartUp]:
    """The original and ours, one after the other."""
    found = []
    for python, extra_env in ((original, {"PYTHONPATH": ""}), (sys.executable, {"PYTHONPATH": str(REPOSITORY)})):
        with tempfile.TemporaryDirectory() as folder:
            command = [python, str(SCRIPT), *flags, f"--train_dir={folder}", "--experiment=run"]
            found.append(measure(command, folder, extra_env, timeout_sec))
    return found[0], found[1]


FIGURES: tuple[tuple[str, Callable[[StartUp], float]], ...] = (
    ("CPU s to first SGD step", lambda run: run.cpu_sec),
    ("s to first environment step", lambda run: run.first_env_step_sec),
    ("s to first SGD step", lambda run: run.first_sgd_step_sec),
    ("s from stop to exit", lambda run: run.exit_sec),
)


def measure_case(args: argparse.Namespace, num_workers: int, decorrelate: bool) -> list[Row]:
    """Rows of one number of workers."""
    name = f"{num_workers} worker{'s' if num_workers > 1 else ''}{'' if decorrelate else ', no decorrelation'}"
    flags = [*FLAGS, f"--num_workers={num_workers}", f"--decorrelate_envs_on_one_worker={decorrelate}"]
    pairs = []
    for pair in range(args.pairs if decorrelate else 1):
        original, ours = measure_pair(args.original, [*flags, f"--seed={pair}"], args.timeout)
        pairs.append((original, ours))
        print(f"{name}, pair {pair}: original {original}\n{name}, pair {pair}: ours     {ours}", flush=True)
    rows = []
    for position, (figure, value) in enumerate(FIGURES):
        row = paired_row(
            f"{name}: {figure}",
            [value(ours) for _, ours in pairs],
            [value(original) for original, _ in pairs],
            "CPU s" if position == 0 else "s",
            lower_is_better=True,
            asked=ASKED_OF_CPU.get(num_workers) if position == 0 else None,
        )
        rows.append(row)
        print(
            f"{row.label}: {row.ours:.2f}, original {row.original:.2f}, ratio {row.ratio_median:.2f} "
            f"({row.ratio_min:.2f} to {row.ratio_max:.2f})",
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--original", required=True, help="Python that has sample-factory 2.1.1 installed")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--timeout", type=float, default=240.0, help="seconds a run may take")
    parser.add_argument("--no_write", action="store_true", help="print only")
    args = parser.parse_args()

    rows: list[Row] = []
    cases = [(num_workers, True) for num_workers in args.workers] + [(max(args.workers), False)]
    for num_workers, decorrelate in cases:
        rows += measure_case(args, num_workers, decorrelate)
        if not args.no_write:  # after every case: runs take minutes
            print(write_result("startup", rows))


if __name__ == "__main__":
    main()
