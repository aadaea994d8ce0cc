"""Rows F, C9, C10: what a run may touch, and who may use a folder."""

from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
import signal
import sys
from pathlib import Path

import pytest

from sample_factory.algo.utils import env_info
from sample_factory.cfg.flags import TRAINING_FLAGS
from sample_factory.huggingface.huggingface_utils import generate_replay_video
from sample_factory.utils.attr_dict import AttrDict
from sample_factory.utils.paths import ensure_private_dir
from tests.unit.cfg.test_flag_bounds import BOUNDED, values_at_bounds
from tests.unit.launcher.test_no_shell import shell_calls

multiproc = pytest.mark.multiproc
thorough = pytest.mark.faults

SHORT = "--train_for_env_steps=2000"
REPOSITORY = Path(__file__).resolve().parents[2]


# --- F1: flags ---


def broken_flags() -> dict[str, str]:
    """For every numeric training flag a value beyond its bounds, as text."""
    values = {}
    for flag in BOUNDED:
        _, outside = values_at_bounds(flag)
        finite = [value for value in outside if not math.isnan(value)]
        if flag.name in TRAINING_FLAGS and (finite or outside):
            values[flag.name] = str((finite or outside)[0])
    return values


@multiproc
def test_F1_all_flags_beyond_their_bounds_are_named_at_once(start_run):
    broken = broken_flags()
    assert len(broken) > 60
    run = start_run(*(f"--{name}={value}" for name, value in broken.items() if name != "actor_worker_gpus"))
    run.finish(30)
    run.assert_clean_end(2, None)
    missing = [name for name in broken if f"--{name}" not in run.output and name != "actor_worker_gpus"]
    assert missing == []
    assert not run.train_dir.exists()


def test_F1_every_numeric_flag_has_bounds():
    numeric = {name for name, flag in TRAINING_FLAGS.items() if flag.type in (int, float)}
    assert numeric == {flag.name for flag in BOUNDED if flag.name in TRAINING_FLAGS}


@thorough
@multiproc
def test_F1_rules_across_flags_are_checked_together(start_run):
    run = start_run("--batch_size=63", "--worker_num_splits=3", "--with_vtrace=True", "--mixed_precision=tf32")
    run.finish(30)
    run.assert_clean_end(2, None)
    for flag in ("--batch_size", "--worker_num_splits", "--with_vtrace", "--mixed_precision"):
        assert flag in run.output
    assert not run.train_dir.exists()


@thorough
@multiproc
def test_F1_problem_that_only_the_environment_shows_is_in_the_result(start_run):
    """The folder exists by then: its result and its log say what was wrong."""
    run = start_run("--async_rl=False", "--batch_size=72", "--num_envs_per_worker=2")
    run.finish(30)
    run.assert_clean_end(2, "--async_rl=False needs a dataset made of whole rollouts")
    assert "--batch_size" in run.log_file()


@thorough
@multiproc
def test_F1_failed_start_is_in_result_and_log_with_its_traceback(start_run):
    run = start_run(fault="init_raise:0")
    run.finish(30)
    run.assert_clean_end(1, "environment 'fault_env' could not be created")
    log = run.log_file()
    assert log.index("RuntimeError: the environment cannot be built") < log.index("Run ended with exit code 1")


@thorough
@multiproc
def test_F1_train_dir_that_cannot_be_made_is_one_error(start_run):
    """Nobody, not even root, can make a folder there."""
    run = start_run("--train_dir=/proc/no_such_folder")
    assert run.finish(30) == 2
    assert "--train_dir=/proc/no_such_folder: the folder" in run.output
    assert "Traceback" not in run.output


# --- F2: names of experiments ---


def fingerprint(folder: Path) -> dict[str, str]:
    """Every file, folder and link below, with its content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        is_link = path.is_symlink()
        content = os.readlink(path).encode() if is_link else path.read_bytes() if path.is_file() else b"folder"
        found[str(path.relative_to(folder))] = hashlib.sha256(content).hexdigest()
    return found


@pytest.fixture
def sandbox(tmp_path: Path) -> Path:
    """A train dir with other people's work in it, beside it and behind a link."""
    for name in ("train/other", "train/group/nested", "outside", "train_2"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text(json.dumps({"env": "x", "experiment": name}))
        (tmp_path / name / "checkpoint.pth").write_text(name)
    (tmp_path / "precious.txt").write_text("years of work")
    (tmp_path / "train" / "link").symlink_to(tmp_path / "outside")
    for name in ("cwd", "tmp"):
        (tmp_path / name).mkdir()
    return tmp_path


NAMES = ["", " ", ".", "..", "../outside", "../train_2", "/etc", "link", "link/new", "group/../../outside", "a/../.."]


@multiproc
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=thorough) if name not in ("", "..") else name for name in NAMES]
)
@pytest.mark.parametrize("behavior", [pytest.param("resume", marks=thorough), "overwrite"])
def test_F2_names_that_lead_elsewhere_change_nothing(start_run, sandbox, name, behavior):
    before = fingerprint(sandbox)
    run = start_run(f"--experiment={name}", f"--restart_behavior={behavior}", SHORT)
    run.finish(30)
    run.assert_clean_end(2, None)
    assert "--experiment=" in run.output
    assert fingerprint(sandbox) == before


@thorough
@multiproc
@pytest.mark.parametrize("behavior", ["restart", "overwrite"])
def test_F2_group_of_experiments_is_not_moved(start_run, sandbox, behavior):
    """A folder of experiments is none itself."""
    before = fingerprint(sandbox)
    run = start_run("--experiment=group", f"--restart_behavior={behavior}", SHORT)
    run.finish(30)
    run.assert_clean_end(2, None)
    assert "is not moved" in run.output
    assert fingerprint(sandbox) == before


@thorough
@multiproc
def test_F2_overwrite_moves_the_experiment_and_touches_nothing_else(start_run, sandbox):
    before = fingerprint(sandbox)
    run = start_run("--experiment=group/nested", "--restart_behavior=overwrite", SHORT)
    assert run.finish() == 0
    after = fingerprint(sandbox)
    unchanged = {name: digest for name, digest in before.items() if not name.startswith("train/group/nested")}
    assert {name: after.get(name) for name in unchanged} == unchanged
    moved = "train/group/nested_overwritten0001/checkpoint.pth"
    assert after[moved] == before["train/group/nested/checkpoint.pth"]
    new = [name for name in after if name not in before]
    assert all(name.startswith("train/group/nested") for name in new), new


# --- F3: no shell ---


def test_F3_no_source_file_uses_a_shell():
    found = {}
    for package in ("sample_factory", "sf_examples", "benchmarks"):
        for path in (REPOSITORY / package).rglob("*.py"):
            if lines := shell_calls(path.read_text()):
                found[str(path)] = lines
    assert found == {}


METACHARACTERS = "a b;touch hacked $(touch hacked) `touch hacked` && touch hacked | 'x' \"y\" *"


@thorough
@multiproc
def test_F3_metacharacters_in_the_name_of_an_experiment(start_run):
    run = start_run(f"--experiment={METACHARACTERS}", SHORT, "--serial_mode=True")
    assert run.finish() == 0
    assert [path.name for path in run.train_dir.iterdir()] == [METACHARACTERS]
    assert list(run.folder.rglob("hacked")) == []


@thorough
def test_F3_metacharacters_in_the_name_of_a_video(tmp_path, monkeypatch):
    pytest.importorskip("imageio_ffmpeg")
    np = pytest.importorskip("numpy")
    monkeypatch.chdir(tmp_path)
    frames = [np.zeros((64, 64, 3), np.uint8)] * 3
    path = generate_replay_video(str(tmp_path), frames, 10, AttrDict(video_name=METACHARACTERS))
    assert Path(path).parent == tmp_path and Path(path).stat().st_size > 0
    assert [entry.name for entry in tmp_path.iterdir()] == [f"{METACHARACTERS}.mp4"]


# --- C9: one run per folder ---


@multiproc
@pytest.mark.parametrize("behavior", ["resume", pytest.param("overwrite", marks=thorough)])
def test_C9_second_run_on_a_folder_is_refused(start_run, behavior):
    first = start_run()
    first.wait_for_training()
    second = start_run(f"--restart_behavior={behavior}")
    assert second.finish(30) == 1
    assert "is in use by another run" in second.output
    assert f'"pid": {first.pid}' in second.output and os.uname().nodename in second.output
    assert first.result()["exit_code"] is None, "the result of the first run is its own business"
    first.send(signal.SIGTERM)
    first.finish()
    first.assert_clean_end(143, "SIGTERM")


@multiproc
def test_C9_folder_of_a_killed_run_is_taken_over(start_run):
    first = start_run("--save_every_sec=1")
    first.wait_for_training()
    first.wait_until(first.checkpoints, "a checkpoint")
    for process in first.processes():
        process.kill()
    first.process.wait()
    assert first.result()["exit_code"] is None and f"pid {first.pid}" in first.result()["cause"]
    second = start_run(SHORT)
    second.finish()
    second.assert_clean_end(0, "train_for_env_steps", may_leave_temporary=True)
    assert "The previous run" in second.output and "was killed" in second.output


# --- C10: data that would like to be code ---


class Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


@pytest.fixture
def cache_file(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = Path(env_info.env_info_cache_filename(AttrDict(env="CartPole-v1")))
    assert tmp_path in path.parents
    ensure_private_dir(path.parent)
    return path


def test_C10_environment_cache_runs_no_code(cache_file, tmp_path):
    marker = tmp_path / "marker"
    cache_file.write_bytes(pickle.dumps(Malicious(marker)))
    assert env_info._load_cached(str(cache_file)) is None
    assert not marker.exists()
    pickle.loads(cache_file.read_bytes())
    assert marker.exists(), "a plain unpickler would have run it"


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_C10_environment_cache_that_others_can_write_is_not_read(cache_file, mode):
    info = env_info.EnvInfo(None, None, 1, False, False, None, None, 1, None, env_info.ENV_INFO_PROTOCOL_VERSION)
    cache_file.write_bytes(pickle.dumps(info))
    assert env_info._load_cached(str(cache_file)) == info
    cache_file.parent.chmod(mode)
    assert env_info._load_cached(str(cache_file)) is None


def test_C10_environment_cache_is_created_for_this_user_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    info = env_info.EnvInfo(None, None, 1, False, False, None, None, 1, None, env_info.ENV_INFO_PROTOCOL_VERSION)
    path = env_info.env_info_cache_filename(AttrDict(env="CartPole-v1"))
    monkeypatch.setattr(env_info, "without_rng", lambda obj: obj)
    env_info._save_cache(path, info)
    assert Path(path).parent.stat().st_mode & 0o077 == 0
    assert "tmp" not in Path(path).relative_to(tmp_path).parts


@multiproc
@thorough
def test_C10_code_beside_a_downloaded_configuration_is_not_imported(start_run, tmp_path):
    folder = tmp_path / "train" / "test"
    folder.mkdir(parents=True)
    (folder / "evil_module.py").write_text("import pathlib\npathlib.Path(__file__).with_name('marker').touch()\n")
    saved = {"env": "fault_env", "experiment": "test", "env_module": "train.test.evil_module"}
    (folder / "config.json").write_text(json.dumps(saved))
    variables = {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(tmp_path)])}
    run = start_run(SHORT, "--serial_mode=True", variables=variables)
    run.finish()
    assert not (folder / "marker").exists(), sys.modules.keys()
