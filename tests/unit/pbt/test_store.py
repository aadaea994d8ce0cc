from __future__ import annotations

import glob
import os

import numpy as np
import pytest
import torch

from sample_factory.pbt.store import (
    JsonFiles,
    hyperparams_in_checkpoint,
    pbt_state_file,
    policy_cfg_file,
    policy_reward_shaping_file,
    read_json,
    read_json_dict,
)
from sample_factory.utils.attr_dict import AttrDict


def test_file_names_are_those_of_the_original(tmp_path):
    cfg = AttrDict(train_dir=str(tmp_path), experiment="e")
    assert policy_cfg_file(cfg, 3) == str(tmp_path / "e" / "policy_03_cfg.json")
    assert policy_reward_shaping_file(cfg, 12) == str(tmp_path / "e" / "policy_12_reward_shaping.json")
    assert pbt_state_file(cfg) == str(tmp_path / "e" / "pbt_state.json")


def test_round_trip_including_null_and_numpy_scalars(tmp_path):
    path = str(tmp_path / "policy_00_reward_shaping.json")
    JsonFiles().write(path, None)
    assert read_json(path) is None
    JsonFiles().write(path, {"rew": np.float64(0.5), "pair": (1, np.int32(2))})
    assert read_json(path) == {"rew": 0.5, "pair": [1, 2]}


def test_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path):
    path = str(tmp_path / "policy_00_cfg.json")
    JsonFiles().write(path, {"learning_rate": 1.0})
    with pytest.raises(TypeError):
        JsonFiles().write(path, {"learning_rate": object()})
    assert read_json(path) == {"learning_rate": 1.0}
    assert os.listdir(tmp_path) == ["policy_00_cfg.json"]


def test_write_never_shows_a_partial_file_under_the_pattern(tmp_path, monkeypatch):
    path = str(tmp_path / "policy_00_cfg.json")
    seen: list[list[str]] = []
    real_replace = os.replace

    def spying_replace(src: str, dst: str) -> None:
        seen.append(glob.glob(str(tmp_path / "policy_*")))
        real_replace(src, dst)

    monkeypatch.setattr(os, "replace", spying_replace)
    JsonFiles().write(path, {"learning_rate": 1.0})
    assert seen == [[]]


def test_damaged_file_is_named_in_the_error(tmp_path):
    path = tmp_path / "policy_01_cfg.json"
    path.write_text('{"learning_rate": 0.0')
    with pytest.raises(ValueError, match=r"policy_01_cfg\.json is damaged"):
        read_json(str(path))
    path.write_text("[1, 2]")
    with pytest.raises(ValueError, match="holds list"):
        read_json_dict(str(path))


def test_checkpoints_without_state_of_a_run_have_no_hyperparameters(tmp_path):
    """Those of Sample Factory 2."""
    cfg = AttrDict(train_dir=str(tmp_path), experiment="e")
    assert hyperparams_in_checkpoint(cfg, 0) is None
    folder = tmp_path / "e" / "checkpoint_p0"
    folder.mkdir(parents=True)
    torch.save({"model": {}, "train_step": 3}, folder / "checkpoint_000000003_300.pth")
    assert hyperparams_in_checkpoint(cfg, 0) is None
    torch.save({"model": {}, "run_state": {"hyperparams": {"gamma": 0.5}}}, folder / "checkpoint_000000002_200.pth")
    assert hyperparams_in_checkpoint(cfg, 0) == {"gamma": 0.5}
