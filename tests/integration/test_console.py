"""What a run prints and what its log file holds."""

from __future__ import annotations

import re

import pytest

from tests.integration.harness import TINY, cli, experiment, kill_all_started

pytestmark = pytest.mark.multiproc

_STAMP = re.compile(r"^\[[^]]*\]\[\d+\] ")


@pytest.fixture(autouse=True)
def _nothing_left():
    yield
    kill_all_started()


def printed_by(tmp_path, *flags: str) -> tuple[int, list[str]]:
    """Exit code and lines without time stamps of a run from the command line."""
    place = (f"--train_dir={tmp_path}", "--experiment=test")
    process = cli(*place, *TINY, *flags)
    output, _ = process.communicate()
    return process.returncode, [_STAMP.sub("", line) for line in output.splitlines()]


@pytest.mark.parametrize("mode", [(), ("--serial_mode=True", "--async_rl=False", "--batch_size=64")])
def test_without_a_view_the_console_has_warnings_only_and_the_log_file_everything(tmp_path, mode):
    code, lines = printed_by(tmp_path, "--env=CartPole-v1", "--ui=none", *mode)
    assert code == 0
    log_file = (experiment(tmp_path) / "sf_log.txt").read_text()
    for text in (
        "Starting experiment with",
        "RolloutWorker_w0 profile",
        "Collected {0: ",
        "Run ended with exit code 0: ",
    ):
        assert text in log_file
    if not mode:
        assert "Worker 1 started" in log_file
    assert [line[:20] for line in lines if "xperiment" not in line] == []
    assert len(lines) == 2, lines  # there is no saved configuration, so the run begins from zero


def test_without_a_view_the_last_words_of_a_failed_run_are_shown(tmp_path):
    code, lines = printed_by(tmp_path, "--env=CartPole-v0x", "--ui=none")
    assert code == 2
    (last_words,) = (line for line in lines if line.startswith("Run ended with exit code 2: "))
    assert "CartPole-v0x" in last_words


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (("--env=CartPole-vv1",), "Unknown environment --env=CartPole-vv1"),
        (("--env=CartPole-v1", "--batch_size=63"), "--batch_size=63 cannot be divided"),
    ],
)
def test_problems_of_a_configuration_are_printed_once(tmp_path, flags, text):
    code, lines = printed_by(tmp_path, "--ui=plain", *flags)
    assert code == 2
    assert "\n".join(lines).count(text) == 1, lines
    assert sum(line.startswith("Run ended with exit code 2: ") for line in lines) == 1


def test_the_configuration_in_the_log_does_not_say_that_no_help_was_wanted(tmp_path):
    code, lines = printed_by(tmp_path, "--env=CartPole-v1", "--ui=plain", "--serial_mode=True")
    assert code == 0
    assert "algo=APPO" in lines and "help=False" not in lines
    assert '"help": false' in (experiment(tmp_path) / "config.json").read_text()
