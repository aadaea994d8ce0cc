"""The figures of docs/benchmarks/throughput.md; needs matplotlib (``pip install -e ".[bench]"``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.workloads import WORKLOADS

_OURS, _ORIGINAL, _AIM = "#1f77b4", "#b0b0b0", "#d62728"
_LABELS = {
    "num_workers": "workers (32 environments each)",
    "num_envs_per_worker": "environments per worker (2 workers)",
}


def draw_figures(results: Mapping[str, Any], folder: Path) -> list[str]:
    """Write a PNG for every kind of result that is there; returns their names."""
    try:
        import matplotlib
    except ImportError as error:
        raise SystemExit('The figures need matplotlib: pip install -e ".[bench]", or run with --no_figures') from error
    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    rows = [row for name in WORKLOADS if name in results for row in results[name]["rows"]]
    figures = {
        "throughput_ratios.png": _ratios(rows),
        "throughput_limits.png": _limits([row for row in rows if "fraction_ours" in row]),
        "throughput_peers.png": _peers(results["peers"]["rows"] if "peers" in results else []),
        "throughput_scaling.png": _scaling(results["scaling"]["rows"] if "scaling" in results else []),
    }
    written = []
    for name, figure in figures.items():
        if figure is not None:
            figure.savefig(folder / name, dpi=110, metadata={"Software": None})
            written.append(name)
    return written


def _ratios(rows: Sequence[Mapping[str, Any]]) -> Any:
    if not rows:
        return None
    figure, axes = _bars(len(rows), "frames per second, this project / original")
    for idx, row in enumerate(reversed(rows)):
        spread = [[row["ratio_median"] - row["ratio_min"]], [row["ratio_max"] - row["ratio_median"]]]
        axes.barh(idx, row["ratio_median"], color=_OURS, xerr=spread, capsize=3, label="measured" if idx == 0 else None)
        axes.annotate(
            f"{row['ratio_median']:.1f}x", (row["ratio_max"], idx), xytext=(5, -4), textcoords="offset points"
        )
        if row.get("asked"):
            aim = float(row["asked"].rstrip("x"))
            axes.plot([aim, aim], [idx - 0.4, idx + 0.4], color=_AIM, linewidth=2, label="aim" if idx == 0 else None)
    axes.axvline(1.0, color="black", linewidth=1)
    _finish_bars(axes, [row["label"] for row in reversed(rows)])
    return figure


def _limits(rows: Sequence[Mapping[str, Any]]) -> Any:
    if not rows:
        return None
    figure, axes = _bars(len(rows), "share of what the machine can do without a framework (%)")
    for idx, row in enumerate(reversed(rows)):
        first = idx == 0
        axes.barh(idx + 0.2, 100 * row["fraction_ours"], 0.38, color=_OURS, label="this project" if first else None)
        axes.barh(idx - 0.2, 100 * row["fraction_original"], 0.38, color=_ORIGINAL, label="original" if first else None)
        if row.get("asked_fraction"):
            aim = 100 * row["asked_fraction"]
            axes.plot([aim, aim], [idx - 0.4, idx + 0.4], color=_AIM, linewidth=2)
    axes.axvline(100.0, color="black", linewidth=1)
    _finish_bars(axes, [row["label"] for row in reversed(rows)])
    return figure


def _peers(rows: Sequence[Mapping[str, Any]]) -> Any:
    if not rows:
        return None
    figure, axes = _bars(len(rows), "frames per second, this project / peer")
    for idx, row in enumerate(reversed(rows)):
        axes.barh(idx, row["ratio_median"], color=_OURS, label="measured" if idx == 0 else None)
        axes.annotate(
            f"{row['ratio_median']:.1f}x", (row["ratio_median"], idx), xytext=(5, -4), textcoords="offset points"
        )
        if row.get("asked"):
            aim = float(row["asked"].rstrip("x"))
            axes.plot([aim, aim], [idx - 0.4, idx + 0.4], color=_AIM, linewidth=2)
    axes.axvline(1.0, color="black", linewidth=1)
    _finish_bars(axes, [row["label"] for row in reversed(rows)])
    return figure


def _scaling(rows: Sequence[Mapping[str, Any]]) -> Any:
    if not rows:
        return None
    from matplotlib.figure import Figure

    axis_names = list(dict.fromkeys(row["axis"] for row in rows))
    workloads = list(dict.fromkeys(row["workload"] for row in rows))
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    for column, axis_name in enumerate(axis_names):
        axes = figure.add_subplot(1, len(axis_names), column + 1)
        for workload, marker in zip(workloads, "os^vD", strict=False):
            chosen = [row for row in rows if row["axis"] == axis_name and row["workload"] == workload]
            values = [row["value"] for row in chosen]
            axes.plot(values, [row["ours"] for row in chosen], marker=marker, color=_OURS, label=f"{workload}, here")
            if all(row["original"] for row in chosen):
                originals = [row["original"] for row in chosen]
                axes.plot(values, originals, marker=marker, color=_ORIGINAL, label=f"{workload}, original")
        axes.set_xscale("log", base=2)
        axes.set_xticks(values, [str(value) for value in values])
        axes.set_xlabel(_LABELS.get(axis_name, axis_name))
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        if column == 0:
            axes.set_ylabel("frames per second")
            axes.legend(fontsize=8)
    return figure


def _bars(num_rows: int, label: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.2 + 0.42 * num_rows), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(label)
    axes.grid(axis="x", alpha=0.3)
    return figure, axes


def _finish_bars(axes: Any, labels: Sequence[str]) -> None:
    axes.set_yticks(range(len(labels)), labels)
    axes.margins(x=0.12)
    axes.legend(loc="lower right", fontsize=8)
