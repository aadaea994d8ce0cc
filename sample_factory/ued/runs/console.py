"""A logged row as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sample_factory.ued.runs.csv_log import TIME


def format_number(value: Any) -> str:
    """Three significant digits; integers whole; nothing for missing values."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, float):
        return str(value)
    return f"{value:.3g}"


def box(rows: Sequence[tuple[str, str]]) -> str:
    """Two columns in a frame."""
    left = max((len(name) for name, _ in rows), default=0)
    right = max((len(value) for _, value in rows), default=0)
    edge = f"+{'-' * (left + 2)}+{'-' * (right + 2)}+"
    return "\n".join([edge, *(f"| {name:<{left}} | {value:>{right}} |" for name, value in rows), edge])


def row_box(row: Mapping[str, Any]) -> str:
    """A logged row; empty cells and the time, of which three digits say nothing, are left out."""
    return box([(name, format_number(value)) for name, value in row.items() if value is not None and name != TIME])
