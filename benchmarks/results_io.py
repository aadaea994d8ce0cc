"""The one format of all throughput results: a file per benchmark in benchmarks/results/throughput.

    {"name": str, "machine": {...}, "command": str, "commit": str, "date": str, "rows": [Row, ...]}

Written by `write_result`, read by the report. A row compares one figure of ours with the same figure of an opponent.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS_DIR = REPOSITORY / "benchmarks" / "results" / "throughput"

_PACKAGES = ("torch", "numpy", "gymnasium", "faster-fifo", "signal-slot-mp", "ale-py")


@dataclass
class Row:
    """One figure, here and at an opponent.

    Ratios are oriented so that larger is better for us (throughput: ours / original; costs: original / ours). They are
    None where there is no opponent. `asked` is the figure the project sets itself, as text ("8x"); `extra` holds
    anything else the benchmark knows (JSON values only).
    """

    label: str
    ours: float
    unit: str
    original: float | None = None
    ratio_median: float | None = None
    ratio_min: float | None = None
    ratio_max: float | None = None
    asked: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)


def paired_row(label: str, ours: Sequence[float], original: Sequence[float], unit: str, **kw: Any) -> Row:
    """A row from interleaved runs: medians of both sides, and median, minimum and maximum of the ratios of pairs.

    Larger is better by default; pass `lower_is_better=True` for costs. Raises ValueError for no or unequal numbers.
    """
    lower_is_better = kw.pop("lower_is_better", False)
    if not ours or len(ours) != len(original):
        raise ValueError(f"{label}: {len(ours)} runs of ours and {len(original)} of the original are no pairs")
    pairs = list(zip(ours, original, strict=True))
    ratios = [b / a for a, b in pairs] if lower_is_better else [a / b for a, b in pairs]
    return Row(
        label,
        statistics.median(ours),
        unit,
        statistics.median(original),
        statistics.median(ratios),
        min(ratios),
        max(ratios),
        **kw,
    )


def machine_info() -> dict[str, Any]:
    """Processor, cores, memory, interpreter and versions of the packages that matter, of this process."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count() or 1,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version for name in _PACKAGES if (version := _version(name))},
    }


def git_commit() -> str:
    """The commit of the working tree, with a plus sign if tracked files differ from it."""
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True)
    if done.returncode != 0:
        return "unknown"
    is_clean = subprocess.run(["git", "diff", "--quiet", "HEAD"], cwd=REPOSITORY).returncode == 0
    return done.stdout.strip() + ("" if is_clean else "+")


def own_command() -> str:
    """How this program was started, for the record."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = ["-m", spec.name] if spec is not None else sys.argv[:1]
    return shlex.join(["python", *program, *map(portable, sys.argv[1:])])


def portable(argument: str) -> str:
    """A command-line argument without the folders that only this machine has.

    Of absolute paths, also as values of flags, what is inside of the repository remains; of others, interpreters of
    virtual environments above all, the last three parts.
    """
    flag, equals, value = argument.rpartition("=")
    path = Path(value)
    if not path.is_absolute():
        return argument
    short = path.relative_to(REPOSITORY) if path.is_relative_to(REPOSITORY) else Path(*path.parts[1:][-3:])
    return f"{flag}{equals}{short}"


def write_result(
    name: str, rows: Sequence[Row], folder: Path = RESULTS_DIR, command: str | None = None, **more: Any
) -> Path:
    """Write `<folder>/<name>.json` in one go; `more` are further JSON values of the benchmark."""
    result = {
        "name": name,
        "machine": machine_info(),
        "command": command if command is not None else own_command(),
        "commit": git_commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        "rows": [_row_dict(row) for row in rows],
        **more,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=2) + "\n")
    temporary.replace(path)
    return path


def read_results(folder: Path = RESULTS_DIR) -> dict[str, dict[str, Any]]:
    """All results by name."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return {result["name"]: result for result in found}


def _row_dict(row: Row) -> dict[str, Any]:
    values = asdict(row)
    extra = values.pop("extra")
    return {**values, **extra}


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
