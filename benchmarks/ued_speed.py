"""How fast is it next to minimax? The same flags on both sides, in turns, one paused while the other is measured.

    python -m benchmarks.ued_speed --minimax=PYTHON                              all workloads at the full size
    python -m benchmarks.ued_speed --minimax=PYTHON --workloads dr --slices=5 --seconds=20
    python -m benchmarks.ued_speed --minimax=PYTHON --device=cuda --num_levels 32 1024    on a GPU

Writes benchmarks/results/ued/speed_<workload>.json. Ratios are of neighbouring slices: of the clock, and of processor
time, which other work on the machine disturbs less. Both are above one where this project is faster.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.results_io import Row, paired_row, write_result
from benchmarks.ued_paused import PausedTraining, Slice
from benchmarks.ued_runs import RESULTS_DIR, minimax, ours
from benchmarks.ued_settings import SIZES, training_flags

_FOREVER = 10**6
_ASKED_ON_GPU = "1x"


@dataclass(frozen=True)
class Workload:
    """What is timed; ``asked`` is the ratio that the project sets itself, ``students`` play in every cycle."""

    title: str
    method: str
    asked: str
    flags: Mapping[str, object] = field(default_factory=dict)
    students: int = 1
    warm_up: int = 6


WORKLOADS = {
    "dr": Workload("DR", "dr", "2x"),
    "plr_update": Workload(
        "robust PLR, cycles with an update", "plr", "2x", {"plr_replay_prob": 1.0, "plr_min_fill_ratio": 0.01}
    ),
    "plr_rollout": Workload("robust PLR, cycles without an update", "plr", "2x", {"plr_replay_prob": 1e-09}),
    "paired": Workload("PAIRED", "paired", "1.5x", students=2, warm_up=3),
}
_THREADS: Mapping[str, int | None] = {"default": None, "1": 1, "2": 2}


def main(argv: list[str] | None = None) -> int:
    """Measure, print, save."""
    args = _parse_args(argv)
    for name in args.workloads:
        for num_levels in args.num_levels:
            used = num_levels or SIZES[args.size].num_levels
            rows = measure_workload(WORKLOADS[name], used, args)
            for row in rows:
                print(describe(row), flush=True)
            place = "" if args.device == "cpu" else f"_{args.device}"
            number = "" if num_levels is None else f"_{num_levels}"
            conditions = {"size": args.size, "device": args.device, "num_levels": used}
            write_result(f"speed_{name}{place}{number}", rows, RESULTS_DIR, **conditions)
    return 0


def _parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minimax", required=True, help="Python interpreter with minimax-lib")
    parser.add_argument(
        "--workloads", nargs="+", choices=sorted(WORKLOADS), default=list(WORKLOADS), help="what to time"
    )
    parser.add_argument("--size", choices=sorted(SIZES), default="full", help="size of runs, see ued_settings")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where both sides compute")
    parser.add_argument("--num_levels", type=int, nargs="+", default=[None], help="levels per cycle, instead of those")
    parser.add_argument("--cache", type=Path, help="folder of programs that JAX has compiled, kept for the next run")
    parser.add_argument("--threads", nargs="+", choices=sorted(_THREADS), default=["default", "1"], help="threads here")
    parser.add_argument("--slices", type=int, default=5, help="slices per side")
    parser.add_argument("--seconds", type=float, default=10.0, help="least length of a slice")
    parser.add_argument("--min_cycles", type=int, default=2, help="least number of cycles of a slice")
    parser.add_argument("--warm_up_sec", type=float, default=3600.0, help="time limit of compiling and warming up")
    return parser.parse_args(argv)


def measure_workload(workload: Workload, num_levels: int, args: argparse.Namespace) -> list[Row]:
    """A row per number of threads of ours."""
    changed = {**workload.flags, "n_parallel": num_levels}
    flags = [*training_flags(workload.method, args.size, _FOREVER, **changed), "--seed=1"]
    steps_per_cycle = num_levels * SIZES[args.size].num_steps * workload.students
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        side = minimax(args.minimax, args.cache or folder / "jax_cache", args.device)
        with PausedTraining(side, flags, folder, "minimax") as original:
            original.warm_up(workload.warm_up, args.warm_up_sec)
            rows = []
            for threads in args.threads:
                here = ours(f"--device={args.device}", num_threads=_THREADS[threads])
                pairs = _compare(workload, PausedTraining(here, flags, folder, f"here_{threads}"), original, args)
                asked = workload.asked if args.device == "cpu" else _ASKED_ON_GPU
                rows.append(speed_row(workload, threads, pairs, steps_per_cycle, asked))
            return rows


def _compare(
    workload: Workload, here: PausedTraining, original: PausedTraining, args: argparse.Namespace
) -> list[tuple[Slice, Slice]]:
    """Slices of both sides, in turns."""
    pairs: list[tuple[Slice, Slice]] = []
    with here:
        here.warm_up(workload.warm_up, args.warm_up_sec)
        for number in range(args.slices):
            first, second = (here, original) if number % 2 == 0 else (original, here)
            measured = {training: training.measure(args.seconds, args.min_cycles) for training in (first, second)}
            pairs.append((measured[here], measured[original]))
    return pairs


def speed_row(
    workload: Workload, threads: str, pairs: list[tuple[Slice, Slice]], steps_per_cycle: int, asked: str
) -> Row:
    """Steps of all students per second of both sides, with ratios of the clock and of processor time."""
    speeds = [[part.cycles * steps_per_cycle / part.wall_sec for part in pair] for pair in pairs]
    costs = [[part.cpu_sec / part.cycles for part in pair] for pair in pairs]
    cpu_ratios = [theirs / own for own, theirs in costs]
    extra: dict[str, Any] = {
        "threads": threads,
        "cpu_ratio": statistics.median(cpu_ratios),
        "cpu_ratio_min": min(cpu_ratios),
        "cpu_ratio_max": max(cpu_ratios),
        "cpu_sec_per_cycle_ours": statistics.median(own for own, _ in costs),
        "cpu_sec_per_cycle_original": statistics.median(theirs for _, theirs in costs),
        "best_ours": max(own for own, _ in speeds),
        "best_original": max(theirs for _, theirs in speeds),
        "slices": [{"ours": asdict(own), "original": asdict(theirs)} for own, theirs in pairs],
    }
    own_speeds, their_speeds = [own for own, _ in speeds], [theirs for _, theirs in speeds]
    return paired_row(workload.title, own_speeds, their_speeds, "steps/s", asked=asked, extra=extra)


def describe(row: Row) -> str:
    """A line for the console."""
    extra = row.extra
    return (
        f"{row.label}, threads {extra['threads']}: {row.ours:,.0f} here, {row.original:,.0f} minimax {row.unit}; "
        f"ratio {row.ratio_median:.2f} ({row.ratio_min:.2f} to {row.ratio_max:.2f}), of CPU time "
        f"{extra['cpu_ratio']:.2f} ({extra['cpu_ratio_min']:.2f} to {extra['cpu_ratio_max']:.2f}); asked {row.asked}"
    )


if __name__ == "__main__":
    sys.exit(main())
