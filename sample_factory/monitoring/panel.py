"""Builds the live panel from a snapshot. Needs `rich`; import it only when a live view is wanted."""

from __future__ import annotations

import math

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sample_factory.monitoring.console_lines import duration
from sample_factory.monitoring.snapshot import PolicyLag, RunSnapshot

MAX_POLICY_ROWS = 8
MAX_TIME_ROWS = 6
LABEL_STYLE = "grey62"
VALUE_STYLE = "bold"
ALARM_STYLE = "bold red"
FACT_GAP = "   "
MIN_WIDTH_FOR_COLUMNS = 68
ACCENT_STYLE = "cyan"


def render_panel(snapshot: RunSnapshot, extra_sec: float = 0.0) -> Panel:
    """The whole panel; `extra_sec` is the time that passed since the snapshot was taken."""
    sections: list[RenderableType] = [_progress(snapshot, extra_sec), _speed(snapshot), Text()]
    sections.extend([_SideBySide(_policies(snapshot), _time_spent(snapshot)), Text(), _health(snapshot)])
    for line in snapshot.log_lines:
        sections.append(Text(line, style=LABEL_STYLE, no_wrap=True, overflow="ellipsis"))

    title = Text("Sample Factory  ", style=f"bold {ACCENT_STYLE}", no_wrap=True, overflow="ellipsis")
    title.append(snapshot.experiment, style="bold white")
    subtitle = Text(snapshot.message, style="yellow", no_wrap=True, overflow="ellipsis") if snapshot.message else None
    return Panel(
        Group(*sections),
        title=title,
        title_align="left",
        subtitle=subtitle,
        subtitle_align="left",
        border_style=ACCENT_STYLE,
        box=box.ROUNDED,
        padding=(0, 1),
    )


class _Facts:
    """Label-value pairs in a row; lines break between pairs, never inside one."""

    def __init__(self, facts: list[Text]) -> None:
        self._facts = facts

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        line = Text()
        for fact in self._facts:
            if line.cell_len and line.cell_len + len(FACT_GAP) + fact.cell_len > options.max_width:
                yield line
                line = Text()
            if line.cell_len:
                line.append(FACT_GAP)
            line.append_text(fact)
        yield line


class _SideBySide:
    """Two renderables next to each other, or stacked on a narrow terminal."""

    def __init__(self, left: RenderableType, right: RenderableType) -> None:
        self._left = left
        self._right = right

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if options.max_width < MIN_WIDTH_FOR_COLUMNS:
            yield from (self._left, self._right)
            return
        columns = Table.grid(expand=True, padding=(0, 3, 0, 0))
        columns.add_column(ratio=5)
        columns.add_column(ratio=4)
        columns.add_row(self._left, self._right)
        yield columns


def _fact(label: str, value: str, style: str = VALUE_STYLE) -> Text:
    text = Text(f"{label} ", style=LABEL_STYLE)
    text.append(value, style=style)
    return text


def _progress(snapshot: RunSnapshot, extra_sec: float) -> RenderableType:
    grid = Table.grid(expand=True, padding=(0, 2, 0, 0))
    elapsed = _fact("elapsed", duration(snapshot.elapsed_sec + extra_sec))
    if snapshot.percent is None:
        grid.add_column(ratio=1)
        grid.add_row(elapsed)
        return grid

    percent = min(max(snapshot.percent, 0.0), 100.0)
    eta = "--" if snapshot.eta_sec is None else duration(snapshot.eta_sec - extra_sec)
    grid.add_column(ratio=1)
    for _ in range(3):
        grid.add_column(no_wrap=True, justify="right")
    bar = ProgressBar(total=100.0, completed=percent, complete_style=ACCENT_STYLE, finished_style="green")
    grid.add_row(bar, Text(f"{percent:.1f}%", style=VALUE_STYLE), _fact("ETA", eta), elapsed)
    return grid


def _speed(snapshot: RunSnapshot) -> _Facts:
    frames = f"{snapshot.total_frames:,}"
    if snapshot.target_frames:
        frames += f" / {_short(snapshot.target_frames)}"
    windows = [f"{value:,.0f} ({_window(window)})" for window, value in snapshot.fps if math.isfinite(value)]
    return _Facts([_fact("frames", frames), _fact("FPS", "  ".join(windows) or "--")])


def _window(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _short(number: float) -> str:
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= limit:
            return f"{number / limit:.4g}{suffix}"
    return f"{number:.4g}"


def _policies(snapshot: RunSnapshot) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style=LABEL_STYLE, pad_edge=False)
    for header in ("policy", "reward", "env steps", "samples/s"):
        table.add_column(header, justify="right", no_wrap=True)

    rewards = snapshot.rewards or {}
    policy_ids = sorted({*snapshot.env_steps, *rewards, *snapshot.throughput})
    # With a large population the best policies are the interesting ones.
    shown = sorted(policy_ids, key=lambda p: -rewards.get(p, float("-inf")))[:MAX_POLICY_ROWS]
    for policy_id in sorted(shown):
        reward = f"{rewards[policy_id]:,.3f}" if policy_id in rewards else "--"
        steps = f"{snapshot.env_steps[policy_id]:,}" if policy_id in snapshot.env_steps else "--"
        rate = f"{snapshot.throughput[policy_id]:,.0f}" if policy_id in snapshot.throughput else "--"
        table.add_row(str(policy_id), Text(reward, style="bold green"), steps, rate)
    if not policy_ids:
        return Text("waiting for the first reports", style=LABEL_STYLE)
    hidden = len(policy_ids) - len(shown)
    return Group(table, Text(f"... and {hidden} more policies", style=LABEL_STYLE)) if hidden else table


def _time_spent(snapshot: RunSnapshot) -> RenderableType:
    spent = {name: value for name, value in snapshot.time_spent.items() if value > 0}
    if not spent:
        return Text()
    # Fractions are shown as they are, seconds relative to their sum.
    total = max(sum(spent.values()), 1.0) if max(spent.values()) <= 1.0 else sum(spent.values())
    table = Table(box=None, padding=(0, 1, 0, 0), header_style=LABEL_STYLE, pad_edge=False, expand=True)
    table.add_column("time goes to", no_wrap=True, overflow="ellipsis", max_width=16)
    table.add_column("", ratio=1)
    table.add_column("", justify="right", no_wrap=True)
    for name, value in sorted(spent.items(), key=lambda item: -item[1])[:MAX_TIME_ROWS]:
        bar = ProgressBar(total=total, completed=value, complete_style=ACCENT_STYLE, finished_style=ACCENT_STYLE)
        table.add_row(name, bar, f"{100 * value / total:.0f}%")
    return table


def _health(snapshot: RunSnapshot) -> _Facts:
    facts = []
    if snapshot.best_reward is not None:
        facts.append(_fact("best reward", f"{snapshot.best_reward:,.3f}"))
    if snapshot.episode_length is not None:
        facts.append(_fact("episode length", f"{snapshot.episode_length:,.1f}"))
    facts.append(_fact("policy lag", _lag(snapshot.policy_lag)))
    facts.append(_fact("samples", f"{snapshot.samples:,}"))
    if snapshot.workers_total:
        style = ALARM_STYLE if snapshot.workers_alive < snapshot.workers_total else VALUE_STYLE
        facts.append(_fact("workers", f"{snapshot.workers_alive}/{snapshot.workers_total}", style))
    if snapshot.cpu_percent is not None:
        facts.append(_fact("CPU", f"{snapshot.cpu_percent:.0f}%"))
    if snapshot.ram_mb is not None:
        facts.append(_fact("RAM", f"{snapshot.ram_mb / 1024:.1f} GB"))
    return _Facts(facts)


def _lag(lag: PolicyLag) -> str:
    return "--" if lag.max < 0 else f"{lag.min:.0f} / {lag.avg:.1f} / {lag.max:.0f}"
