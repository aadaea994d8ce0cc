"""What happens to an existing experiment folder; nothing is ever deleted."""

from __future__ import annotations

import pytest

from sample_factory.algo.runners.experiment_dir import ExperimentInUseError, prepare_experiment_dir
from sample_factory.utils.attr_dict import AttrDict


def make_cfg(tmp_path, behavior="resume"):
    return AttrDict(train_dir=str(tmp_path), experiment="exp", restart_behavior=behavior)


def existing_experiment(tmp_path):
    directory = tmp_path / "exp"
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    return directory


def test_creates_the_folder(tmp_path):
    prepare_experiment_dir(make_cfg(tmp_path)).release()
    assert (tmp_path / "exp").is_dir()


def test_resume_keeps_everything(tmp_path):
    directory = existing_experiment(tmp_path)
    prepare_experiment_dir(make_cfg(tmp_path)).release()
    assert (directory / "config.json").read_text() == "{}"


@pytest.mark.parametrize(("behavior", "aside"), [("restart", "exp_old0001"), ("overwrite", "exp_overwritten0001")])
def test_fresh_start_moves_the_old_run_aside(tmp_path, behavior, aside):
    directory = existing_experiment(tmp_path)
    prepare_experiment_dir(make_cfg(tmp_path, behavior)).release()
    assert not (directory / "config.json").exists()
    assert (tmp_path / aside / "config.json").read_text() == "{}"


def test_restart_takes_the_first_free_index(tmp_path):
    existing_experiment(tmp_path)
    (tmp_path / "exp_old0001").mkdir()
    prepare_experiment_dir(make_cfg(tmp_path, "restart")).release()
    assert (tmp_path / "exp_old0002" / "config.json").exists()


@pytest.mark.parametrize("behavior", ["resume", "restart", "overwrite"])
def test_folder_of_a_running_experiment_is_not_touched(tmp_path, behavior):
    lock = prepare_experiment_dir(make_cfg(tmp_path))
    (tmp_path / "exp" / "config.json").write_text("{}")
    with pytest.raises(ExperimentInUseError, match="pid"):
        prepare_experiment_dir(make_cfg(tmp_path, behavior))
    assert (tmp_path / "exp" / "config.json").exists()
    lock.release()
    prepare_experiment_dir(make_cfg(tmp_path)).release()


def test_unknown_behavior_names_the_choices(tmp_path):
    with pytest.raises(ValueError, match="resume, restart or overwrite"):
        prepare_experiment_dir(make_cfg(tmp_path, "delete"))
