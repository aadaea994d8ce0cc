from __future__ import annotations

import dataclasses
import io
import logging
import math
import multiprocessing
import subprocess
import sys

import pytest

from sample_factory.monitoring.dashboard import LiveView, PlainView, SilentView, make_view
from sample_factory.monitoring.snapshot import PolicyLag, RunSnapshot, sample_system_usage
from sample_factory.utils.live_log import LiveLogReceiver, send_to_live_view
from sample_factory.utils.logging import ConsoleHandler, log, quiet_console

rich_console = pytest.importorskip("rich.console")

SNAPSHOT = RunSnapshot(
    experiment="my [bold] experiment",
    elapsed_sec=151.0,
    percent=45.2,
    eta_sec=182.0,
    fps=((10, 14336.0), (60, 13900.0), (300, math.nan)),
    env_steps={0: 4520000, 1: 4410000},
    total_frames=8930000,
    target_frames=20000000,
    rewards={0: 22.6, 1: -1234.5},
    best_reward=35.83,
    episode_length=22.6,
    policy_lag=PolicyLag(0, 0.1, 1),
    samples=8427000,
    throughput={0: 1685.4, 1: 1600.0},
    time_spent={"environment": 90.0, "inference": 40.0, "learning": 30.0, "waiting": 40.0},
    workers_alive=3,
    workers_total=4,
    cpu_percent=93.0,
    ram_mb=1331.2,
    message="saving",
    log_lines=("Saving new best policy",),
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def render(snapshot: RunSnapshot, width: int) -> list[str]:
    from sample_factory.monitoring.panel import render_panel

    console = rich_console.Console(record=True, width=width, file=io.StringIO())
    console.print(render_panel(snapshot))
    return console.export_text().splitlines()


@pytest.mark.parametrize("width", [50, 80, 120])
def test_panel_shows_everything_at_common_widths(width):
    lines = render(SNAPSHOT, width)
    text = "\n".join(lines)
    for fact in (
        "my [bold] experiment",
        "45.2%",
        "ETA 0:03:02",
        "8,930,000 / 20M",
        "14,336 (10 s)",
        "-1,234.500",
        "4,410,000",
        "1,685",
        "best reward 35.830",
        "episode length 22.6",
        "policy lag 0 / 0.1 / 1",
        "samples 8,427,000",
        "workers 3/4",
        "CPU 93%",
        "RAM 1.3 GB",
        "environment",
        "45%",  # of the time
        "saving",
        "Saving new best policy",
    ):
        assert fact in text, fact
    assert "nan" not in text
    assert all(len(line) == width for line in lines if line)


def test_panel_before_the_first_report():
    text = "\n".join(render(RunSnapshot("x" * 200, elapsed_sec=3.0), 80))
    assert "waiting for the first reports" in text and "elapsed 0:00:03" in text and "%" not in text


def test_large_population_shows_the_best():
    population = range(20)
    snapshot = RunSnapshot(
        "pbt", 1.0, env_steps=dict.fromkeys(population, 1), rewards={p: 100.0 + p for p in population}
    )
    text = "\n".join(render(snapshot, 80))
    assert "119.000" in text and "112.000" in text and "111.000" not in text and "... and 12 more policies" in text


def test_views_by_name(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    assert type(make_view("auto", Terminal())) is LiveView
    assert type(make_view("auto", io.StringIO())) is PlainView
    assert type(make_view("plain", Terminal())) is PlainView
    assert type(make_view("rich", io.StringIO())) is LiveView
    assert type(make_view("none", Terminal())) is SilentView
    monkeypatch.setenv("TERM", "dumb")
    assert type(make_view("auto", Terminal())) is PlainView
    with pytest.raises(ValueError, match="--ui='fancy' is unknown, use one of auto, rich"):
        make_view("fancy", Terminal())


@pytest.fixture
def logged():
    records: list[logging.LogRecord] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    handler = Collect()
    log.addHandler(handler)
    yield records
    log.removeHandler(handler)


def test_plain_view_logs_the_lines(logged):
    view = make_view("plain")
    view.start()
    view.update(SNAPSHOT)
    view.stop()
    assert [record.levelno for record in logged] == [logging.DEBUG] * 2
    assert logged[0].getMessage().startswith("Fps is (10 sec: 14336.0, ")
    assert logged[1].getMessage() == "Avg episode reward: [(0, '22.600'), (1, '-1234.500')]"


def test_no_line_before_the_reports(logged):
    make_view("plain").update(RunSnapshot("e", 1.0))
    make_view("plain").update(RunSnapshot("e", 1.0, env_steps={0: 5}))
    assert [record.getMessage()[:6] for record in logged] == ["Fps is"]


def test_lines_of_the_silent_view_reach_the_log_file_and_not_the_console(logged, capsys):
    with quiet_console(True):
        make_view("none").update(SNAPSHOT)
        log.warning("look here")
    assert len(logged) == 3 and logged[0].getMessage().startswith("Fps is")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("look here")


def console_handlers() -> list[ConsoleHandler]:
    return [handler for handler in log.handlers if isinstance(handler, ConsoleHandler)]


def use_terminal(monkeypatch) -> Terminal:
    """Called inside the test, because pytest replaces `sys.stderr` between set-up and test."""
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal)
    return terminal


def test_live_view_prints_log_lines_above_the_panel(monkeypatch, logged):
    terminal = use_terminal(monkeypatch)
    before = console_handlers()
    assert before
    view = LiveView(terminal)
    view.start()
    assert console_handlers() == []
    view.update(SNAPSHOT)
    log.info("a line with [markup] in it")
    view.stop()
    view.stop()
    assert console_handlers() == before

    output = terminal.getvalue()
    assert "a line with [markup] in it" in output
    assert output.rindex("Sample Factory") > output.index("a line with [markup] in it")
    assert "Fps is" not in output  # the panel shows it; other handlers (the log file) still get the line
    assert logged[0].getMessage().startswith("Fps is")
    log.info("after the end")
    assert terminal.getvalue().count("after the end") == 1


def test_live_view_leaves_the_end_of_the_run_on_the_screen(monkeypatch, logged):
    terminal = use_terminal(monkeypatch)
    view = LiveView(terminal)
    view.start()
    view.update(SNAPSHOT)
    num_lines = len(logged)
    view.finish(dataclasses.replace(SNAPSHOT, percent=100.0, total_frames=20000000))
    view.stop()
    last_panel = terminal.getvalue().rpartition("Sample Factory")[2]
    assert "100.0%" in last_panel and "20,000,000 / 20M" in last_panel
    assert len(logged) == num_lines  # the log has lines of its own about the end


def test_redirected_log_stays_redirected(monkeypatch):
    terminal = use_terminal(monkeypatch)
    redirected = io.StringIO()
    monkeypatch.setattr(sys, "stderr", redirected)
    view = LiveView(terminal)
    view.start()
    try:
        assert console_handlers()
    finally:
        view.stop()


def _log_from_worker() -> None:
    log.warning("hello from the worker")


@pytest.mark.multiproc
def test_lines_of_workers_appear_above_the_panel(monkeypatch):
    terminal = use_terminal(monkeypatch)
    view = LiveView(terminal)
    view.start()
    process = multiprocessing.get_context("spawn").Process(target=_log_from_worker)
    process.start()
    process.join()
    view.stop()
    assert "hello from the worker" in terminal.getvalue()


def test_nobody_listens():
    assert not send_to_live_view(logging.INFO, "text")  # this process has no parent with a view


def test_receiver_can_be_restarted():
    receiver = LiveLogReceiver(lambda level, text: None)
    for _ in range(2):
        receiver.start()
        receiver.stop()
    receiver.stop()


def test_system_usage():
    usage = sample_system_usage()
    assert 0 <= usage.cpu_percent <= 100 and usage.ram_mb > 5


def test_import_loads_no_rich():
    program = "import sys, sample_factory.monitoring.dashboard; assert 'rich' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
