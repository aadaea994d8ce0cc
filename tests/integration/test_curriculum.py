"""Curricula in every mode, with real processes."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sample_factory.algo.learning.checkpoints import read_checkpoint
from sample_factory.algo.runners.runner import AlgoObserver
from sample_factory.algo.utils.misc import ExperimentStatus
from sample_factory.enjoy import enjoy
from tests.integration.harness import MODES, checkpoints, cli, experiment, result_of, train
from tests.level_env import ENV

pytestmark = pytest.mark.multiproc

BAD_CONFIGURATION = 2
FLAGS = ("--curriculum_buffer_size=20", "--curriculum_score=positive_value_loss")


def train_levels(tmp_path: Path, *flags: str, **kwargs: Any) -> Any:
    return train(tmp_path, "--env_module=tests.level_env", *FLAGS, *flags, env=ENV, **kwargs)


def saved_curriculum(tmp_path: Path) -> dict[str, Any]:
    checkpoint = read_checkpoint(str(checkpoints(tmp_path)[-1]), torch.device("cpu"))
    return checkpoint["curriculum"] | {"env_steps": checkpoint["env_steps"], "train_step": checkpoint["train_step"]}


def scalars(tmp_path: Path) -> dict[str, float]:
    accumulator = EventAccumulator(str(experiment(tmp_path) / ".summary" / "0"))
    accumulator.Reload()
    return {tag: accumulator.Scalars(tag)[-1].value for tag in accumulator.Tags()["scalars"]}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("model", [(), ("--use_rnn=True", "--rnn_type=lstm")], ids=["mlp", "lstm"])
def test_modes(tmp_path: Path, mode: str, model: tuple[str, ...]) -> None:
    status, runner = train_levels(tmp_path, *MODES[mode], *model, "--curriculum=accel")
    assert status == ExperimentStatus.SUCCESS, result_of(tmp_path)
    saved = saved_curriculum(tmp_path)
    assert saved["env_steps"] == runner.env_steps[0] > 2000
    # Robust: nothing was trained on until half of the buffer was filled, then a part of every batch.
    assert 0 < saved["train_step"] < saved["env_steps"] // 64
    buffer = saved["buffer"]
    assert buffer["size"] == 20 and torch.isfinite(buffer["scores"]).all()
    assert (buffer["num_mutations"] > 0).any()
    levels = buffer["levels"]["data"].view(torch.int16)
    assert ((levels[:, 0] >= 2) & (levels[:, 0] <= 6) & (levels[:, 1] >= 0) & (levels[:, 1] <= 1)).all()
    assert saved["num_played"].min() > 0 and len(saved["num_played"]) == 8
    lag = runner.policy_lag[0]
    assert 0 <= lag["version_diff_min"] <= lag["version_diff_max"]
    tags = scalars(tmp_path)
    assert {"curriculum/buffer_fill", "curriculum/new_fraction", "curriculum/lost_levels"} <= tags.keys()


@pytest.mark.parametrize(("curriculum", "robust"), [("dr", True), ("plr", True), ("plr", False)])
def test_methods(tmp_path: Path, curriculum: str, robust: bool) -> None:
    flags = (*MODES["serial_sync"], f"--curriculum={curriculum}", f"--curriculum_robust={robust}")
    status, runner = train_levels(tmp_path, *flags)
    assert status == ExperimentStatus.SUCCESS, result_of(tmp_path)
    saved = saved_curriculum(tmp_path)
    all_steps = runner.env_steps[0] // 64
    assert saved["train_step"] == all_steps if curriculum == "dr" or not robust else saved["train_step"] < all_steps
    assert (saved["buffer"] is None) == (curriculum == "dr")


def test_serial_runs_are_repeatable(tmp_path: Path) -> None:
    states = []
    for name in ("a", "b"):
        status, _ = train_levels(tmp_path / name, *MODES["serial_sync"], "--curriculum=accel")
        assert status == ExperimentStatus.SUCCESS
        states.append(saved_curriculum(tmp_path / name))
    for key in ("scores", "ages", "max_returns", "num_mutations"):
        assert torch.equal(states[0]["buffer"][key], states[1]["buffer"][key]), key
    assert torch.equal(states[0]["num_played"], states[1]["num_played"])


@pytest.mark.parametrize("mode", ["async", "serial_sync"])
def test_resumed_run_goes_on_with_the_levels(tmp_path: Path, mode: str) -> None:
    status, _ = train_levels(tmp_path, *MODES[mode], "--curriculum=accel")
    assert status == ExperimentStatus.SUCCESS
    first = saved_curriculum(tmp_path)
    # So short that what was stored cannot have come from the second run alone.
    goal = f"--train_for_env_steps={first['env_steps'] + 64}"
    status, _ = train_levels(tmp_path, *MODES[mode], "--curriculum=accel", goal)
    assert status == ExperimentStatus.SUCCESS
    second = saved_curriculum(tmp_path)
    assert second["env_steps"] > first["env_steps"]
    assert second["buffer"]["size"] == 20
    assert (second["num_played"] >= first["num_played"]).all()
    kept = (second["buffer"]["levels"]["data"] == first["buffer"]["levels"]["data"]).all(dim=1)
    assert kept.float().mean() > 0.3


def test_run_without_a_curriculum_takes_over_from_one_with(tmp_path: Path) -> None:
    train_levels(tmp_path, *MODES["serial_sync"], "--curriculum=plr")
    steps = saved_curriculum(tmp_path)["env_steps"]
    goal = f"--train_for_env_steps={steps + 500}"
    status, runner = train_levels(tmp_path, *MODES["serial_sync"], "--curriculum=none", goal)
    assert status == ExperimentStatus.SUCCESS
    assert runner.env_steps[0] > steps
    assert "curriculum" not in read_checkpoint(str(checkpoints(tmp_path)[-1]), torch.device("cpu"))


class KillOneWorker(AlgoObserver):
    """SIGKILL for the first rollout worker when the buffer is warm; the run ends when its successor has played."""

    def __init__(self) -> None:
        self.played_before: list[int] = []

    def on_training_step(self, runner: Any, training_iteration_since_resume: int) -> None:
        tables = runner.buffer_mgr.levels
        played = tables.num_played.tolist()
        if self.played_before:
            # Environments 0 to 3 are those of the worker that was killed. Two more episodes each: one may be the
            # last of the worker that was killed.
            if all(now > before + 1 for now, before in zip(played, self.played_before, strict=True)):
                runner._stop_training(cause="the successor has played")
        elif tables.draw(0.5) is not None:
            self.played_before = played
            os.kill(runner.sampler.rollout_workers[0].event_loop.process.pid, signal.SIGKILL)


@pytest.mark.parametrize("mode", ["async", "sync"])
def test_worker_that_is_killed_is_replaced_and_goes_on(tmp_path: Path, mode: str) -> None:
    flags = (*MODES[mode], "--curriculum=accel", "--train_for_env_steps=1000000000")
    status, runner = train_levels(tmp_path, *flags, observer=KillOneWorker())
    assert status == ExperimentStatus.SUCCESS, result_of(tmp_path)
    assert runner.faults["worker_restarts"] == 1
    buffer = saved_curriculum(tmp_path)["buffer"]
    assert buffer["size"] == 20 and torch.isfinite(buffer["scores"]).all()


@pytest.mark.parametrize(
    ("env", "flags", "words"),
    [
        ("CartPole-v1", ["--curriculum=dr"], "the environment CartPole-v1 has no levels"),
        (ENV, ["--curriculum=plr", "--batched_sampling=True"], "use --batched_sampling=False"),
        (ENV, ["--curriculum=plr", "--num_policies=2"], "--num_policies=2"),
    ],
)
def test_impossible_curricula_are_refused_before_any_worker_starts(
    tmp_path: Path, env: str, flags: list[str], words: str
) -> None:
    argv = [f"--env={env}", "--env_module=tests.level_env", f"--train_dir={tmp_path}", "--experiment=test", "--ui=none"]
    process = cli(*argv, "--device=cpu", "--num_workers=2", *flags)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == BAD_CONFIGURATION, output
    assert words in output and "rollout_proc" not in output


def test_maze_script_and_its_evaluation(tmp_path: Path) -> None:
    argv = ["--env=maze_with_levels", f"--train_dir={tmp_path}", "--experiment=test"]
    tiny = "--num_envs_per_worker=4 --rollout=8 --batch_size=64 --num_batches_per_epoch=1 --rnn_size=8 --ui=none"
    maze = "--maze_height=4 --maze_width=4 --maze_n_walls=3 --maze_max_episode_steps=10 --train_for_env_steps=3000"
    curriculum = "--curriculum=accel --curriculum_buffer_size=20"
    process = cli(*argv, *tiny.split(), *maze.split(), *curriculum.split(), module="sf_examples.ued.train_maze")
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    assert saved_curriculum(tmp_path)["buffer"]["size"] == 20
    assert 0 <= scalars(tmp_path)["curriculum/passable"] <= 1

    from sf_examples.ued.train_maze import parse_custom_args, register_custom_components

    register_custom_components()
    cfg = parse_custom_args([*argv, "--no_render", "--max_num_episodes=2", "--device=cpu"], evaluation=True)
    status, _ = enjoy(cfg)
    assert status == ExperimentStatus.SUCCESS
