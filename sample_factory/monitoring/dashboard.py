"""Views of a running training: a live terminal panel, or plain lines.

Both are fed with `RunSnapshot`s. The log file gets the same progress lines in both cases.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import time
from typing import TYPE_CHECKING, Any, TextIO

from sample_factory.monitoring.console_lines import fps_line, reward_line
from sample_factory.monitoring.snapshot import RunSnapshot
from sample_factory.utils.introspection import is_module_available
from sample_factory.utils.live_log import LiveLogReceiver
from sample_factory.utils.logging import ConsoleHandler, log

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.panel import Panel

UI_CHOICES = ("auto", "rich", "plain", "none")
REFRESH_PER_SECOND = 2

_LEVEL_STYLES = ((logging.CRITICAL, "white on red"), (logging.ERROR, "bold red"), (logging.WARNING, "yellow"))


def progress_lines(snapshot: RunSnapshot) -> list[str]:
    """The lines of one report; none before every policy has reported."""
    if not snapshot.env_steps:
        return []
    lines = [fps_line(snapshot.fps, snapshot.total_frames, snapshot.throughput, snapshot.samples, snapshot.policy_lag)]
    if snapshot.rewards is not None:
        lines.append(reward_line(snapshot.rewards))
    return lines


class PlainView:
    """Prints the progress lines through the logger."""

    def start(self) -> None:
        """Nothing to prepare."""

    def update(self, snapshot: RunSnapshot) -> None:
        """Log one report at level DEBUG."""
        for line in progress_lines(snapshot):
            log.debug(line)

    def finish(self, snapshot: RunSnapshot) -> None:
        """Nothing to leave on the screen: the log ends with lines of its own."""

    def stop(self) -> None:
        """Nothing to clean up."""


class SilentView(PlainView):
    """Lines for the log file alone (`ui="none"`): the runner keeps everything below warnings off the console."""


class LiveView:
    """A panel at the bottom of the terminal; log lines of all processes of the run scroll above it."""

    def __init__(self, stream: TextIO | None = None, console: Console | None = None) -> None:
        self._stream = stream
        self._console = console
        self._live: Live | None = None
        self._snapshot: RunSnapshot | None = None
        self._updated_at = 0.0
        self._replaced_handlers: list[logging.Handler] = []
        self._log_handler = _AboveThePanel(self)
        self._receiver = LiveLogReceiver(self.print_log_line)

    def start(self) -> None:
        """Show the panel (empty until the first update) and take over the log lines meant for this terminal."""
        if self._live is not None:
            return
        from rich.console import Console
        from rich.live import Live

        if self._console is None:
            self._console = Console(file=self._stream or sys.stderr, highlight=False)
        self._live = Live(
            console=self._console,
            get_renderable=self._render,
            refresh_per_second=REFRESH_PER_SECOND,
            vertical_overflow="ellipsis",
        )
        self._take_over_log()
        self._live.start()
        self._receiver.start()
        atexit.register(self.stop)  # a crash must not leave the terminal without a cursor

    def update(self, snapshot: RunSnapshot) -> None:
        """Show this report; its plain lines go to the log file only."""
        self._take(snapshot)
        for line in progress_lines(snapshot):
            log.debug(line, extra={"shown_in_panel": True})
        if self._live is not None:
            self._live.refresh()

    def finish(self, snapshot: RunSnapshot) -> None:
        """What `stop` leaves on the screen."""
        self._take(snapshot)

    def _take(self, snapshot: RunSnapshot) -> None:
        self._snapshot = snapshot
        self._updated_at = time.monotonic()

    def stop(self) -> None:
        """Leave the last panel on the screen and give the terminal back; may be called repeatedly."""
        live, self._live = self._live, None
        if live is None:
            return
        self._receiver.stop()
        live.stop()
        self._give_back_log()
        atexit.unregister(self.stop)

    def print_log_line(self, level: int, text: str) -> None:
        """Print one log line above the panel."""
        from rich.text import Text

        style = next((style for limit, style in _LEVEL_STYLES if level >= limit), "")
        if self._console is not None:
            self._console.print(Text(text, style=style), soft_wrap=True)

    def _render(self) -> Panel | str:
        from sample_factory.monitoring.panel import render_panel

        if self._snapshot is None:
            return ""
        return render_panel(self._snapshot, extra_sec=time.monotonic() - self._updated_at)

    def _take_over_log(self) -> None:
        # A redirected stderr stays redirected: only handlers that write to a terminal move to the panel's console.
        replaced = [h for h in log.handlers if isinstance(h, ConsoleHandler) and _is_terminal(h.stream)]
        self._replaced_handlers = list(replaced)
        if replaced:
            self._log_handler.setFormatter(replaced[0].formatter)
            self._log_handler.setLevel(replaced[0].level)
            log.addHandler(self._log_handler)
        for handler in replaced:
            log.removeHandler(handler)

    def _give_back_log(self) -> None:
        log.removeHandler(self._log_handler)
        for handler in self._replaced_handlers:
            log.addHandler(handler)
        self._replaced_handlers = []


class _AboveThePanel(logging.Handler):
    """Routes the records of this process to the live view."""

    def __init__(self, view: LiveView) -> None:
        super().__init__()
        self._view = view

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "shown_in_panel", False):
            return
        try:
            self._view.print_log_line(record.levelno, self.format(record))
        except Exception:
            self.handleError(record)


def make_view(ui: str = "auto", stream: Any = None) -> LiveView | PlainView:
    """The view for `ui`: "rich" (live panel), "plain" (log lines), "none", or "auto".

    "auto" means the panel on a terminal (`stream`, default stderr) when rich is installed, plain lines otherwise.
    """
    if ui not in UI_CHOICES:
        raise ValueError(f"--ui={ui!r} is unknown, use one of {', '.join(UI_CHOICES)}")
    if ui == "none":
        return SilentView()
    if ui == "plain":
        return PlainView()

    stream = stream or sys.stderr
    if not is_module_available("rich"):
        if ui == "rich":
            raise ValueError("--ui=rich needs the package rich: pip install rich, or use --ui=plain")
        return PlainView()
    if ui == "auto" and not _is_terminal(stream):
        return PlainView()
    return LiveView(stream)


def _is_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty()) and os.environ.get("TERM") != "dumb"
    except (AttributeError, ValueError):  # not a file, or closed
        return False
