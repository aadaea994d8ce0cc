"""What a run says while it trains."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sample_factory.ued.config.train_args import parse_train_args
from sample_factory.ued.curricula.common import CycleReport
from sample_factory.ued.runs.assembly import make_parts
from sample_factory.ued.runs.progress import EVERY_SEC, FIRST_SEC, Progress
from sample_factory.ued.runs.ranks import Ranks
from sample_factory.ued.runs.state import Counters

SMALL = ("--n_parallel=4", "--n_rollout_steps=8", "--maze_height=5", "--maze_width=5", "--maze_n_walls=4")
PLR = ("--train_runner=plr", "--ued_score=max_mc", "--plr_buffer_size=10", "--plr_min_fill_ratio=0.75")


class Run:
    """A real curriculum under a clock that is set by hand."""

    def __init__(self, folder: Path, *flags: str, total: int = 10) -> None:
        config = parse_train_args([*SMALL, *flags]).config
        self.curriculum = make_parts(config, Ranks(), torch.device("cpu")).curriculum
        self.counters = Counters()
        self.now = 0.0
        self.progress = Progress(folder, self.curriculum, self.counters, total, clock=lambda: self.now)

    def cycle(self, now: float) -> CycleReport:
        report = self.curriculum.run_cycle()
        self.counters.add(report, 1)
        self.now = now
        self.progress.after_cycle()
        return report


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Without time and process."""
    return [line.split("] ")[-1] for line in capsys.readouterr().err.splitlines()]


def test_lines_come_by_the_clock(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(tmp_path)
    assert lines(capsys) == [f"Training until there are 10 updates; the files of the run are in {tmp_path}"]
    told_at = []
    for now in (1, FIRST_SEC - 1, FIRST_SEC, FIRST_SEC + 1, FIRST_SEC + EVERY_SEC - 1, FIRST_SEC + EVERY_SEC + 5):
        run.cycle(now)
        if lines(capsys):
            told_at.append(now)
    assert told_at == [FIRST_SEC, FIRST_SEC + EVERY_SEC + 5]


def test_speed_and_rest_are_those_since_the_line_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(tmp_path, total=200)
    run.cycle(5)
    run.cycle(16)
    run.cycle(80)
    assert lines(capsys)[1:] == [
        "2 of 200 updates, 2 cycles, 64 steps, 4 steps/s, about 26 min left",
        "3 of 200 updates, 3 cycles, 96 steps, 0 steps/s, about 3.5 h left",
    ]


def test_a_buffer_that_is_being_filled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(tmp_path, *PLR)
    run.cycle(16)
    assert lines(capsys)[1:] == [
        "0 of 10 updates, 1 cycles, 32 steps, 2 steps/s; the level buffer is being filled: "
        f"{run.curriculum.buffers[0].size} of the 8 levels that replay needs"
    ]
    while not run.curriculum.buffers[0].is_warm:
        run.curriculum.run_cycle()
    run.cycle(200)
    assert "filled" not in lines(capsys)[0]


def test_what_was_reached(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = Run(Path("folder"), "--n_students=2", total=2)
    run.cycle(1)
    run.progress.end()
    run.cycle(2)
    run.progress.end()
    place = f"its files are in {tmp_path / 'folder'}"
    assert lines(capsys)[1:] == [
        f"The run has 1 of 2 updates, 1 cycles, 64 steps; {place}; --from_last_checkpoint=True goes on",
        f"The run has 2 of 2 updates, 2 cycles, 128 steps; {place}",
    ]


def test_the_student_with_the_fewest_updates_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(tmp_path, "--n_students=2", total=3)
    run.curriculum.students[0].n_updates = 3
    run.progress.end()
    assert lines(capsys)[1].startswith("The run has 0 of 3 updates")
