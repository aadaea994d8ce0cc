"""How runs end: signals save, and a run whose process was killed goes on from its last checkpoint."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from sample_factory.ued.config.nested import Config
from sample_factory.ued.runs import checkpoint, launch
from tests.integration.ued.harness import (
    METHODS,
    TIMEOUT_SEC,
    TINY,
    read_until,
    rows,
    run,
    start,
    ticks,
    train_here,
)

pytestmark = [pytest.mark.multiproc, pytest.mark.timeout(300)]

ENDLESS = ("--n_total_updates=1000000", "--verbose=True")


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 2)])
def test_a_signal_saves_and_the_run_goes_on(signum: signal.Signals, code: int, tmp_path: Path) -> None:
    flags = (*METHODS["robust_plr"], f"--log_dir={tmp_path}")
    process = start("train", *TINY, *flags, *ENDLESS, "--xpid=run")
    try:
        read_until(process, "| _tick ")
        process.send_signal(signum)
        output, _ = process.communicate(timeout=TIMEOUT_SEC)
    finally:
        process.kill()
    assert process.returncode == code, output
    assert f"{signum.name}: the run was saved after" in output
    assert f"its files are in {tmp_path / 'run'}; --from_last_checkpoint=True goes on" in output
    meta = json.loads((tmp_path / "run" / "meta.json").read_text())
    assert meta["successful"] is False and meta["date_end"] is not None

    stored = checkpoint.load(tmp_path / "run" / "checkpoint.pt")
    assert stored["counters"]["tick"] == ticks(tmp_path / "run")[-1]
    total = stored["agents"]["students"][0]["n_updates"] + 2
    train_here(tmp_path, *METHODS["robust_plr"], f"--n_total_updates={total}", "--from_last_checkpoint")
    train_here(tmp_path, *METHODS["robust_plr"], f"--n_total_updates={total}", xpid="whole")
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")


def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    flags = (*METHODS["accel"], f"--log_dir={tmp_path}", "--checkpoint_interval=2")
    process = start("train", *TINY, *flags, *ENDLESS, "--xpid=run")
    try:
        for _ in range(5):
            read_until(process, "| _tick ")
    finally:
        process.kill()
        process.communicate(timeout=TIMEOUT_SEC)
    stored = checkpoint.load(tmp_path / "run" / "checkpoint.pt")
    assert stored["counters"]["tick"] >= 4
    total = stored["agents"]["students"][0]["n_updates"] + 3
    train_here(tmp_path, *METHODS["accel"], f"--n_total_updates={total}", "--from_last_checkpoint")
    train_here(tmp_path, *METHODS["accel"], f"--n_total_updates={total}", xpid="whole")
    whole = rows(tmp_path / "whole")
    # Rows of the killed run behind its checkpoint are there once, even if there are more of them than of the new run.
    assert rows(tmp_path / "run")[: len(whole)] == whole


def test_two_runs_cannot_share_a_folder(tmp_path: Path) -> None:
    process = start("train", *TINY, f"--log_dir={tmp_path}", *ENDLESS, "--xpid=run")
    try:
        read_until(process, "| _tick ")
        output = run("train", *TINY, f"--log_dir={tmp_path}", "--xpid=run", "--n_total_updates=1", expected=1)
        assert "is in use by another run" in output and "choose another --xpid" in output
        assert process.poll() is None
    finally:
        process.terminate()
        process.communicate(timeout=TIMEOUT_SEC)
    assert ticks(tmp_path / "run") == list(range(1, len(ticks(tmp_path / "run")) + 1))


def children_of(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


def ranks_of(process_id: int) -> list[int]:
    """Processes that compute: not the tracker of multiprocessing."""
    return [pid for pid in children_of(process_id) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_the_death_of_a_rank_ends_all(tmp_path: Path) -> None:
    process = start("train", *TINY, f"--log_dir={tmp_path}", "--n_devices=2", *ENDLESS)
    try:
        read_until(process, "| _tick ")
        ranks = ranks_of(process.pid)
        assert len(ranks) == 2
        os.kill(ranks[1], signal.SIGKILL)
        output, _ = process.communicate(timeout=TIMEOUT_SEC)
    finally:
        process.kill()
    assert process.returncode == 1
    assert "of the run ended with exit code" in output
    assert not any(Path(f"/proc/{pid}").exists() for pid in ranks)


def explains_after_the_other_rank_has_died(config: dict[str, Any], rank: int, meeting_point: str) -> None:
    """A rank: rank 1 dies, then rank 0 needs a moment for its last words."""
    pipe = Path(f"{meeting_point}_pipe")
    if rank == 1:
        os.open(pipe, os.O_WRONLY)  # stays open until this process has ended
    else:
        pipe.read_bytes()
        subprocess.run([sys.executable, "-c", "import json"], check=True)
        Path(meeting_point).write_text("explained")
    sys.exit(1)


def test_the_main_rank_may_explain_why_another_one_died(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meeting_point = tmp_path / "meeting_point"
    os.mkfifo(f"{meeting_point}_pipe")
    monkeypatch.setattr(launch, "_child", explains_after_the_other_rank_has_died)
    assert launch._supervise(Config(n_devices=2), str(meeting_point)) == 1
    assert meeting_point.read_text() == "explained"


def test_a_signal_saves_a_run_of_several_ranks(tmp_path: Path) -> None:
    process = start("train", *TINY, f"--log_dir={tmp_path}", "--xpid=run", "--n_devices=2", *ENDLESS)
    try:
        read_until(process, "| _tick ")
        ranks = ranks_of(process.pid)
        os.kill(ranks[1], signal.SIGSTOP)  # its partner waits for it
        process.terminate()
        output, _ = process.communicate(timeout=TIMEOUT_SEC)
    finally:
        process.kill()
    assert process.returncode == 143, output
    assert checkpoint.load(tmp_path / "run" / "checkpoint.pt")["counters"]["tick"] == ticks(tmp_path / "run")[-1]
    assert not any(Path(f"/proc/{pid}").exists() for pid in ranks)


def hangs(config: dict[str, Any], rank: int, meeting_point: str) -> None:
    """A rank that says that it has started, and that it was asked to end, but does not."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: say(f"{meeting_point}_asked{rank}"))
    say(f"{meeting_point}_started{rank}")
    while True:  # a signal just before an endless wait would be handled after it, which is never
        threading.Event().wait(0.1)


def say(pipe: str) -> None:
    os.close(os.open(pipe, os.O_WRONLY))


def test_a_second_ctrl_c_ends_ranks_that_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meeting_point = tmp_path / "meeting_point"
    pipes = [Path(f"{meeting_point}_{word}{rank}") for word in ("started", "asked") for rank in range(2)]
    for pipe in pipes:
        os.mkfifo(pipe)

    def press_ctrl_c_twice() -> None:
        for pipe in pipes:
            pipe.read_bytes()
            if pipe in (pipes[1], pipes[3]):
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(launch, "_child", hangs)
    keyboard = threading.Thread(target=press_ctrl_c_twice)
    keyboard.start()
    assert launch._supervise(Config(n_devices=2), str(meeting_point)) == 2
    keyboard.join()


def test_ranks_die_with_the_main_process(tmp_path: Path) -> None:
    process = start("train", *TINY, f"--log_dir={tmp_path}", "--n_devices=2", *ENDLESS)
    try:
        read_until(process, "| _tick ")
        ranks = ranks_of(process.pid)
    finally:
        process.kill()
        process.communicate(timeout=TIMEOUT_SEC)  # until the ranks have closed the pipe, too
    assert len(ranks) == 2
    assert all(is_gone(pid) for pid in ranks)


def is_gone(pid: int) -> bool:
    """Whether a process has ended; what nobody has waited for yet counts as ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
