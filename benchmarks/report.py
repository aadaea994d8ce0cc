"""docs/benchmarks/throughput.md and its figures from the result files in benchmarks/results/throughput.

python -m benchmarks.report
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.report_figures import draw_figures
from benchmarks.results_io import REPOSITORY, RESULTS_DIR, read_results
from benchmarks.workloads import COMMON, WORKLOADS, result_names

Result = dict[str, Any]
ResultRow = dict[str, Any]

_HEADER = """# Throughput

Written by `python -m benchmarks.report` from `benchmarks/results/throughput`; do not edit. "Original" is
`sample-factory==2.1.1`. Both sides run the same flags, the same environments and the same PyTorch on the same machine,
in turns; a ratio is the median over pairs of neighbouring runs, with the smallest and the largest in brackets. Ratios
above one are better: more frames per second, fewer seconds, less memory. Frames are steps of agents. Runs count from
their first report on, without the first quarter. One thread per process (`OMP_NUM_THREADS=1`) unless a row says
otherwise.

The tables were measured at different times, partly with other settings, on a machine whose speed varies: one and the
same workload, W1 for instance, has other frame rates in each of them. Only ratios within a table compare.
"""

# Results that are not workloads, in the order of the page, with what they are about.
_OTHERS = {
    "learner_step": ("Learner alone", "SGD steps on prepared batches, nothing else running."),
    "startup": ("Start-up", "From the start of the program to the first SGD step."),
    "memory": ("Memory", "Memory of processes, shared pages divided among their users."),
    "inference_latency": ("Acting", "Time of one answer of the policy."),
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS_DIR, help="folder of the result files")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "docs" / "benchmarks", help="folder of the page")
    parser.add_argument("--no_figures", action="store_true", help="only the page; does not need matplotlib")
    args = parser.parse_args(argv)
    results = read_results(args.results)
    figures = [] if args.no_figures else draw_figures(results, args.out)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "throughput.md"
    path.write_text(page(results, figures))
    print(path)
    return 0


def page(results: Mapping[str, Result], figures: Sequence[str] = ()) -> str:
    """The whole page; `figures` are names of image files beside it, "throughput_<section>.png"."""
    workloads = {name: results[name] for name in result_names() if name in results}
    sections = [
        _HEADER,
        _section("Next to the original", workload_table(workloads), "throughput_ratios.png", figures),
        _section("Part of what the machine can do", limit_table(workloads), "throughput_limits.png", figures),
        _section("Next to other libraries", peer_table(results.get("peers")), "throughput_peers.png", figures),
        _section("Workers and environments", scaling_table(results.get("scaling")), "throughput_scaling.png", figures),
    ]
    for name in [*_OTHERS, *sorted(set(results) - set(workloads) - set(_OTHERS) - {"peers", "scaling"})]:
        if name in results:
            title, text = _OTHERS.get(name, (name.replace("_", " ").capitalize(), ""))
            sections.append(_section(title, f"{text}\n\n{generic_table(results[name]['rows'])}".strip(), "", figures))
    sections += [_section("Equal work", equality_table(workloads), "", figures), _conditions(results)]
    return "\n".join(section for section in sections if section)


def workload_table(workloads: Mapping[str, Result]) -> str:
    """Frames per second of both sides, the ratio, and ratios of CPU time and memory."""
    header = ("workload", "what", "original", "here", "ratio", "aim", "CPU time", "memory")
    rows = []
    for result in workloads.values():
        for row in result["rows"]:
            speeds = (_number(row["original"]), _number(row["ours"]))
            costs = (_times(row.get("cpu_ratio")), _times(row.get("pss_ratio")))
            what = row.get("description", "")
            rows.append((row["label"], what, *speeds, _ratio(row), row.get("asked") or "", *costs))
    return _table(header, rows)


def limit_table(workloads: Mapping[str, Result]) -> str:
    """How near both sides come to the limits of the machine, measured in the same minute."""
    header = (
        "workload",
        "env",
        "forward",
        "learner",
        "limit",
        "here",
        "original",
        "aim",
        "of pure simulation",
        "useful CPU",
    )
    rows = []
    for row in _rows_with(workloads.values(), "limit"):
        parts = [f"{row[f'limit_{part}_us']:.3g} us" for part in ("env_cpu", "forward", "learn")]
        pure = _percent(row["simulation_fraction_ours"]) if WORKLOADS[row["workload"]].has_pure_simulation else ""
        fractions = (_percent(row["fraction_ours"]), _percent(row["fraction_original"]))
        aim, useful = _percent(row.get("asked_fraction")), _percent(row.get("useful_cpu_ours"))
        rows.append((row["label"], *parts, _number(row["limit"]), *fractions, aim, pure, useful))
    if not rows:
        return ""
    text = (
        "The limit has no framework in it: `cores / (environment + forward pass + epochs x learner)`, in CPU time per "
        "frame, measured between the runs with the fastest of this project's model and the same network in bare "
        "PyTorch and NumPy (`python -m benchmarks.limits`). It is at most pure simulation: workers that step their "
        "environments with random actions and do nothing else. Serial mode has one core. Useful CPU is the "
        "part of our CPU time that goes to these three.\n\n"
        "Shares above 100 % show how uncertain these numbers are: limits are medians of samples of two seconds, taken "
        "between the runs. Where environments sleep for uneven times (W2_lognormal), such a sample is off by "
        "some percent, and so is a run of half a minute, which counts frames in whole training iterations of almost "
        "two seconds. No run is really faster than its environments.\n\n"
    )
    return text + _table(header, rows)


def peer_table(peers: Result | None) -> str:
    """Rows "W1 / peer"."""
    if peers is None:
        return ""
    rows = [
        (
            r["label"],
            _number(r["original"]),
            _number(r["ours"]),
            _ratio(r),
            r.get("asked") or "",
            _times(r["cpu_ratio"]),
        )
        for r in peers["rows"]
    ]
    notes = "".join(f"\n{note}." for note in peers.get("notes", []))
    return _table(("ours / peer", "peer", "here", "ratio", "aim", "CPU time"), rows) + notes


def scaling_table(scaling: Result | None) -> str:
    """A row per point."""
    if scaling is None:
        return ""
    has_original = any(row["original"] for row in scaling["rows"])
    header = ("point", "here", "original", "ratio") if has_original else ("point", "here")
    rows = [
        (row["label"], _number(row["ours"]), _number(row["original"]), _ratio(row))[: len(header)]
        for row in scaling["rows"]
    ]
    return _table(header, rows)


def generic_table(rows: Sequence[ResultRow]) -> str:
    """Any result in the common format."""
    header = ("what", "original", "here", "unit", "ratio", "aim")
    return _table(
        header,
        [
            (r["label"], _number(r.get("original")), _number(r["ours"]), r["unit"], _ratio(r), r.get("asked") or "")
            for r in rows
        ],
    )


def equality_table(workloads: Mapping[str, Result]) -> str:
    """Policy lag and rewards: speed must not come from doing something else."""
    rows = [
        (
            row["label"],
            _plain(row["policy_lag_ours"]),
            _plain(row["policy_lag_original"]),
            _plain(row["reward_ours"]),
            _plain(row["reward_original"]),
        )
        for row in _rows_with(workloads.values(), "policy_lag_ours")
    ]
    header = ("workload", "lag, here", "lag, original", "reward, here", "reward, original")
    text = (
        "Mean policy lag in SGD steps and the mean episode reward at the end of the run. The faster side has seen more "
        "frames by then. Weights change while a rollout is collected, and the n steps on the one before are made "
        "meanwhile: a lag of n - 1/2 is that of a sampler and a learner that never wait for each other. The original "
        "is below it where its learner waits for its sampler.\n\n"
    )
    return text + _table(header, rows) if rows else ""


def _section(title: str, body: str, figure: str, figures: Sequence[str]) -> str:
    if not body:
        return ""
    picture = f"![{title}]({figure})\n\n" if figure in figures else ""
    return f"## {title}\n\n{picture}{body.strip()}\n"


def _conditions(results: Mapping[str, Result]) -> str:
    if not results:
        return "No results yet.\n"
    machines = sorted({_machine(result["machine"]) for result in results.values()})
    dates = sorted(result["date"] for result in results.values())
    lines = ["## Conditions\n", f"Machine: {'; '.join(machines)}. Measured {dates[0]} to {dates[-1]}.\n"]
    lines.append("| result | commit | command |\n|---|---|---|")
    lines += [f"| {name} | {result['commit']} | `{result['command']}` |" for name, result in results.items()]
    lines.append(f"\nCommon flags: `{' '.join(COMMON)}`. Flags of the workloads:\n")
    lines += [f"- {name}: `{' '.join(WORKLOADS[name].flags)}`" for name in WORKLOADS if name in results]
    return "\n".join(lines) + "\n"


def _machine(machine: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return f"{machine['cores']} cores of {machine['cpu']}, Python {machine['python']}, {versions}"


def _rows_with(results: Iterable[Result], key: str) -> list[ResultRow]:
    return [row for result in results for row in result["rows"] if key in row]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _ratio(row: ResultRow) -> str:
    if row.get("ratio_median") is None:
        return ""
    return f"**{row['ratio_median']:.2f}x** ({row['ratio_min']:.2f} - {row['ratio_max']:.2f})"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}x"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


if __name__ == "__main__":
    sys.exit(main())
