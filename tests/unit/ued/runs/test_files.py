"""Files of a run: log, description, folder, tables for the terminal."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sample_factory.algo.runners.experiment_dir import ExperimentInUseError
from sample_factory.ued.config.nested import Config
from sample_factory.ued.config.train_args import parse_train_args
from sample_factory.ued.runs import run_directory
from sample_factory.ued.runs.console import box, row_box
from sample_factory.ued.runs.csv_log import CsvLog, check_columns, columns_of, read_log
from sample_factory.ued.runs.meta import MetaFile, masked, read_meta
from sample_factory.ued.runs.training import changes, is_due

COLUMNS = ["_tick", "_time", "loss", "eval/a0:test_return:Maze"]


def config_with_key() -> Config:
    return parse_train_args(["--wandb_api_key=secret", "--xpid=x"]).config


# --- logs.csv ---


def test_order_of_columns() -> None:
    assert columns_of(["return", "entropy", "n_updates"], ["eval/b", "eval/a"]) == [
        "_tick",
        "_time",
        "entropy",
        "n_updates",
        "return",
        "eval/a",
        "eval/b",
        "steps",
        "sps",
        "real_steps",
        "real_sps",
        "mutation_steps",
        "teacher_steps",
        "scan_steps",
        "n_grad_updates",
    ]


def test_rows(tmp_path: Path) -> None:
    path = tmp_path / "logs.csv"
    log = CsvLog(path, COLUMNS, resume=False)
    assert path.read_text() == "# _tick,_time,loss,eval/a0:test_return:Maze\n"
    log.write(2, {"loss": 0.5, "_time": 10.25})
    log.write(4, {"loss": None, "eval/a0:test_return:Maze": 1e-9})
    assert path.read_text().splitlines()[1:] == ["2,10.25,0.5,", "4,,,1e-09"]
    assert read_log(path)[0] == {"_tick": "2", "_time": "10.25", "loss": "0.5", "eval/a0:test_return:Maze": ""}


def test_values_need_a_column(tmp_path: Path) -> None:
    log = CsvLog(tmp_path / "logs.csv", COLUMNS, resume=False)
    with pytest.raises(KeyError, match="other"):
        log.write(1, {"other": 1.0})


def test_resume_skips_ticks_that_are_there(tmp_path: Path) -> None:
    path = tmp_path / "logs.csv"
    log = CsvLog(path, COLUMNS, resume=False)
    for tick in (1, 2):
        log.write(tick, {"loss": 1.0})
    log = CsvLog(path, COLUMNS, resume=True)
    for tick in (1, 2, 3):
        log.write(tick, {"loss": 2.0})
    assert [(row["_tick"], row["loss"]) for row in read_log(path)] == [("1", "1.0"), ("2", "1.0"), ("3", "2.0")]


@pytest.mark.parametrize("rest", ["2,", "2,0.1,0.5,"])
def test_resume_removes_a_row_that_was_cut_off(rest: str, tmp_path: Path) -> None:
    path = tmp_path / "logs.csv"
    CsvLog(path, COLUMNS, resume=False).write(1, {"loss": 1.0})
    path.write_text(path.read_text() + rest)
    CsvLog(path, COLUMNS, resume=True).write(2, {"loss": 2.0})
    assert path.read_text().splitlines()[1:] == ["1,,1.0,", "2,,2.0,"]


def test_resume_of_a_cut_off_header(tmp_path: Path) -> None:
    path = tmp_path / "logs.csv"
    path.write_text("# _tick,_ti")
    CsvLog(path, COLUMNS, resume=True).write(1, {})
    assert [row["_tick"] for row in read_log(path)] == ["1"]


def test_without_resume_the_file_starts_anew(tmp_path: Path) -> None:
    path = tmp_path / "logs.csv"
    CsvLog(path, COLUMNS, resume=False).write(1, {})
    CsvLog(path, COLUMNS, resume=False)
    assert read_log(path) == []


def test_other_columns_are_an_error_and_the_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "logs.csv"
    CsvLog(path, COLUMNS, resume=False).write(1, {})
    before = path.read_text()
    for act in (
        lambda: check_columns(path, [*COLUMNS, "new"]),
        lambda: CsvLog(path, [*COLUMNS, "new"], resume=True),
    ):
        with pytest.raises(ValueError, match=r"has other columns than this run \(new\); continue"):
            act()
    assert path.read_text() == before


@pytest.mark.parametrize("damage", [b"1,\xff\nxx,yy\n", b"\n", b"\x00\x00\x00,\n"])
def test_a_log_that_ends_with_something_else_is_an_error_and_stays(damage: bytes, tmp_path: Path) -> None:
    path = tmp_path / "logs.csv"
    CsvLog(path, COLUMNS, resume=False).write(1, {})
    path.write_bytes(path.read_bytes() + damage)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"logs\.csv is damaged: its last line is no row of a log"):
        check_columns(path, COLUMNS)
    assert path.read_bytes() == before


def test_another_file_is_not_taken_for_a_cut_off_header(tmp_path: Path) -> None:
    path = tmp_path / "logs.csv"
    path.write_text("my notes")
    with pytest.raises(ValueError, match="has other columns"):
        CsvLog(path, COLUMNS, resume=True)
    assert path.read_text() == "my notes"


@pytest.mark.parametrize(("interval", "due"), [(0, []), (1, [1, 2, 3, 4]), (2, [2, 4]), (3, [3]), (9, [])])
def test_intervals_count_cycles(interval: int, due: list[int]) -> None:
    assert [tick for tick in range(1, 5) if is_due(tick, interval)] == due


# --- terminal ---


def test_box_of_a_row() -> None:
    row = {"_tick": 12, "_time": 1e9, "loss": 0.000123456, "missing": None, "steps": 123456}
    assert row_box(row).splitlines() == [
        "+-------+----------+",
        "| _tick |       12 |",
        "| loss  | 0.000123 |",
        "| steps |   123456 |",
        "+-------+----------+",
    ]


def test_empty_box() -> None:
    assert box([]) == "+--+--+\n+--+--+"


# --- meta.json ---


def test_description(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("MY_TOKEN", "private")
    meta = MetaFile(tmp_path, config_with_key())
    meta.start()
    started = read_meta(tmp_path)
    assert started["config"]["train_runner_args"]["lr"] == 1e-4
    assert (started["xpid"], started["date_end"], started["successful"]) == ("x", None, False)
    assert started["slurm"] == {"job_id": "17"}
    meta.end(successful=True)
    ended = read_meta(tmp_path)
    assert ended["date_end"] >= ended["date_start"] and ended["successful"] is True
    text = (tmp_path / "meta.json").read_text()
    assert "secret" not in text and "private" not in text


def test_git_state_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for word in ("GIT_DIR", "GIT_WORK_TREE"):
        monkeypatch.delenv(word, raising=False)
    assert MetaFile(tmp_path, Config())._content["git"] is None
    commit = ("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "x")
    for command in (("init", "-q"), commit):
        subprocess.run(["git", *command], check=True)
    (tmp_path / "new").touch()
    git = MetaFile(tmp_path, Config())._content["git"]
    assert len(git["commit"]) == 40 and git["is_dirty"] is True and git["path"] == str(tmp_path)


def test_masked_configuration_keeps_everything_else() -> None:
    config = config_with_key()
    plain = masked(config)
    assert plain["wandb_args"].pop("api_key") == "***"
    own = config.plain()
    assert own["wandb_args"].pop("api_key") == "secret"
    assert plain == own


@pytest.mark.parametrize("text", ["[", "[]", "{}"])
def test_damaged_description(text: str, tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text(text)
    with pytest.raises(ValueError, match=r"meta\.json"):
        read_meta(tmp_path)


def test_changed_flags_are_listed() -> None:
    before: dict[str, Any] = {"seed": 1, "args": {"lr": 0.1, "n": 2}, "from_last_checkpoint": False}
    after: dict[str, Any] = {"seed": 1, "args": {"lr": 0.2, "n": 2}, "from_last_checkpoint": True, "new": 3}
    assert changes(before, after) == ["args.lr was 0.1, is 0.2", "new was None, is 3"]


# --- folder ---


def test_path_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", "/tmp/place")
    monkeypatch.setenv("HOME", "/home/me")
    assert run_directory.run_directory(parse_train_args(["--log_dir=$PLACE/x", "--xpid=a"]).config) == Path(
        "/tmp/place/x/a"
    )
    assert run_directory.expand("~/logs") == Path("/home/me/logs")


def test_two_runs_cannot_share_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    lock = run_directory.lock(folder)
    with pytest.raises(ExperimentInUseError, match=r"in use by another run .* choose another --xpid"):
        run_directory.lock(folder)
    lock.release()
    run_directory.lock(folder).release()


def test_folders_that_cannot_be_locked_are_an_error_of_the_user(tmp_path: Path) -> None:
    run_directory.lock(tmp_path / "run").release()
    (name,) = (path.name for path in (tmp_path / "run").iterdir())
    (tmp_path / "other" / name).mkdir(parents=True)
    with pytest.raises(ValueError, match=f"--log_dir, --xpid: {tmp_path / 'other'} cannot be made, or be written to"):
        run_directory.lock(tmp_path / "other")


def test_folders_that_cannot_be_made_are_an_error_of_the_user(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    for folder in (file, file / "run"):
        with pytest.raises(ValueError, match=f"--log_dir, --xpid: {folder} cannot be made, or be"):
            run_directory.lock(folder)
    assert file.read_text() == "mine"


def test_files_of_all_runs_before_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["logs.csv", "meta.json", "checkpoint.pt", "checkpoint_10.pt"]
    folders = {"first": "previous", "second": "previous0001", "third": "previous0002"}
    for content, folder in folders.items():
        for name in names:
            (tmp_path / name).write_text(content)
        (tmp_path / "levels").mkdir()
        (tmp_path / "notes.txt").write_text("mine")
        run_directory.set_previous_run_aside(tmp_path)
        (line,) = capsys.readouterr().err.splitlines()
        assert f"from {tmp_path} to {tmp_path / folder}; --from_last_checkpoint=True would have continued it" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", *folders.values()]
    for content, folder in folders.items():
        assert {(tmp_path / folder / name).read_text() for name in names} == {content}
    run_directory.set_previous_run_aside(tmp_path)
    assert capsys.readouterr().err == ""
    assert len(list(tmp_path.iterdir())) == 4


def test_nothing_is_said_about_going_on_without_a_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "logs.csv").write_text("rows")
    run_directory.set_previous_run_aside(tmp_path)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"to {tmp_path / 'previous'}")


def test_meta_is_valid_json_at_any_time(tmp_path: Path) -> None:
    MetaFile(tmp_path, Config(xpid="x")).start()
    assert json.loads((tmp_path / "meta.json").read_text())["xpid"] == "x"
    assert [path.name for path in tmp_path.iterdir()] == ["meta.json"]
