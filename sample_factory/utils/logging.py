"""The logger of the project: coloured console lines and one file per experiment.

Only the logger named "rl" gets handlers; the root logger and the loggers of the user's program stay as they are.
"""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from os.path import abspath, join
from typing import Any, TextIO

from sample_factory.utils.live_log import send_to_live_view
from sample_factory.utils.paths import experiment_dir
from sample_factory.utils.typing import Config

LOG_FORMAT = "[%(asctime)s][%(process)05d] %(message)s"
LOG_FILE_NAME = "sf_log.txt"

_RESET = "\033[0m"
_COLORS = {
    logging.DEBUG: "\033[36m",
    logging.INFO: "\033[37m\033[1m",
    logging.WARNING: "\033[33m",
    logging.ERROR: "\033[31m\033[1m",
    logging.CRITICAL: "\033[31m\033[47m",
}


class ConsoleHandler(logging.StreamHandler):
    """Writes to the current `sys.stderr`, in colour when that is a terminal.

    The stream is looked up for each record because test runners, notebooks and daemons replace `sys.stderr`.
    """

    def __init__(self) -> None:
        self._explicit_stream: TextIO | None = None
        super().__init__()
        self._explicit_stream = None  # the base class has just stored the stream of this moment

    @property
    def stream(self) -> Any:
        return self._explicit_stream or sys.stderr

    @stream.setter
    def stream(self, value: TextIO | None) -> None:
        self._explicit_stream = value

    def emit(self, record: logging.LogRecord) -> None:
        # In a worker process of a run with a live view, the view prints the line: writing to the terminal from here
        # would tear the panel.
        if not send_to_live_view(record.levelno, logging.StreamHandler.format(self, record)):
            super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        color = _COLORS.get(record.levelno, "") if stream_has_colors(self.stream) else ""
        return f"{color}{text}{_RESET}" if color else text


class ExperimentFileHandler(logging.handlers.WatchedFileHandler):
    """Appends to `sf_log.txt` of the experiment; every process of the run has its own handler on the same file.

    A full disk or a lost folder never reaches who logs: one warning on the console, lines are dropped, and the file is
    tried again every `RETRY_SEC` seconds. A file that was moved or deleted is created anew.
    """

    RETRY_SEC = 10.0

    def __init__(self, path: str) -> None:
        super().__init__(path, encoding="utf-8", delay=True)
        self._retry_at: float | None = None
        self._num_lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        if self._retry_at is not None and time.monotonic() < self._retry_at:
            self._num_lost += 1
            return
        try:
            super().emit(record)
        except OSError:  # the file cannot be opened
            self.handleError(record)
            return
        if self._retry_at is not None and self.stream is not None:
            num_lost, self._retry_at, self._num_lost = self._num_lost, None, 0
            log.info("%s can be written again, %d lines are missing in it", self.baseFilename, num_lost)

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        is_first = self._retry_at is None
        self._retry_at = time.monotonic() + self.RETRY_SEC
        self._num_lost += 1
        stream, self.stream = self.stream, None  # type: ignore[assignment]
        with contextlib.suppress(OSError):
            if stream is not None:
                stream.close()  # together with what it could not write
        if is_first:
            log.warning("%s cannot be written at the moment, lines are dropped: %s", self.baseFilename, error)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            super().close()


def stream_has_colors(stream: Any) -> bool:
    """True for terminals; the environment variables NO_COLOR and FORCE_COLOR decide when set."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):  # no such method, or the stream is closed
        return False


def _make_logger() -> logging.Logger:
    logger = logging.getLogger("rl")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    if not logger.handlers:  # keep what a program configured before importing us
        handler = ConsoleHandler()
        handler.setFormatter(logging.Formatter(LOG_FORMAT))
        logger.addHandler(handler)
    return logger


log = _make_logger()


def console_level() -> int:
    """The least important level that the console of this process shows."""
    return min(
        (handler.level for handler in log.handlers if isinstance(handler, ConsoleHandler)), default=logging.NOTSET
    )


def set_console_level(level: int) -> None:
    """Show only lines of this level and above on the console; log files and handlers of the user's program get all."""
    for handler in log.handlers:
        if isinstance(handler, ConsoleHandler):
            handler.setLevel(level)


@contextlib.contextmanager
def quiet_console(is_quiet: bool) -> Iterator[None]:
    """Within it only warnings and errors reach the console, if ``is_quiet``. Worker processes started here follow."""
    before = console_level()
    if is_quiet:
        set_console_level(logging.WARNING)
    try:
        yield
    finally:
        set_console_level(before)


def has_file_handler() -> bool:
    """True when log lines of this process also go to the file of an experiment."""
    return any(isinstance(handler, ExperimentFileHandler) for handler in log.handlers)


def init_file_logger(cfg: Config) -> None:
    """Append the log lines of this process to `sf_log.txt` of the experiment, unless `cfg.log_to_file` is False.

    Calling it again (next experiment in the same process, or the directory was recreated) replaces the file handler.
    """
    if not getattr(cfg, "log_to_file", True):
        return
    close_file_logger()
    handler = ExperimentFileHandler(abspath(join(experiment_dir(cfg), LOG_FILE_NAME)))
    handler.setFormatter(logging.Formatter(LOG_FORMAT))
    log.addHandler(handler)


def close_file_logger() -> None:
    """Detach and close the experiment's log file (handlers added by the user's program are left alone)."""
    for handler in [h for h in log.handlers if isinstance(h, ExperimentFileHandler)]:
        log.removeHandler(handler)
        handler.close()


_num_calls: Counter[str] = Counter()


def log_every_n(n: int, level: int, msg: str, *args: Any, **kwargs: Any) -> None:
    """Log calls 0, n, 2n... of the same unformatted message, with the number of calls so far."""
    count = _num_calls[msg]
    _num_calls[msg] += 1
    if count % n == 0:
        log.log(level, f"{msg} ({count} times)" if count > 1 else msg, *args, **kwargs)


def debug_log_every_n(n: int, msg: str, *args: Any, **kwargs: Any) -> None:
    """`log_every_n` at level DEBUG."""
    log_every_n(n, logging.DEBUG, msg, *args, **kwargs)
