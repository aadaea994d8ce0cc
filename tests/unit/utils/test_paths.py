from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from sample_factory.utils.attr_dict import AttrDict
from sample_factory.utils.utils import (
    cfg_file,
    cfg_file_old,
    ensure_dir_exists,
    experiment_dir,
    experiments_dir,
    get_free_disk_space_mb,
    get_username,
    maybe_ensure_dir_exists,
    project_tmp_dir,
    remove_if_exists,
    safe_ensure_dir_exists,
    summaries_dir,
    wandb_dir,
)


def test_layout(tmp_path: Path):
    for make_cfg in (AttrDict, Namespace):
        cfg = make_cfg(train_dir=str(tmp_path / "t"), experiment="e", wandb_dir=str(tmp_path / "w"))
        assert experiments_dir(cfg, mkdir=False) == str(tmp_path / "t")
        assert experiment_dir(cfg, mkdir=False) == str(tmp_path / "t" / "e")
        assert cfg_file(cfg, mkdir=False) == str(tmp_path / "t" / "e" / "config.json")
        assert not (tmp_path / "t").exists()

        assert cfg_file_old(cfg) == str(tmp_path / "t" / "e" / "cfg.json")
        assert summaries_dir(experiment_dir(cfg)) == str(tmp_path / "t" / "e" / ".summary")
        assert (tmp_path / "t" / "e" / ".summary").is_dir()
        assert Path(wandb_dir(cfg)).is_dir()
        (tmp_path / "t" / "e" / ".summary").rmdir()
        (tmp_path / "t" / "e").rmdir()
        (tmp_path / "t").rmdir()


def test_creating_directories(tmp_path: Path):
    nested = tmp_path / "a" / "b"
    assert maybe_ensure_dir_exists(nested, mkdir=False) == str(nested) and not nested.exists()
    assert ensure_dir_exists(nested) == str(nested) and nested.is_dir()
    assert ensure_dir_exists(nested) == str(nested)

    file = tmp_path / "file"
    file.touch()
    assert safe_ensure_dir_exists(file) == str(file)
    remove_if_exists(file)
    remove_if_exists(file)
    assert not file.exists()


def test_temporary_directory_belongs_to_the_user():
    assert Path(project_tmp_dir(mkdir=False)).name == f"sf2_{get_username()}"
    assert Path(project_tmp_dir()).is_dir()


def test_free_space_of_a_directory_that_does_not_exist_yet(tmp_path: Path):
    assert get_free_disk_space_mb(AttrDict(train_dir=str(tmp_path / "not" / "yet"))) > 0
    assert not (tmp_path / "not").exists()
