"""The figures of docs/benchmarks/ued.md; needs matplotlib (``pip install -e ".[bench]"``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ued_settings import METHOD_TITLES

_COLORS = {"here": "#1f77b4", "minimax": "#d62728"}
_COLUMNS_SHOWN = 6


def draw_curves(methods: Mapping[str, Any], size: str, window: int, folder: Path) -> list[str]:
    """A PNG per method with all its curves, lines for means and bands from the lowest to the highest seed."""
    try:
        import matplotlib
    except ImportError as error:
        raise SystemExit('The figures need matplotlib: pip install -e ".[bench]", or run with --no_figures') from error
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for method, result in methods.items():
        curves = result["curves"]
        num_rows = -(-len(curves) // _COLUMNS_SHOWN)
        num_columns = -(-len(curves) // num_rows)
        figure, axes = plt.subplots(num_rows, num_columns, figsize=(2.6 * num_columns, 2.3 * num_rows), squeeze=False)
        for axis in axes.flat[len(curves) :]:
            axis.set_visible(False)
        for axis, curve in zip(axes.flat, curves, strict=False):
            _draw_curve(axis, curve, window)
        seeds = result["seeds"]
        axes[0][0].legend(fontsize=7)
        title = f"{METHOD_TITLES[method]}, size {size}: {seeds['here']} seeds here, {seeds['minimax']} of minimax"
        figure.suptitle(title, fontsize=10)
        figure.tight_layout()
        names.append(f"ued_{size}_{method}.png")
        figure.savefig(folder / names[-1], dpi=90, metadata={"Software": None})
        plt.close(figure)
    return names


def _draw_curve(axis: Any, curve: Mapping[str, Any], window: int) -> None:
    for side, color in _COLORS.items():
        values = _array(curve[side])
        updates = window * (np.arange(values.shape[1]) + 0.5)
        axis.plot(updates, values.mean(axis=0), color=color, label=side)
        if len(values) > 1:
            axis.fill_between(updates, values.min(axis=0), values.max(axis=0), color=color, alpha=0.2, linewidth=0)
    axis.set_title(curve["column"], fontsize=8)
    axis.set_xlabel("updates", fontsize=7)
    axis.tick_params(labelsize=7)


def _array(curves: Sequence[Sequence[float | None]]) -> Any:
    return np.array([[np.nan if value is None else value for value in curve] for curve in curves], dtype=float)
