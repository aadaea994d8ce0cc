"""Two checkouts of this repository at the same time on the same cores: for differences of a few percent.

    python -m benchmarks.duel --against=FOLDER --workloads W1 W1s --rounds=6 --seconds=40

Whatever else the machine does meets both sides alike, so a round tells more than two runs one after the other (see
``compare``). Serial workloads get one core each, and change places after every round; others share all cores. Reported
is the ratio of frames per second, ours over the other side's; it says nothing about either speed alone.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.results_io import REPOSITORY
from benchmarks.workloads import WORKLOADS, Workload

_RATE = re.compile(r"Fps is \(10 sec: ([\d.]+)")
_NUM_WARM_REPORTS = 1


def start(checkout: Path, workload: Workload, cores: set[int], folder: str, seconds: int) -> subprocess.Popen[str]:
    """A run that ends by itself."""
    command = [sys.executable, str(checkout / "benchmarks" / workload.script), *workload.arguments]
    command += [f"--train_dir={folder}", f"--experiment={checkout.name}", f"--train_for_seconds={seconds}"]
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )


def frames_per_second(output: str) -> float:
    """Mean of the reports after warming up."""
    rates = [float(rate) for rate in _RATE.findall(output)][_NUM_WARM_REPORTS:]
    if not rates:
        raise RuntimeError(f"a run reported no rates:\n{output[-2000:]}")
    return statistics.mean(rates)


def duel(ours: Path, theirs: Path, workload: Workload, turn: int, seconds: int) -> float:
    """Ratio of one round."""
    all_cores = sorted(os.sched_getaffinity(0))
    cores = [{all_cores[0]}, {all_cores[-1]}] if "--serial_mode=True" in workload.flags else [set(all_cores)] * 2
    sides = [ours, theirs] if turn % 2 == 0 else [theirs, ours]
    with tempfile.TemporaryDirectory() as folder:
        runs = [start(side, workload, core, folder, seconds) for side, core in zip(sides, cores, strict=True)]
        rates = {side: frames_per_second(run.communicate()[0]) for side, run in zip(sides, runs, strict=True)}
    return rates[ours] / rates[theirs]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, required=True, help="the other checkout")
    parser.add_argument("--workloads", nargs="+", default=["W1", "W1s"], choices=list(WORKLOADS), metavar="NAME")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=int, default=40, help="length of a run; reports come every five seconds")
    args = parser.parse_args(argv)
    for name in args.workloads:
        ratios = []
        for turn in range(args.rounds):
            ratios.append(duel(REPOSITORY, args.against.resolve(), WORKLOADS[name], turn, args.seconds))
            print(f"{name} round {turn}: {ratios[-1]:.3f}", flush=True)
        spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
        print(
            f"{name}: {statistics.median(ratios):.3f}x frames per second ({spread}), {args.rounds} rounds", flush=True
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
