"""Rows L2, L3, C5 with real processes, and a disk that is really full."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import pytest
import torch

from sample_factory import enjoy
from sample_factory.algo.learning.checkpoints import non_finite_tensors, read_checkpoint
from sample_factory.algo.runners.runner import AlgoObserver, Runner
from sample_factory.envs.env_utils import register_env
from tests.integration.harness import (
    SERIAL,
    TINY,
    assert_nothing_left,
    checkpoints,
    cli,
    experiment,
    kill_all_started,
    read_until,
    result_of,
    train,
)

pytestmark = [pytest.mark.multiproc, pytest.mark.timeout(180)]

FAULTY = ("--env=fault_learner", "--env_module=tests.faults.fault_learner", "--train_for_env_steps=100000000")


@pytest.fixture(autouse=True)
def no_run_left_behind():
    yield
    kill_all_started()


def run_faulty(tmp_path, monkeypatch, fault: str, *args: str) -> tuple[int, str]:
    monkeypatch.setenv("LEARNER_FAULT", fault)
    process = cli(*TINY, *FAULTY, f"--train_dir={tmp_path}", "--experiment=test", "--ui=plain", *args)
    output = process.communicate(timeout=150)[0]
    assert_nothing_left(process.pid)
    return process.returncode, output


@pytest.mark.parametrize("mode", [(), SERIAL], ids=["parallel", "serial"])
def test_L2_learner_exception_saves_and_exits_1(tmp_path, monkeypatch, mode):
    returncode, output = run_faulty(tmp_path, monkeypatch, "raise:30", *mode)
    assert returncode == 1
    assert "MemoryError: the learner broke in its update" in output
    assert result_of(tmp_path)["exit_code"] == 1
    saved = read_checkpoint(str(checkpoints(tmp_path)[-1]), "cpu")
    assert saved["train_step"] == 29, "all updates before the exception are saved"
    assert non_finite_tensors(saved) == []


@pytest.mark.parametrize("mode", [(), SERIAL], ids=["parallel", "serial"])
def test_L3_nan_loss_never_reaches_a_checkpoint(tmp_path, monkeypatch, mode):
    flags = ("--save_every_sec=1", "--max_skipped_updates=5", "--save_best_after=0", "--save_best_every_sec=1")
    returncode, output = run_faulty(tmp_path, monkeypatch, "nan:30", *mode, *flags)
    assert returncode == 1
    assert "5 updates in a row were not finite" in output
    found = [*checkpoints(tmp_path), *checkpoints(tmp_path, prefix="best")]
    assert found and all(non_finite_tensors(read_checkpoint(str(path), "cpu")) == [] for path in found)


class Leaves(AlgoObserver):
    def __init__(self, exc: BaseException) -> None:
        self.exc = exc

    def on_training_step(self, runner: Runner, training_iteration_since_resume: int) -> None:
        raise self.exc


@pytest.mark.parametrize(
    ("exc", "exit_code"),
    [(KeyboardInterrupt(), 2), (SystemExit(7), 7), pytest.param(SystemExit(0), 1, marks=pytest.mark.faults)],
    ids=["Ctrl-C", "exit(7)", "exit(0)"],
)
def test_L2_who_leaves_the_program_is_named_as_the_cause(tmp_path, exc, exit_code):
    """Ctrl-C is an exception where an environment has replaced the handlers of the run."""
    try:
        status, _ = train(tmp_path, *SERIAL, "--train_for_env_steps=1000000", observer=Leaves(exc))
    except (SystemExit, KeyboardInterrupt) as left:
        status = getattr(left, "code", None)
    assert status == exit_code == result_of(tmp_path)["exit_code"]
    assert type(exc).__name__ in result_of(tmp_path)["cause"]
    assert checkpoints(tmp_path)


def make_wandering_env(full_env_name, cfg=None, env_config=None, render_mode=None):
    os.chdir(os.environ["ELSEWHERE"])
    return gym.make("CartPole-v1", render_mode=render_mode)


def test_C6_environment_that_changes_the_working_folder(tmp_path, monkeypatch):
    """With a relative --train_dir, in the process that writes the files."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setenv("ELSEWHERE", str(elsewhere))
    monkeypatch.chdir(tmp_path)
    register_env("wandering", make_wandering_env)
    flags = (*SERIAL, "--env_module=tests.faults.test_state_processes")
    status, _ = train(Path("train"), *flags, "--train_for_env_steps=1000", env="wandering")
    assert status == 0 == result_of(tmp_path / "train")["exit_code"]
    assert checkpoints(tmp_path / "train") and list(elsewhere.iterdir()) == []
    monkeypatch.chdir(tmp_path)
    flags = ("--experiment=test", "--train_dir=train", "--no_render", "--max_num_episodes=1")
    assert enjoy.main(["--env=wandering", *flags]) == 0


@pytest.mark.faults
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system needs root")
def test_C5_full_disk_is_survived(tmp_path):
    """Checkpoints, log and TensorBoard on a file system that fills up and is cleared again."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=False)
    if mounted.returncode != 0:
        pytest.skip("this container must not mount file systems")
    try:
        flags = ("--train_for_env_steps=100000000", "--save_every_sec=1", "--experiment_summaries_interval=1")
        process = cli("--env=CartPole-v1", *TINY, *flags, f"--train_dir={disk}", "--experiment=test", "--ui=plain")
        read_until(process, "Fps is")
        ballast = disk / "ballast"
        with pytest.raises(OSError, match="No space left"), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1024))
        good = checkpoints(disk)
        assert good
        read_until(process, "Checkpoints of policy 0 cannot be written at the moment")
        read_until(process, "Fps is")
        read_until(process, "Fps is")
        assert all(read_checkpoint(str(path), "cpu") for path in checkpoints(disk)), "older files are intact"
        assert len(checkpoints(disk)) >= 1
        ballast.unlink()
        read_until(process, "Checkpoints of policy 0 can be written again")
        process.send_signal(signal.SIGINT)
        output = process.communicate(timeout=100)[0]
        assert process.returncode == 2, output
        saved = read_checkpoint(str(checkpoints(disk)[-1]), "cpu")
        assert saved["env_steps"] >= result_of(disk)["env_steps"]["0"]
        assert (experiment(disk) / "sf_log.txt").exists()
    finally:
        kill_all_started()
        subprocess.run(["umount", "-l", disk], check=True)


def test_interpreter_waits_for_a_checkpoint_in_flight(tmp_path):
    """A process that ends right after it asked for a checkpoint still writes it."""
    script = f"""
import torch
from sample_factory.algo.learning.checkpoint_saver import CheckpointSaver, SaveRequest
from sample_factory.algo.learning.checkpoints import CheckpointStore
state = {{"train_step": 7, "env_steps": 70, "model": {{"w": torch.ones(500, 500)}}}}
CheckpointSaver().submit(SaveRequest("latest", (7, 70, 0.0, 0.0)), lambda: CheckpointStore({str(tmp_path)!r}, 2), state)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=100)
    saved = read_checkpoint(str(tmp_path / "checkpoint_000000007_70.pth"), "cpu")
    assert torch.equal(saved["model"]["w"], torch.ones(500, 500))
