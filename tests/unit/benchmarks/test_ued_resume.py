"""Benchmarks of hours: stopped at any time they keep what has been trained, and what is finished is not repeated."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import ued_learning
from benchmarks.ued_learning import full_flags, is_finished, stored_runs
from benchmarks.ued_runs import CONTINUES, Side, run_if_needed, wait_for
from sample_factory.ued import parse_train_args

ROOT = Path(__file__).resolve().parents[3]
TIMEOUT_SEC = 60

# As a training: it takes longer than a moment to save after it was told to end.
_SAVING = """
import signal, sys, time
def save(*_):
    time.sleep(1.0)
    open(sys.argv[1], "w").write("saved")
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
time.sleep(60)
"""
_WAITING = """
import subprocess, sys
from benchmarks.ued_runs import wait_for
wait_for(lambda: subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[2]], text=True))
"""


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 2), (signal.SIGTERM, 143)])
def test_a_stopped_benchmark_waits_until_its_training_has_saved(
    sent: signal.Signals, status: int, tmp_path: Path
) -> None:
    saved = tmp_path / "saved"
    process = subprocess.Popen(
        [sys.executable, "-c", _WAITING, _SAVING, str(saved)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        os.kill(process.pid, sent)  # not to the training
        assert process.wait(TIMEOUT_SEC) == status
        assert saved.read_text() == "saved"
    finally:
        process.kill()


def test_a_process_that_takes_too_long_is_killed() -> None:
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    assert wait_for(lambda: subprocess.Popen(command, text=True), timeout=0.5) == -signal.SIGKILL


@pytest.mark.parametrize(("flags", "kept"), [((), False), ((CONTINUES,), True)])
def test_only_runs_that_go_on_keep_what_was_there(flags: tuple[str, ...], kept: bool, tmp_path: Path) -> None:
    code = "import sys, pathlib; p = pathlib.Path(sys.argv[1]); p.mkdir(exist_ok=True); (p / 'logs.csv').write_text"
    side = Side("x", (sys.executable, "-c", f"{code}('# n_updates\\n2\\n')", str(tmp_path / "run")))
    checkpoint = tmp_path / "run" / "checkpoint.pt"
    checkpoint.parent.mkdir()
    checkpoint.write_text("weights")
    assert run_if_needed(side, flags, tmp_path, "run", 2, TIMEOUT_SEC) == [{"n_updates": 2.0}]
    assert checkpoint.exists() == kept


def _describe(run: Path, updates: int, successful: bool) -> None:
    run.mkdir(parents=True, exist_ok=True)
    (run / "meta.json").write_text(json.dumps({"successful": successful, "config": {"n_total_updates": updates}}))
    (run / "checkpoint.pt").touch()


def test_a_run_is_finished_when_its_description_says_so(tmp_path: Path) -> None:
    assert not is_finished(tmp_path / "none", 10)
    for updates, successful, expected in ((10, True, True), (10, False, False), (9, True, False), (11, True, True)):
        _describe(tmp_path, updates, successful)
        assert is_finished(tmp_path, 10) == expected


def test_full_runs_are_done_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def call(program: str, flags: list[str], *more: str) -> None:
        given = dict(flag.removeprefix("--").split("=", 1) for flag in (*flags, *more))
        name = given["xpid"]
        calls.append(f"{program} {name} {given['device']}")
        if program == "train":
            assert parse_train_args([*flags, *more]).config.from_last_checkpoint is True
            _describe(tmp_path / name, int(given["n_total_updates"]), True)
        else:
            columns = [f"eval/a0:test_solved_rate:{env}" for env in given["env_names"].split(",")]
            (tmp_path / f"{name}.csv").write_text(f"xpid,{','.join(columns)}\n{name}{',0.5' * 6}{',1.0' * 6}\n")

    monkeypatch.setattr(ued_learning, "_call", call)
    monkeypatch.setattr(ued_learning, "RESULTS_DIR", tmp_path / "results")
    common = ["--full", "--seeds=1", "--updates=7", "--device=cuda", f"--runs={tmp_path}"]
    assert ued_learning.main([*common, "--methods", "dr"]) == 0
    assert calls == ["train full-dr-1 cuda", "evaluate full-dr-1 cuda"]
    assert ued_learning.main([*common, "--methods", "dr", "accel"]) == 0
    assert calls[2:] == ["train full-accel-1 cuda", "evaluate full-accel-1 cuda"]
    assert ued_learning.main([*common, "--methods", "accel"]) == 0
    assert len(calls) == 4

    stored = tmp_path / "results" / "learning_full.json"
    assert {run: result["panel"] for run, result in stored_runs(stored, 7).items()} == {
        ("dr", 1): 0.75,
        ("accel", 1): 0.75,
    }
    assert stored_runs(stored, 8) == {}  # other runs


def test_commands_of_the_description_are_accepted() -> None:
    lines = [line.strip() for line in (ued_learning.__doc__ or "").splitlines()]
    commands = [line.split("  ")[0].split()[3:] for line in lines if line.startswith("python -m")]
    assert len(commands) == 4
    for command in commands:
        args = ued_learning._parse_args(command)
        if args.full:
            for method in args.methods:
                parse_train_args(full_flags(method, 1, args))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--methods", "maze/dr"], "must be of"),
        (["--seeds=0"], "must be >= 1"),
        (["--updates=0"], "must be >= 1"),
        (["--device=cuda"], "give --full"),
    ],
)
def test_wrong_flags_are_refused(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        ued_learning.main(flags)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
