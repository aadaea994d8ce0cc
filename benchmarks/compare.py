"""Throughput side by side with Sample Factory 2: same flags, same environment, interleaved runs, steady state only.

    python -m benchmarks.compare --original=/path/to/python --workloads W1 W1s --pairs=3 --seconds=40

``--original`` is the Python of an environment that has ``sample-factory==2.1.1`` installed; ``--against=FOLDER``
compares with another checkout of this repository instead. Every run is a separate process tree that is killed
``--seconds`` after its first report of frames; original and ours take turns. Frames per second, CPU seconds and policy
lag are those between the first report after a quarter of the run and the last one. Reports come every five seconds, so
a run should not be shorter than 20 seconds; slow workloads run longer than that. ``--save`` writes
benchmarks/results/throughput/<workload>.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.limits import Limits, measure_limits
from benchmarks.measuring import LOCK_HELP, MachineLock, Measurement, TooFewReports, measure, run_length
from benchmarks.results_io import REPOSITORY, Row, git_commit, machine_info, paired_row, write_result
from benchmarks.workloads import EVERY_WORKLOAD, OTHER_THREADS_SUFFIX, Workload, workload_names


@dataclass(frozen=True)
class Side:
    """One of the two programs: an interpreter, and the checkout whose package it is to import (None: its own)."""

    name: str
    python: str
    checkout: Path | None = None
    extra_flags: tuple[str, ...] = ()

    def command(self, workload: Workload, folder: str, seed: int) -> list[str]:
        place = [f"--train_dir={folder}", f"--experiment={self.name}", f"--seed={seed}"]
        script = str(REPOSITORY / "benchmarks" / workload.script)
        return [self.python, script, *workload.arguments, *place, *self.extra_flags]

    def environ(self, omp: str) -> dict[str, str]:
        """PYTHONPATH leads to the checkout and to no other one of this project."""
        env = dict(os.environ)
        paths = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path]
        paths = [path for path in paths if not (Path(path) / "sample_factory").exists()]
        env["PYTHONPATH"] = os.pathsep.join(([str(self.checkout)] if self.checkout else []) + paths)
        env.pop("OMP_NUM_THREADS", None)
        return env if omp == "unset" else env | {"OMP_NUM_THREADS": omp}


@dataclass(frozen=True)
class Pairs:
    """All runs of a workload: ours and the original's of the same index are neighbours in time."""

    workload: Workload
    ours: list[Measurement]
    original: list[Measurement]
    limits: Limits | None

    def row(self) -> Row:
        row = paired_row(
            self.workload.name,
            [run.frames_per_sec for run in self.ours],
            [run.frames_per_sec for run in self.original],
            "frames/s",
            asked=f"{self.workload.asked:g}x" if self.workload.asked else None,
        )
        row.extra = self._extra()
        return row

    def _extra(self) -> dict[str, Any]:
        cpu = _ratio([(a.cpu_sec_per_million, b.cpu_sec_per_million) for a, b in self._neighbours()])
        pss = _ratio([(a.peak_pss_mib, b.peak_pss_mib) for a, b in self._neighbours()])
        extra: dict[str, Any] = {"workload": self.workload.name, "description": self.workload.description}
        extra |= {"cpu_ratio": cpu, "pss_ratio": pss}
        for name in ("policy_lag", "reward", "cpu_sec_per_million", "peak_pss_mib", "cores_busy"):
            for side, runs in (("ours", self.ours), ("original", self.original)):
                values = [getattr(run, name) for run in runs if getattr(run, name) is not None]
                extra[f"{name}_{side}"] = round(statistics.median(values), 3) if values else None
        if self.limits is not None:
            limit = self.limits.of(self.workload)
            extra |= self.limits.as_dict() | {"limit": limit, "asked_fraction": self.workload.asked_fraction}
            for side, runs in (("ours", self.ours), ("original", self.original)):
                fps = statistics.median(run.frames_per_sec for run in runs)
                cpu_us = statistics.median(run.cpu_sec_per_million for run in runs)
                extra[f"useful_cpu_{side}"] = round(self.limits.useful_cpu_us(self.workload) / cpu_us, 3)
                extra[f"fraction_{side}"] = round(fps / limit, 3)
                extra[f"simulation_fraction_{side}"] = round(fps / self.limits.simulation_frames_per_sec, 3)
        return extra

    def _neighbours(self) -> list[tuple[Measurement, Measurement]]:
        return list(zip(self.original, self.ours, strict=True))


def ours_side(extra_flags: Sequence[str] = ()) -> Side:
    """This checkout, with the interpreter that runs this program."""
    return Side("ours", sys.executable, REPOSITORY, ("--ui=plain", *extra_flags))


def interpreter(path: str) -> str:
    """Type of command line options: runs begin in other folders, and links must be kept, so no more than absolute."""
    found = shutil.which(path)
    if found is None:
        raise argparse.ArgumentTypeError(f"no program {path!r}: give the Python of an environment")
    return os.path.abspath(found)


def _ratio(pairs: list[tuple[float, float]]) -> float:
    return round(statistics.median(a / b for a, b in pairs), 3)


def main(argv: list[str] | None = None) -> int:
    args = _parse_args(argv)
    ours = ours_side(shlex.split(args.ours_flags))
    if args.against:
        original = Side("original", sys.executable, Path(args.against).resolve(), ("--ui=plain",))
    else:
        original = Side("original", args.original)
    lock = MachineLock(args.lock)
    results, failed = [], []
    for name in workload_names(args.workloads):
        try:
            pairs = _run_pairs(EVERY_WORKLOAD[name], original, ours, lock, args)
        except TooFewReports as problem:
            print(f"{name}: FAILED: {problem}", flush=True)
            failed.append(name)
            continue
        row = pairs.row()
        result_name = name
        if args.omp != "1":
            result_name, row.label = f"{name}{OTHER_THREADS_SUFFIX}", f"{name}, OMP_NUM_THREADS {args.omp}"
        print(summary(row), flush=True)
        results.append({"name": result_name, "row": {**vars(row)}, "runs": _runs(pairs)})
        if args.save:
            write_result(result_name, [row], runs=_runs(pairs), omp=args.omp)
        if args.json:
            everything = {"machine": machine_info(), "commit": git_commit(), "results": results}
            Path(args.json).write_text(json.dumps(everything, indent=2) + "\n")
    if failed:
        print(f"no result: {' '.join(failed)}")
    return 1 if failed else 0


def _parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--original", type=interpreter, help="Python that has sample-factory 2.1.1 installed")
    parser.add_argument("--against", help="another checkout of this repository to compare with instead")
    parser.add_argument(
        "--workloads", nargs="+", default=["W1"], metavar="NAME", choices=["all", "gpu", *EVERY_WORKLOAD]
    )
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--seconds", type=run_length, default=30.0, help="length of one run after its start-up")
    parser.add_argument("--omp", default="1", help="OMP_NUM_THREADS of both sides, or 'unset'")
    parser.add_argument("--ours_flags", default="", help="flags for our side only, in one string")
    parser.add_argument("--limits", action="store_true", help="also measure what this machine could do at most")
    parser.add_argument("--lock", help=LOCK_HELP)
    parser.add_argument("--json", help="write everything measured to this file")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/throughput/<workload>.json")
    args = parser.parse_args(argv)
    if bool(args.original) == bool(args.against):
        parser.error("say what to compare with: --original=PYTHON or --against=FOLDER")
    if args.save and args.against:
        parser.error("--save stores comparisons with the original: use --json=FILE with --against")
    return args


def _run_pairs(workload: Workload, original: Side, ours: Side, lock: MachineLock, args: argparse.Namespace) -> Pairs:
    pairs = Pairs(workload, [], [], None)
    limits: list[Limits] = []
    for seed in range(args.pairs):
        with lock, tempfile.TemporaryDirectory(prefix="sf_compare_") as folder:
            for side, runs in ((original, pairs.original), (ours, pairs.ours)):
                command = side.command(workload, folder, seed)
                run = measure(command, args.seconds * workload.seconds_factor, folder, side.environ(args.omp))
                runs.append(run)
                print(f"{workload.name} pair {seed} {side.name:8} {measurement_text(run)}", flush=True)
            if args.limits:
                limits.append(measure_limits(workload))
    if not limits:
        return pairs
    return Pairs(workload, pairs.ours, pairs.original, Limits.median(limits))


def measurement_text(run: Measurement) -> str:
    """One run in one line."""
    lag = "-" if run.policy_lag is None else f"{run.policy_lag:.1f}"
    reward = "-" if run.reward is None else f"{run.reward:.1f}"
    return (
        f"{run.frames_per_sec:10,.0f} frames/s, {run.cpu_sec_per_million:8.1f} CPU s per million, "
        f"{run.cores_busy:.2f} cores, {run.peak_pss_mib:.0f} MiB, lag {lag}, reward {reward}"
    )


def summary(row: Row) -> str:
    """The result of a workload in a line or two."""
    extra = row.extra
    text = (
        f"{row.label}: {row.ratio_median:.2f}x frames per second ({row.ratio_min:.2f} to {row.ratio_max:.2f}"
        f"{f', asked {row.asked}' if row.asked else ''}), {extra['cpu_ratio']:.2f}x fewer CPU seconds per frame, "
        f"{extra['pss_ratio']:.2f}x less memory; lag {extra['policy_lag_ours']} (original "
        f"{extra['policy_lag_original']}), reward {extra['reward_ours']} ({extra['reward_original']})"
    )
    if "fraction_ours" in extra:
        text += f"\n{row.label}: {extra['fraction_ours']:.0%} of the limit (original {extra['fraction_original']:.0%})"
        text += f", {extra['useful_cpu_ours']:.0%} of the CPU time useful ({extra['useful_cpu_original']:.0%})"
    if "fraction_ours" in extra and EVERY_WORKLOAD[extra["workload"]].has_pure_simulation:
        ours, original = extra["simulation_fraction_ours"], extra["simulation_fraction_original"]
        text += f", {ours:.0%} of pure simulation ({original:.0%})"
    return text


def _runs(pairs: Pairs) -> dict[str, list[dict[str, Any]]]:
    return {"ours": [run.as_dict() for run in pairs.ours], "original": [run.as_dict() for run in pairs.original]}


if __name__ == "__main__":
    sys.exit(main())
