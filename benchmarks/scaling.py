"""Throughput over the number of workers and of environments per worker.

    python -m benchmarks.scaling --original=/path/to/python

W1 and W1z_vector with 1, 2 and 4 workers of 32 environments, and with 2 workers of 1, 4, 16 and 64 environments.
Without ``--original`` only ours is measured.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.compare import Side, interpreter, measurement_text, ours_side
from benchmarks.measuring import LOCK_HELP, MachineLock, TooFewReports, measure, run_length
from benchmarks.results_io import Row, paired_row, write_result
from benchmarks.workloads import WORKLOADS, Workload

AXES = {"num_workers": (1, 2, 4), "num_envs_per_worker": (1, 4, 16, 64)}


@dataclass(frozen=True)
class Point:
    """One workload with one number changed."""

    workload: str
    axis: str
    value: int

    @property
    def label(self) -> str:
        return f"{self.workload} {self.axis}={self.value}"

    def changed(self) -> Workload:
        """Later flags win; one environment cannot be split in two groups."""
        flags = [f"--{self.axis}={self.value}"]
        if self.axis == "num_envs_per_worker" and self.value % 2:
            flags.append("--worker_num_splits=1")
        base = WORKLOADS[self.workload]
        return replace(base, name=self.label, flags=(*base.flags, *flags))


def points(workloads: list[str]) -> Iterator[Point]:
    for workload in workloads:
        for axis, values in AXES.items():
            for value in values:
                yield Point(workload, axis, value)


def main(argv: list[str] | None = None) -> int:
    args = _parse_args(argv)
    lock = MachineLock(args.lock)
    sides = ([Side("original", args.original)] if args.original else []) + [ours_side()]
    rows = []
    for point in points(args.workloads):
        speeds: dict[str, list[float]] = {side.name: [] for side in sides}
        for seed in range(args.rounds):
            with lock, tempfile.TemporaryDirectory(prefix="sf_scaling_") as folder:
                for side in sides:
                    command = side.command(point.changed(), folder, seed)
                    try:
                        run = measure(command, args.seconds, folder, side.environ("1"))
                    except TooFewReports as problem:
                        raise SystemExit(f"{point.label}: {problem}") from problem
                    speeds[side.name].append(run.frames_per_sec)
                    print(f"{point.label:36} {side.name:8} {measurement_text(run)}", flush=True)
        rows.append(scaling_row(point, speeds))
    if args.save:
        write_result("scaling", rows)
    return 0


def scaling_row(point: Point, speeds: dict[str, list[float]]) -> Row:
    """One point of a curve from the frames per second of all rounds."""
    extra = {"workload": point.workload, "axis": point.axis, "value": point.value}
    if "original" in speeds:
        return paired_row(point.label, speeds["ours"], speeds["original"], "frames/s", extra=extra)
    return Row(point.label, statistics.median(speeds["ours"]), "frames/s", extra=extra)


def _parse_args(argv: list[str] | None) -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--original", type=interpreter, help="Python that has sample-factory 2.1.1 installed")
    parser.add_argument("--workloads", nargs="+", choices=list(WORKLOADS), default=["W1", "W1z_vector"], metavar="NAME")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seconds", type=run_length, default=20.0, help="length of one run after its start-up")
    parser.add_argument("--lock", help=LOCK_HELP)
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/throughput/scaling.json")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
