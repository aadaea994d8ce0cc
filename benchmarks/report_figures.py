"""The figures of docs/benchmarks/throughput.md; needs matplotlib (``pip install -e ".[bench]"``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.workloads import result_names

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
    rows = [row for name in result_names() if name in results for row in results[name]["rows"]]
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
    return _ratio_bars(rows, "frames per second, this project / original") if rows else None


def _peers(rows: Sequence[Mapping[str, Any]]) -> Any:
    return _ratio_bars(rows, "frames per second, this project / peer") if rows else None


def _ratio_bars(rows: Sequence[Mapping[str, Any]], label: str) -> Any:
    figure, axes = _bars(len(rows), label)
    for idx, row in enumerate(reversed(rows)):
        median, low, high = row["ratio_median"], row["ratio_min"], row["ratio_max"]
        spread = [[median - low], [high - median]]
        axes.barh(idx, median, 0.7, color=_OURS, xerr=spread, capsize=3, label="measured: median, smallest, largest")
        axes.annotate(f"{median:.1f}x", (high, idx), xytext=(6, -4), textcoords="offset points")
        _mark_aim(axes, idx, float(row["asked"].rstrip("x")) if row.get("asked") else None)
    _finish_bars(figure, axes, rows, 1.0)
    return figure


def _limits(rows: Sequence[Mapping[str, Any]]) -> Any:
    if not rows:
        return None
    figure, axes = _bars(len(rows), "share of what the machine can do without a framework (%)")
    for idx, row in enumerate(reversed(rows)):
        axes.barh(idx + 0.18, 100 * row["fraction_ours"], 0.34, color=_OURS, label="this project")
        axes.barh(idx - 0.18, 100 * row["fraction_original"], 0.34, color=_ORIGINAL, label="original")
        _mark_aim(axes, idx, 100 * row["asked_fraction"] if row.get("asked_fraction") else None)
    _finish_bars(figure, axes, rows, 100.0)
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


def _mark_aim(axes: Any, idx: int, aim: float | None) -> None:
    if aim is not None:
        axes.plot([aim, aim], [idx - 0.4, idx + 0.4], color=_AIM, linewidth=2, label="aim")


def _finish_bars(figure: Any, axes: Any, rows: Sequence[Mapping[str, Any]], reference: float) -> None:
    """Names of the rows from top to bottom, a line at equality, and each kind of mark once in the legend."""
    axes.axvline(reference, color="black", linewidth=1)
    axes.set_yticks(range(len(rows)), [row["label"] for row in reversed(rows)])
    axes.margins(x=0.12, y=0.02)
    marks = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(marks.values(), marks.keys(), loc="outside upper right", ncols=len(marks), fontsize=8)
