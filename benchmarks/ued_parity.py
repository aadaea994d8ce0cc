"""Do runs with --ued_compat=minimax learn like minimax? The same flags on both sides, by several seeds.

    python -m benchmarks.ued_parity --minimax=PYTHON                       four methods at the small size
    python -m benchmarks.ued_parity --minimax=PYTHON --size=full --methods dr --seeds=3
    python -m benchmarks.ued_parity --size=small                           compare the runs that are there, run nothing

PYTHON has minimax-lib installed (`make bench-ued` makes that environment). Runs lie in --runs and are not repeated.
Compared are means over ten updates, by a permutation test over seeds; see ued_curves. The result is
benchmarks/results/ued/parity_<size>.json; `python -m benchmarks.ued_report` makes the page and its figures.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results_io import REPOSITORY, write_result
from benchmarks.ued_curves import WINDOW, Array, CurveComparison, compare, windows_of
from benchmarks.ued_runs import LOG_FILE, RESULTS_DIR, Row, minimax, num_updates, ours, read_log, run_if_needed
from benchmarks.ued_settings import METHODS, SIZES, UPDATES, training_flags

DEFAULT_RUNS = REPOSITORY / "train_dir" / "ued_parity"

_STUDENT = ("return", "entropy", "value_loss", "grad_norm")
_BUFFER = ("plr/weighted_ued_score", "plr/weighted_age")
_PAIRED = tuple(
    f"{name}_{agent}" for agent in ("a0", "a1", "tch") for name in ("mean_return", "entropy", "value_loss", "grad_norm")
)
COLUMNS = {
    "dr": (*_STUDENT, "mean_value"),
    "plr": (*_STUDENT, *_BUFFER),
    "accel": (*_STUDENT, *_BUFFER, "plr/weighted_n_mutations"),
    "paired": _PAIRED,
}

Logs = dict[str, list[list[Row]]]


def main(argv: list[str] | None = None) -> int:
    """Run what is missing, compare, print, save."""
    args = _parse_args(argv)
    results = {}
    for method in args.methods:
        updates = args.updates or UPDATES[method]
        logs = _logs(args, method, updates)
        if all(logs.values()):
            results[method] = compare_method(method, logs, updates)
            print("\n".join(report_lines(method, results[method])), flush=True)
    if not results:
        print(f"{args.runs} has no runs of both sides that are finished", file=sys.stderr)
        return 1
    path = write_result(f"parity_{args.size}", (), RESULTS_DIR, size=args.size, window=WINDOW, methods=results)
    print(path)
    return 0


def _parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minimax", help="Python interpreter with minimax-lib; without it nothing is run")
    parser.add_argument("--size", choices=sorted(SIZES), default="small", help="size of runs, see ued_settings")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="what to compare")
    parser.add_argument("--seeds", type=int, default=5, help="seeds per side; 4 is the least that allows a verdict")
    parser.add_argument("--updates", type=int, help="instead of the numbers of updates in ued_settings")
    parser.add_argument("--runs", type=Path, default=DEFAULT_RUNS, help="folder of the runs")
    parser.add_argument("--timeout", type=float, default=14400, help="seconds that one run may take")
    return parser.parse_args(argv)


def _logs(args: argparse.Namespace, method: str, updates: int) -> Logs:
    """Logs of both sides by seed. Sides alternate, so that an interrupted comparison has as many seeds of each."""
    folder = args.runs.expanduser().resolve()
    logs: Logs = {"here": [], "minimax": []}
    for seed in range(1, args.seeds + 1):
        for side in (ours("--ued_compat=minimax"), minimax(args.minimax or "", folder / "jax_cache")):
            name = f"{args.size}-{method}-{side.name}-{seed}"
            flags = [*training_flags(method, args.size, updates), f"--seed={seed}"]
            if args.minimax:
                print(f"{name} ...", file=sys.stderr, flush=True)
                rows = run_if_needed(side, flags, folder, name, updates, args.timeout)
            else:
                rows = read_log(folder / name / LOG_FILE)
            if num_updates(rows) >= updates:
                logs[side.name].append(rows)
    return logs


def compare_method(method: str, logs: Logs, updates: int) -> dict[str, Any]:
    """Everything about one method, as JSON values."""
    curves = []
    for column in COLUMNS[method]:
        sides = {side: np.stack([windows_of(rows, column, updates) for rows in runs]) for side, runs in logs.items()}
        comparison = compare(column, sides["here"], sides["minimax"])
        curves.append(_as_json(comparison, {side: first_value(runs, column) for side, runs in logs.items()}))
    longest = max(logs["here"], key=num_updates)
    to_its_end = {name: _lists(windows_of(longest, name, num_updates(longest))[None])[0] for name in COLUMNS[method]}
    seeds = {side: len(runs) for side, runs in logs.items()}
    return {"updates": updates, "seeds": seeds, "curves": curves, "longest_here": to_its_end}


def first_value(runs: Sequence[Sequence[Row]], column: str) -> float | None:
    """Mean over seeds of the first value of a column that there is: the first update, before anything was learned."""
    firsts = [next((row[column] for row in rows if row[column] is not None), None) for rows in runs]
    known = [value for value in firsts if value is not None]
    return float(np.mean(known)) if known else None


def last_value(curves: Sequence[Sequence[float | None]]) -> float | None:
    """Mean over seeds of the last window."""
    known = [curve[-1] for curve in curves if curve and curve[-1] is not None]
    return float(np.mean(known)) if known else None


def _as_json(comparison: CurveComparison, first: dict[str, float | None]) -> dict[str, Any]:
    return {
        "column": comparison.column,
        "first": first,
        "gap": comparison.gap,
        "p": comparison.p,
        "verdict": comparison.verdict,
        "here": _lists(comparison.here),
        "minimax": _lists(comparison.minimax),
    }


def _lists(curves: Array) -> list[list[float | None]]:
    return [[None if math.isnan(value) else float(f"{value:.6g}") for value in curve] for curve in curves]


def report_lines(method: str, result: dict[str, Any]) -> list[str]:
    """A table for the console."""
    seeds = result["seeds"]
    lines = [f"{method}: {result['updates']} updates, seeds: {seeds['here']} here, {seeds['minimax']} minimax"]
    lines.append(f"  {'curve':26} {'first, here':>12} {'minimax':>12} {'last, here':>12} {'minimax':>12}   gap     p")
    for curve in result["curves"]:
        sides = ("here", "minimax")
        values = [*(curve["first"][side] for side in sides), *(last_value(curve[side]) for side in sides)]
        numbers = "".join(f" {'-' if value is None else format(value, '.5g'):>12}" for value in values)
        gap, p = (f"{'-' if curve[key] is None else format(curve[key], '.2f'):>5}" for key in ("gap", "p"))
        lines.append(f"  {curve['column']:26}{numbers} {gap} {p}  {curve['verdict']}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
