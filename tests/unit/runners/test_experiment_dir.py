"""What happens to an existing experiment folder; nothing is ever deleted."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sample_factory.algo.runners import experiment_dir as experiment_dir_module
from sample_factory.algo.runners.experiment_dir import (
    LOCK_FILE,
    ExperimentInUseError,
    is_held_by_this_process,
    prepare_experiment_dir,
)
from sample_factory.algo.runners.result import RunResult, read_result
from sample_factory.cfg.errors import ConfigError
from sample_factory.utils.attr_dict import AttrDict
from sample_factory.utils.paths import experiment_dir, is_made_by_this_process

CONFIG = '{"env": "CartPole-v1", "experiment": "exp"}'


def make_cfg(tmp_path, behavior="resume"):
    return AttrDict(train_dir=str(tmp_path), experiment="exp", restart_behavior=behavior)


def existing_experiment(tmp_path):
    directory = tmp_path / "exp"
    directory.mkdir()
    (directory / "config.json").write_text(CONFIG)
    return directory


def test_creates_the_folder(tmp_path):
    prepare_experiment_dir(make_cfg(tmp_path)).release()
    assert (tmp_path / "exp").is_dir()


def test_resume_keeps_everything(tmp_path):
    directory = existing_experiment(tmp_path)
    prepare_experiment_dir(make_cfg(tmp_path)).release()
    assert (directory / "config.json").read_text() == CONFIG


@pytest.mark.parametrize(("behavior", "aside"), [("restart", "exp_old0001"), ("overwrite", "exp_overwritten0001")])
def test_fresh_start_moves_the_old_run_aside(tmp_path, behavior, aside):
    directory = existing_experiment(tmp_path)
    prepare_experiment_dir(make_cfg(tmp_path, behavior)).release()
    assert not (directory / "config.json").exists()
    assert (tmp_path / aside / "config.json").read_text() == CONFIG


def test_restart_takes_the_first_free_index(tmp_path):
    existing_experiment(tmp_path)
    (tmp_path / "exp_old0001").mkdir()
    prepare_experiment_dir(make_cfg(tmp_path, "restart")).release()
    assert (tmp_path / "exp_old0002" / "config.json").exists()


@pytest.mark.parametrize("behavior", ["resume", "restart", "overwrite"])
def test_folder_of_a_running_experiment_is_not_touched(tmp_path, behavior):
    lock = prepare_experiment_dir(make_cfg(tmp_path))
    (tmp_path / "exp" / "config.json").write_text(CONFIG)
    with pytest.raises(ExperimentInUseError, match="pid"):
        prepare_experiment_dir(make_cfg(tmp_path, behavior))
    assert (tmp_path / "exp" / "config.json").exists()
    lock.release()
    prepare_experiment_dir(make_cfg(tmp_path)).release()


def test_unknown_behavior_names_the_choices(tmp_path):
    with pytest.raises(ValueError, match="resume, restart or overwrite"):
        prepare_experiment_dir(make_cfg(tmp_path, "delete"))


@pytest.mark.parametrize("behavior", ["restart", "overwrite"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("chapter.tex", ""),
        ("config.json", "[]"),
        ("config.json", '{"name": "my package"}'),
        ("config.json", "{broken"),
        ("checkpoint_p0.pth", "of another program"),
        (".summary", "a file"),
        ("run/config.json", CONFIG),
        ("checkpoint_pool/notes", ""),
    ],
)
def test_folder_that_is_no_experiment_is_not_moved(tmp_path, behavior, name, content):
    directory = tmp_path / "exp"
    (directory / name).parent.mkdir(parents=True)
    (directory / "thesis.tex").write_text("years of work")
    (directory / name).write_text(content)
    with pytest.raises(ConfigError, match=rf"--restart_behavior={behavior}: .*is not moved"):
        prepare_experiment_dir(make_cfg(tmp_path, behavior))
    assert (directory / "thesis.tex").read_text() == "years of work"
    assert not (directory / LOCK_FILE).exists()


@pytest.mark.parametrize("behavior", ["restart", "overwrite"])
def test_experiment_of_ours_with_a_broken_configuration_can_be_put_aside(tmp_path, behavior):
    prepare_experiment_dir(make_cfg(tmp_path)).release()
    (tmp_path / "exp" / "config.json").write_text("{broken")
    prepare_experiment_dir(make_cfg(tmp_path, behavior)).release()
    assert not (tmp_path / "exp" / "config.json").exists()


@pytest.mark.parametrize("behavior", ["restart", "overwrite"])
@pytest.mark.parametrize("trace", ["checkpoint_p0/", "checkpoint_p11/", ".summary/", "sf_log.txt", ".lock"])
def test_run_that_came_no_further_than_a_trace_can_be_put_aside(tmp_path, behavior, trace):
    """As runs of other versions and parts of runs leave it that a script has built on its own."""
    directory = tmp_path / "exp"
    directory.mkdir()
    (directory / "notes.txt").write_text("mine")
    if trace.endswith("/"):
        (directory / trace).mkdir()
    else:
        (directory / trace).touch()
    prepare_experiment_dir(make_cfg(tmp_path, behavior)).release()
    assert not (directory / "notes.txt").exists()
    assert [path.read_text() for path in tmp_path.glob("exp_*/notes.txt")] == ["mine"]


@pytest.mark.parametrize("behavior", ["restart", "overwrite"])
def test_folder_that_this_process_made_can_be_put_aside(tmp_path, behavior):
    """Scripts write to the folder before they train."""
    cfg = make_cfg(tmp_path / "new", behavior)
    Path(experiment_dir(cfg), "notes.txt").write_text("mine")
    prepare_experiment_dir(cfg).release()
    assert [path.read_text() for path in tmp_path.glob("new/exp_*/notes.txt")] == ["mine"]


def test_asking_for_a_folder_that_exists_does_not_make_it_ours(tmp_path):
    (tmp_path / "exp").mkdir()
    Path(experiment_dir(make_cfg(tmp_path)), "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="is not moved"):
        prepare_experiment_dir(make_cfg(tmp_path, "overwrite"))
    group = AttrDict(train_dir=str(tmp_path), experiment="group/exp")
    assert is_made_by_this_process(experiment_dir(group)) and not is_made_by_this_process(tmp_path / "group")


def test_empty_folder_is_used_as_it_is(tmp_path):
    (tmp_path / "exp").mkdir()
    prepare_experiment_dir(make_cfg(tmp_path, "overwrite")).release()
    assert [path.name for path in tmp_path.iterdir()] == ["exp"]


# --- who holds the folder ---


def pid_of_a_dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def name_holder(tmp_path, **holder):
    directory = tmp_path / "exp"
    directory.mkdir(exist_ok=True)
    (directory / LOCK_FILE).write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid(), **holder}))


def test_lock_of_a_dead_process_is_taken_over(tmp_path):
    name_holder(tmp_path, pid=pid_of_a_dead_process())
    lock = prepare_experiment_dir(make_cfg(tmp_path))
    assert is_held_by_this_process(tmp_path / "exp")
    lock.release()


@pytest.mark.parametrize(
    ("holder", "is_refused"),
    [({}, True), ({"host": "another"}, True), ({"pid": None}, False)],
    ids=["living", "other host", "dead"],
)
def test_file_system_without_locks(tmp_path, monkeypatch, holder, is_refused):
    """The process that the file names decides."""

    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(experiment_dir_module.fcntl, "flock", no_locks)
    name_holder(tmp_path, **({"pid": pid_of_a_dead_process()} if holder == {"pid": None} else holder))
    if is_refused:
        with pytest.raises(ExperimentInUseError, match="pid"):
            prepare_experiment_dir(make_cfg(tmp_path))
    else:
        prepare_experiment_dir(make_cfg(tmp_path)).release()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}'])
def test_unreadable_name_of_a_holder_does_not_matter(tmp_path, content):
    (tmp_path / "exp").mkdir()
    (tmp_path / "exp" / LOCK_FILE).write_text(content)
    prepare_experiment_dir(make_cfg(tmp_path)).release()


# --- result.json from the first moment on ---


def test_result_of_an_active_run_has_no_exit_code(tmp_path):
    lock = prepare_experiment_dir(make_cfg(tmp_path))
    result = read_result(tmp_path / "exp")
    assert result["exit_code"] is None
    assert f"pid {os.getpid()}" in result["cause"]
    lock.release()


def test_run_that_was_killed_is_mentioned_by_the_next(tmp_path, caplog):
    logger = experiment_dir_module.log
    logger.addHandler(caplog.handler)
    try:
        prepare_experiment_dir(make_cfg(tmp_path)).release()
        assert "was killed" not in caplog.text
        prepare_experiment_dir(make_cfg(tmp_path)).release()
        assert "The previous run" in caplog.text and "was killed" in caplog.text
    finally:
        logger.removeHandler(caplog.handler)


def test_result_that_cannot_be_written_is_no_error(tmp_path):
    RunResult.of_failed_start(1, "because").write(tmp_path / "absent")
    RunResult.of_failed_start(1, "because").write(tmp_path)
    assert read_result(tmp_path)["cause"] == "because"
    assert read_result(tmp_path / "absent") is None
