from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sample_factory.utils.attr_dict import AttrDict
from sample_factory.utils.logging import ConsoleHandler, close_file_logger, console_level, quiet_console
from sample_factory.utils.utils import debug_log_every_n, has_file_handler, init_file_logger, log, log_every_n

LINE = re.compile(r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}\]\[\d{5,}\] (.*)")


@pytest.fixture(autouse=True)
def _no_file_handler():
    yield
    close_file_logger()


@pytest.fixture
def messages():
    records: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record.getMessage())

    handler = Collect()
    log.addHandler(handler)
    yield records
    log.removeHandler(handler)


def test_output_right_after_import_and_an_untouched_root_logger():
    program = (
        "import logging; before = list(logging.root.handlers), logging.root.level\n"
        "from sample_factory.utils.utils import log\n"
        "log.info('hello %d', 3)\n"
        "assert (list(logging.root.handlers), logging.root.level) == before\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    last_line = done.stderr.splitlines()[-1]  # old versions of Gymnasium print a notice first
    assert LINE.fullmatch(last_line).group(1) == "hello 3"


def test_the_logger_is_a_plain_logger():
    assert type(log) is logging.Logger
    assert (log.name, log.level, log.propagate) == ("rl", logging.DEBUG, False)


def test_colours_only_where_wanted(capsys, monkeypatch):
    handler = next(h for h in log.handlers if isinstance(h, ConsoleHandler))
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    log.warning("coloured")
    monkeypatch.delenv("FORCE_COLOR")
    log.warning("plain")
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("\033[33m[") and first.endswith("coloured\033[0m")
    assert LINE.fullmatch(second).group(1) == "plain"
    assert handler.stream is sys.stderr


def test_file_logger_appends_without_colours(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    cfg = AttrDict(train_dir=str(tmp_path), experiment="e", log_to_file=True)
    init_file_logger(cfg)
    log.info("one")
    init_file_logger(cfg)  # again in the same process: no duplicate lines
    assert has_file_handler()
    log.info("two")
    lines = (tmp_path / "e" / "sf_log.txt").read_text().splitlines()
    assert [LINE.fullmatch(line).group(1) for line in lines] == ["one", "two"]
    assert f"[{os.getpid():05d}]" in lines[0]


def test_file_logger_moves_to_the_next_experiment(tmp_path: Path):
    for name in ("a", "b"):
        init_file_logger(AttrDict(train_dir=str(tmp_path), experiment=name, log_to_file=True))
        log.info("in %s", name)
    assert "in b" not in (tmp_path / "a" / "sf_log.txt").read_text()
    assert "in b" in (tmp_path / "b" / "sf_log.txt").read_text()


def test_file_logger_can_be_switched_off(tmp_path: Path):
    init_file_logger(AttrDict(train_dir=str(tmp_path), experiment="e", log_to_file=False))
    assert not has_file_handler()
    assert not (tmp_path / "e").exists()


def test_every_n_counts_per_message(messages):
    for i in range(7):
        log_every_n(3, logging.INFO, "every three %d", i)
        debug_log_every_n(100, "every hundred %d", i)
    assert messages == [
        "every three 0",
        "every hundred 0",
        "every three 3 (3 times)",
        "every three 6 (6 times)",
    ]


def test_quiet_console_is_as_before_afterwards(messages, capsys):
    with quiet_console(True):
        with quiet_console(False):  # a run inside of what is quiet already
            log.info("not shown")
        log.error("shown")
    log.info("shown again")
    assert messages == ["not shown", "shown", "shown again"]
    assert [line.partition("] ")[2] for line in capsys.readouterr().err.splitlines()] == ["shown", "shown again"]
    assert console_level() == logging.NOTSET
