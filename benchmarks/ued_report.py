"""docs/benchmarks/ued.md and its figures from the result files in benchmarks/results/ued.

python -m benchmarks.ued_report
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from benchmarks.results_io import REPOSITORY, read_results
from benchmarks.ued_curves import MAX_DIVISIONS
from benchmarks.ued_figures import draw_curves
from benchmarks.ued_parity import last_value
from benchmarks.ued_reference import EARLY_DR, PANEL_RATES, early_dr_window
from benchmarks.ued_runs import RESULTS_DIR
from benchmarks.ued_settings import METHOD_TITLES, SIZES

Result = Mapping[str, Any]

_HEADER = """# Unsupervised environment design

Written by `python -m benchmarks.ued_report` from `benchmarks/results/ued`; do not edit. Compared with is minimax
(`minimax-lib==0.2.0` with JAX 0.4.31 on the CPU) in an environment of its own. `make bench-ued` makes that
environment and runs all of this; `python -m benchmarks.ued_learning --full` trains the shipped configurations for
30,000 updates.
"""

_CURVES = """Both sides run the same flags, this project with `--ued_compat=minimax`. Random numbers differ, so curves
are compared as distributions over seeds: means over {window} updates, their mean distance in standard deviations of a
seed (gap), and the share p of all ways to divide the same runs into two sides that give a gap as large (permutation
test of whole curves; of {divisions:,} ways where there are more). Below 0.05 a curve counts as apart; of curves of
equal programs, one in twenty does. Fewer than four seeds per side cannot tell. "First" is the first update, before
anything was learned.
"""

_SIZE = (
    "{num_levels} levels, {num_steps} steps, mazes of {side}x{side} tiles with {num_walls} walls, LSTM of {hidden}, "
    "at most {episode_steps} steps per episode."
)


def main(argv: list[str] | None = None) -> int:
    """Write the page and its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS_DIR, help="folder of the result files")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "docs" / "benchmarks", help="folder of the page")
    parser.add_argument("--no_figures", action="store_true", help="only the page; does not need matplotlib")
    args = parser.parse_args(argv)
    results = read_results(args.results)
    figures: list[str] = []
    for name, result in results.items():
        if name.startswith("parity_") and not args.no_figures:
            figures += draw_curves(result["methods"], result["size"], result["window"], args.out)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "ued.md"
    path.write_text(page(results, figures))
    print(path)
    return 0


def page(results: Mapping[str, Result], figures: Sequence[str] = ()) -> str:
    """The whole page; ``figures`` are names of image files beside it, "ued_<size>_<method>.png"."""
    parity = [results[name] for name in ("parity_full", "parity_small") if name in results]
    sections = [
        _HEADER,
        _section("Speed", speed_section(results)),
        _section("Learning curves next to minimax", curves_section(parity, figures)),
        _section("Curricula next to random levels", learning_section(results.get("learning_small"))),
        _section("Solved rates after 30,000 updates", full_section(results.get("learning_full"))),
        _conditions(results),
    ]
    return "\n".join(section for section in sections if section)


def speed_section(results: Mapping[str, Result]) -> str:
    """A row per workload and number of threads, and one per workload and number of levels on a GPU."""
    rows, on_gpu = [], []
    for name, result in results.items():
        if not name.startswith("speed_"):
            continue
        for row in result["rows"]:
            if result.get("device") == "cuda":
                on_gpu.append(_gpu_row(result, row))
                continue
            ratio = _spread(row["ratio_median"], row["ratio_min"], row["ratio_max"])
            cpu = _spread(row["cpu_ratio"], row["cpu_ratio_min"], row["cpu_ratio_max"])
            cost = f"{row['cpu_sec_per_cycle_ours']:.2f} / {row['cpu_sec_per_cycle_original']:.2f}"
            speeds = (f"{row['ours']:,.0f}", f"{row['original']:,.0f}")
            rows.append((row["label"], result["size"], row["threads"], *speeds, ratio, cpu, cost, row["asked"] or ""))
    if not rows:
        return ""
    text = (
        "Steps of all students per second, with the same flags and the fixed behaviour (no `--ued_compat`). The "
        "programs run in turns on one machine, each paused while the other is measured, after compilation; ratios "
        "are of neighbouring slices: median, smallest and largest. The machine is shared with other work, which "
        "takes from the clock of both; ratios of processor time depend on it less. minimax uses all cores it finds, "
        "as does a run here whose operations have two threads (`--n_threads=2`), which next to other work is far "
        "slower; by default its threads share the rows of recurrent networks instead, and rollouts measure every now "
        "and then whether their largest product is faster with a second one.\n\n"
    )
    header = ("what", "size", "threads here", "here", "minimax", "ratio", "of CPU time", "CPU s per cycle", "aim")
    return text + _table(header, rows) + _gpu_section(on_gpu)


def _gpu_row(result: Result, row: Mapping[str, Any]) -> tuple[str, ...]:
    ratio = _spread(row["ratio_median"], row["ratio_min"], row["ratio_max"])
    speeds = (f"{row['ours']:,.0f}", f"{row['original']:,.0f}")
    return (row["label"], result["size"], str(result["num_levels"]), *speeds, ratio, row["asked"] or "")


def _gpu_section(rows: Sequence[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    text = (
        "\nOn a GPU (NVIDIA H100), both programs in turns on the same one; minimax with JAX 0.11 "
        "(`benchmarks/newer_jax`) and TensorFlow Probability 0.25. Here rollouts and optimiser steps are CUDA graphs "
        "(`--cuda_graphs`).\n\n"
    )
    return text + _table(("what", "size", "levels", "here", "minimax", "ratio", "aim"), sorted(rows, key=_levels))


def _levels(row: tuple[str, ...]) -> tuple[str, int]:
    return row[0], int(row[2])


def curves_section(parity: Sequence[Result], figures: Sequence[str]) -> str:
    """Tables and figures of both sizes."""
    if not parity:
        return ""
    parts = [_CURVES.format(window=parity[0]["window"], divisions=MAX_DIVISIONS)]
    for result in parity:
        parts.append(f"### Size {result['size']}\n")
        parts.append(_SIZE.format(**vars(SIZES[result["size"]])) + "\n")
        for method, compared in result["methods"].items():
            seeds = compared["seeds"]
            about = f"{compared['updates']} updates, {seeds['here']} seeds here, {seeds['minimax']} of minimax"
            parts.append(f"**{METHOD_TITLES[method]}**: {about}.\n")
            name = f"ued_{result['size']}_{method}.png"
            parts += [f"![{METHOD_TITLES[method]}]({name})\n"] if name in figures else []
            parts.append(curve_table(compared["curves"]))
            if result["size"] == "full" and method == "dr":
                parts.append(early_table(compared))
    return "\n".join(parts)


def curve_table(curves: Sequence[Result]) -> str:
    """First and last values of both sides and the verdict."""
    rows = []
    for curve in curves:
        firsts = [_short(curve["first"][side]) for side in ("here", "minimax")]
        lasts = [_short(last_value(curve[side])) for side in ("here", "minimax")]
        test = [_short(curve["gap"], ".2f"), _short(curve["p"], ".2f")]
        rows.append((f"`{curve['column']}`", *firsts, *lasts, *test, curve["verdict"]))
    names = ("first, here", "minimax", "last ten, here", "minimax", "gap", "p")
    return _table(("curve", *names, "verdict"), rows)


def early_table(compared: Result) -> str:
    """The longest run here beside a record of minimax of which only means were kept."""
    columns = ("return", "entropy", "value_loss", "grad_norm", "mean_value")
    longest = compared["longest_here"]
    rows = []
    for first, values in EARLY_DR.items():
        window = early_dr_window(first)
        if window < len(longest["return"]):
            cells = [f"{longest[name][window]:.4g} / {value:g}" for name, value in zip(columns, values, strict=True)]
            rows.append((f"{first}-{first + 9}", *cells))
    text = (
        "The longest run here beside an earlier run of minimax with the same flags, of which means over ten updates "
        "were kept, one seed each (here / minimax):\n\n"
    )
    return text + _table(("updates", *columns), rows)


def learning_section(result: Result | None) -> str:
    """Solved rates of the small setting by seed."""
    if result is None:
        return ""
    runs = result["runs"]
    base = {run["seed"]: run for run in runs if run["method"] == "dr"}
    rows = []
    for method in dict.fromkeys(run["method"] for run in runs):
        own = [run for run in runs if run["method"] == method]
        cells = [_by_seed([run[kind] for run in own]) for kind in ("perfect", "random")]
        above = sum(run["perfect"] > base[run["seed"]]["perfect"] for run in own if run["seed"] in base)
        wins = "" if method == "dr" else f"{above} of {len(own)}"
        steps = [f"{fmean(run[kind] for run in own) / 1e6:.2f} M" for kind in ("steps", "mutation_steps")]
        rows.append((METHOD_TITLES[method], *cells, wins, *steps))
    header = ("method", "perfect mazes", "random mazes", "above DR", "steps", "steps on mutants")
    return f"{_LEARNING.format(updates=result['updates'])}\n{_table(header, rows)}"


_LEARNING = """All methods draw random levels from one generator: 9x9 tiles, 60 wall draws with replacement, so that
about half of the tiles are walls, most levels cannot be solved and most others are short. Solved rates are of
{updates} updates, 3 episodes with sampled actions on each of 200 held-out perfect mazes (one way to the goal, at
least 8 moves long), and of 200 random levels of the generator that can be solved; both sets are fixed. Mean and
deviation over seeds, the seeds in brackets. Methods have the same number of updates; cycles without an update cost
further steps. After the first seed had been seen, the step limit of the held-out mazes was raised from 60 to the 242
that belong to their size, and episodes were reduced from 5 to 3; the order of the methods was the same with both. On
random mazes PLR is above random levels in one seed of three. (`python -m benchmarks.ued_learning`)
"""


def full_section(result: Result | None) -> str:
    """Published rates, and own ones beside them where they were trained."""
    own: dict[str, list[float]] = {}
    for run in result["runs"] if result else ():
        own.setdefault(run["method"], []).append(run["panel"])
    rows = []
    for method, (title, mean, deviation) in PANEL_RATES.items():
        cell = _by_seed(own[method]) if method in own else "not trained"
        rows.append((title, f"{mean:.2f} +- {deviation:.2f}", cell))
    text = (
        "Reference: mean solved rate over the twelve test mazes and ten runs, LSTM, as quoted from version 3 of the "
        "paper of minimax (arXiv 2311.12716) by a third party. `python -m benchmarks.ued_learning --full` makes the "
        "column beside it.\n\n"
    )
    return text + _table(("method", "minimax", "here"), rows)


def _by_seed(values: Sequence[float]) -> str:
    return f"{fmean(values):.3f} +- {pstdev(values):.3f} ({', '.join(f'{value:.3f}' for value in values)})"


def _spread(middle: float, low: float, high: float) -> str:
    return f"**{middle:.2f}x** [{low:.2f}, {high:.2f}]"


def _short(value: float | None, how: str = ".4g") -> str:
    return "" if value is None else format(value, how)


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body.strip()}\n" if body else ""


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def _conditions(results: Mapping[str, Result]) -> str:
    if not results:
        return "No results yet.\n"
    machine = next(iter(results.values()))["machine"]
    lines = [f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, Python {machine['python']}, "]
    lines.append(f"PyTorch {machine['versions']['torch']}, shared with other work.\n\n")
    rows = [(name, r["date"], r["commit"], f"`{r['command']}`") for name, r in results.items()]
    return f"## Conditions\n\n{''.join(lines)}{_table(('result', 'date', 'commit', 'command'), rows)}"


if __name__ == "__main__":
    sys.exit(main())
