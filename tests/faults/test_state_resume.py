"""Rows C2, C7, C8, C10, C13 through whole runs: what a start makes of damaged or foreign state."""

from __future__ import annotations

import json
import os
import shutil
from types import SimpleNamespace

import pytest
import torch

from sample_factory.algo.learning.checkpoints import CheckpointError, list_checkpoints, read_checkpoint
from sample_factory.algo.learning.learner_worker import LearnerWorker
from sample_factory.algo.utils.misc import ExperimentStatus
from sample_factory.cfg.errors import ConfigError
from sample_factory.enjoy import enjoy
from sample_factory.huggingface import huggingface_utils
from sample_factory.train import run_rl
from tests.integration.harness import SERIAL, TINY, checkpoints, experiment, parse, result_of, train

SHORT = (*SERIAL, "--train_for_env_steps=500")


@pytest.fixture
def no_learner_may_start(monkeypatch):
    def fail(*_):
        raise AssertionError("a learner was created")

    monkeypatch.setattr(LearnerWorker, "__init__", fail)


def saved_env_steps(train_dir) -> int:
    return int(read_checkpoint(str(checkpoints(train_dir)[-1]), "cpu")["env_steps"])


# --- C2 ---


@pytest.mark.parametrize("mode", [(), SERIAL], ids=["parallel", "serial"])
def test_C2_unreadable_checkpoints_exit_1_before_workers_start(tmp_path, mode, no_learner_may_start, caplog):
    folder = experiment(tmp_path) / "checkpoint_p0"
    folder.mkdir(parents=True)
    for name in ("checkpoint_000000001_64.pth", "checkpoint_000000002_128.pth", "best_000000001_64_reward_1.000.pth"):
        (folder / name).write_bytes(b"half of it")
    assert run_rl(parse(tmp_path, *TINY, *mode)) == ExperimentStatus.FAILURE
    assert "--allow_fresh_start=True" in caplog.text and "checkpoint_000000002_128.pth" in caplog.text
    assert len(list(folder.iterdir())) == 3, "nothing was deleted"
    result = result_of(tmp_path)
    assert result["exit_code"] == 1 and "cannot be resumed" in result["cause"]


def test_C2_runner_of_a_script_refuses_as_well(tmp_path, no_learner_may_start):
    folder = experiment(tmp_path) / "checkpoint_p0"
    folder.mkdir(parents=True)
    (folder / "checkpoint_000000001_64.pth").write_bytes(b"")
    with pytest.raises(CheckpointError, match="--allow_fresh_start"):
        train(tmp_path, *SHORT)


def test_C2_allow_fresh_start(tmp_path):
    folder = experiment(tmp_path) / "checkpoint_p0"
    folder.mkdir(parents=True)
    (folder / "checkpoint_000000777_64.pth").write_bytes(b"")
    status, runner = train(tmp_path, *SHORT, "--allow_fresh_start=True")
    assert status == ExperimentStatus.SUCCESS
    assert runner.env_steps[0] == runner.total_env_steps_since_resume
    assert (folder / "checkpoint_000000777_64.pth.corrupt").exists()


# --- C7 ---


@pytest.mark.parametrize("damage", ["empty", "cut", "missing", "list"])
def test_C7_config_is_rebuilt_from_the_copy_in_the_checkpoint(tmp_path, damage, caplog):
    assert train(tmp_path, *SHORT, "--rnn_size=24", "--nonlinearity=tanh")[0] == ExperimentStatus.SUCCESS
    config = experiment(tmp_path) / "config.json"
    before = config.read_bytes()
    if damage == "missing":
        config.unlink()
    else:
        config.write_bytes({"empty": b"", "cut": before[: len(before) // 2], "list": b"[1]"}[damage])
    steps = saved_env_steps(tmp_path)
    cfg = parse(tmp_path, *SERIAL, "--train_for_env_steps=1000", "--device=cpu", "--ui=none")
    assert run_rl(cfg) == ExperimentStatus.SUCCESS
    assert "rebuilt from the copy in" in caplog.text
    assert saved_env_steps(tmp_path) >= max(1000, steps)
    rebuilt, saved = json.loads(config.read_text()), json.loads(before)
    assert rebuilt["rnn_size"] == 24 and rebuilt["nonlinearity"] == "tanh"
    changed = {key for key in saved if saved[key] != rebuilt.get(key)}
    assert changed <= {"train_for_env_steps", "command_line", "cli_args"}
    kept = experiment(tmp_path) / "config.json.corrupt"
    assert kept.exists() == (damage != "missing"), "the broken file may hold somebody's edits"


def test_C7_without_a_copy_the_error_says_what_to_do(tmp_path):
    assert train(tmp_path, *SHORT)[0] == ExperimentStatus.SUCCESS
    for path in checkpoints(tmp_path):
        content = torch.load(path, weights_only=True)
        del content["cfg"]  # as the original writes it
        torch.save(content, path)
    (experiment(tmp_path) / "config.json").write_text("{")
    assert run_rl(parse(tmp_path, *TINY)) == 2


# --- C8 ---


@pytest.mark.parametrize("mode", [(), SERIAL], ids=["parallel", "serial"])
def test_C8_other_architecture_exits_2_before_workers_start(tmp_path, mode, caplog, monkeypatch):
    assert train(tmp_path, *SHORT)[0] == ExperimentStatus.SUCCESS
    config = (experiment(tmp_path) / "config.json").read_bytes()
    files = sorted(path.name for path in checkpoints(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(LearnerWorker, "__init__", None)  # calling it would raise
        args = (*TINY, *mode, "--encoder_mlp_layers", "24", "--normalize_returns=False")
        assert run_rl(parse(tmp_path, *args)) == 2
    assert "critic_linear.weight: checkpoint (1, 16), this model (1, 24)" in caplog.text
    assert "not in this model: returns_normalizer.running_mean" in caplog.text
    assert "--encoder_mlp_layers (checkpoint: [16], now: [24])" in caplog.text
    assert "--normalize_returns (checkpoint: True, now: False)" in caplog.text
    assert sorted(path.name for path in checkpoints(tmp_path)) == files
    assert (experiment(tmp_path) / "config.json").read_bytes() == config, "the flags that do not fit are not stored"
    assert result_of(tmp_path)["exit_code"] == 2
    assert train(tmp_path, *SERIAL, "--train_for_env_steps=700")[0] == ExperimentStatus.SUCCESS


def test_C8_runner_of_a_script_refuses_as_well(tmp_path):
    assert train(tmp_path, *SHORT)[0] == ExperimentStatus.SUCCESS
    with pytest.raises(ConfigError, match=r"missing in the checkpoint: core\.core\.weight_ih_l0(?s:.*)--use_rnn"):
        train(tmp_path, *SHORT, "--use_rnn=True", "--recurrence=-1")


# --- C13 ---


def test_C13_newest_is_chosen_by_content(tmp_path):
    """Files that were copied or renamed by hand count as what they hold."""
    assert train(tmp_path, *SHORT, "--keep_checkpoints=5")[0] == ExperimentStatus.SUCCESS
    (newest,) = checkpoints(tmp_path)[-1:]
    content = torch.load(newest, weights_only=True)
    old = content | {"train_step": 1, "env_steps": 64}
    torch.save(old, newest.with_name("checkpoint_000009999_639936.pth"))
    status, runner = train(tmp_path, *SERIAL, "--train_for_env_steps=600")
    assert status == ExperimentStatus.SUCCESS
    assert runner.env_steps[0] - runner.total_env_steps_since_resume == content["env_steps"]


# --- resuming is continuing ---


def test_serial_resume_is_reproducible_and_does_not_repeat_random_numbers(tmp_path):
    first = tmp_path / "a"
    assert train(first, *SHORT, "--num_workers=2")[0] == ExperimentStatus.SUCCESS
    shutil.copytree(first, tmp_path / "b")
    content = read_checkpoint(str(checkpoints(first)[-1]), "cpu")
    streams = content["run_state"]["random"]["components"]
    assert {"minibatches/0", "summaries/0", "actions/0/0"} <= set(streams)

    ends = []
    for folder in (first, tmp_path / "b"):
        assert train(folder, *SERIAL, "--train_for_env_steps=1500")[0] == ExperimentStatus.SUCCESS
        ends.append(read_checkpoint(str(checkpoints(folder)[-1]), "cpu"))
    assert ends[0]["env_steps"] == ends[1]["env_steps"] > content["env_steps"]
    for name, value in ends[0]["model"].items():
        assert torch.equal(value, ends[1]["model"][name]), name
    for name, state in ends[0]["run_state"]["random"]["components"].items():
        if name != "summaries/0":  # summaries are due by the clock
            assert state == ends[1]["run_state"]["random"]["components"][name], name
            # One stream of PCG64 all along: the same increment, another position.
            assert state["state"]["inc"] == streams[name]["state"]["inc"]
    assert ends[0]["run_state"]["random"]["components"]["actions/0/0"] != streams["actions/0/0"]
    assert list_checkpoints(str(experiment(first) / "checkpoint_p0"))


# --- C10 ---


class RunsCode:
    def __init__(self, marker) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_C10_downloaded_checkpoint_runs_no_code(tmp_path, monkeypatch):
    """From the hub into the train dir, then trained on and evaluated: refused with exit code 1 by both."""
    assert train(tmp_path, *SHORT)[0] == ExperimentStatus.SUCCESS
    marker = tmp_path / "owned"

    def snapshot_download(repo_id, local_dir):
        shutil.copytree(experiment(tmp_path), local_dir)
        for path in list_checkpoints(f"{local_dir}/checkpoint_p0"):
            torch.save(torch.load(path, weights_only=True) | {"payload": RunsCode(marker)}, path)

    hub = SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setattr(huggingface_utils, "import_hub", lambda: hub)
    target = tmp_path / "downloaded"
    huggingface_utils.load_from_hf(str(target), "somebody/test")
    assert run_rl(parse(target, *TINY, *SHORT)) == ExperimentStatus.FAILURE
    with pytest.raises(CheckpointError, match="--unsafe_load=True"):
        enjoy(parse(target, "--device=cpu", "--no_render", "--max_num_episodes=1", evaluation=True))
    assert not marker.exists()
