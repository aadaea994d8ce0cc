"""Trainings as users start them: every method, resume, and what is on the disk afterwards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sample_factory.ued import evaluate
from sample_factory.ued.models import registration
from sample_factory.ued.runs import checkpoint
from sample_factory.ued.train import main
from tests.integration.ued.harness import METHODS, TINY, rows, ticks, train, train_here

pytestmark = [pytest.mark.multiproc, pytest.mark.timeout(400)]

TEST = ("--test_env_names=Maze-SixteenRooms", "--test_n_episodes=1", "--test_interval=2", "--maze_test_see_agent=False")


def states_equal(first: object, second: object) -> bool:
    """Equality of checkpoints, tensor by tensor."""
    if isinstance(first, torch.Tensor):
        return isinstance(second, torch.Tensor) and torch.equal(first, second)
    if isinstance(first, dict):
        return (
            isinstance(second, dict)
            and first.keys() == second.keys()
            and all(states_equal(value, second[key]) for key, value in first.items())
        )
    if isinstance(first, list | tuple):
        return isinstance(second, list | tuple) and len(first) == len(second) and all(map(states_equal, first, second))
    return first == second


def state_of(directory: Path) -> dict[str, object]:
    stored = checkpoint.load(directory / "checkpoint.pt")
    return {key: value for key, value in stored.items() if key != "config"}


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_run_is_an_uninterrupted_one(method: str, tmp_path: Path) -> None:
    flags = (*METHODS[method], *TEST)
    train_here(tmp_path, *flags, "--n_total_updates=5", xpid="whole")
    train_here(tmp_path, *flags, "--n_total_updates=2", xpid="parts")
    train_here(tmp_path, *flags, "--n_total_updates=5", "--from_last_checkpoint", xpid="parts")

    whole = rows(tmp_path / "whole")
    assert rows(tmp_path / "parts") == whole
    assert ticks(tmp_path / "whole") == list(range(1, len(whole) + 1))
    assert [int(row["n_updates"]) for row in whole][-1] == 5
    assert states_equal(state_of(tmp_path / "whole"), state_of(tmp_path / "parts"))
    for row in whole:
        is_test = int(row["_tick"]) % 2 == 0
        assert (row["eval/a0:test_solved_rate:Maze-SixteenRooms"] != "") == is_test
    meta = json.loads((tmp_path / "parts" / "meta.json").read_text())
    assert meta["successful"] is True and meta["date_end"] is not None


def test_a_run_goes_on_until_every_student_has_its_updates(tmp_path: Path) -> None:
    train_here(tmp_path, *METHODS["robust_plr"], "--n_students=2", "--plr_replay_prob=0.3", "--n_total_updates=4")
    stored = checkpoint.load(tmp_path / "run" / "checkpoint.pt")
    updates = sorted(student["n_updates"] for student in stored["agents"]["students"])
    assert updates[0] == 4 < updates[1], "students replay in cycles of their own"


@pytest.mark.parametrize("method", ["dr", "robust_plr", "accel", "parallel_plr", "paired", "sfl"])
def test_processes_train_and_go_on(method: str, tmp_path: Path) -> None:
    train(tmp_path, *METHODS[method], "--n_total_updates=1")
    stopped_at = ticks(tmp_path / "run")[-1]
    output = train(tmp_path, *METHODS[method], "--n_total_updates=2", "--from_last_checkpoint")
    assert f"after {stopped_at} cycles" in output
    assert "Other than in the checkpoint: n_total_updates was 1, is 2" in output
    assert ticks(tmp_path / "run") == list(range(1, ticks(tmp_path / "run")[-1] + 1))
    assert rows(tmp_path / "run")[-1]["n_updates"] == "2"


def test_files_of_a_run(tmp_path: Path) -> None:
    train_here(
        tmp_path,
        *METHODS["robust_plr"],
        "--n_total_updates=4",
        "--log_interval=2",
        "--archive_interval=3",
        "--archive_init_checkpoint=True",
        "--level_grid_interval=2",
        "--level_grid_size=4",
        "--plr_replay_prob=1",
    )
    run = tmp_path / "run"
    last = checkpoint.load(run / "checkpoint.pt")["counters"]["tick"]
    logged = list(range(2, last + 1, 2))
    assert ticks(run) == logged
    assert sorted(path.name for path in run.iterdir()) == sorted(
        [".lock", "logs.csv", "meta.json", "levels", "checkpoint.pt"]
        + [f"checkpoint_{tick}.pt" for tick in range(0, last + 1, 3)]
    )
    assert sorted(path.name for path in (run / "levels").iterdir()) == sorted(f"{tick}.png" for tick in logged)
    assert checkpoint.load(run / "checkpoint_0.pt")["agents"]["students"][0]["n_updates"] == 0


def test_a_new_run_keeps_the_one_before(tmp_path: Path) -> None:
    train_here(tmp_path, "--n_total_updates=2")
    before = rows(tmp_path / "run")
    train_here(tmp_path, "--n_total_updates=1", "--seed=2")
    assert rows(tmp_path / "run" / "previous") == before
    assert ticks(tmp_path / "run") == [1]
    train_here(tmp_path, "--n_total_updates=3", "--seed=3")
    assert rows(tmp_path / "run" / "previous") == before
    assert ticks(tmp_path / "run" / "previous0001") == [1]
    assert ticks(tmp_path / "run") == [1, 2, 3]


def test_a_diverged_run_ends_and_keeps_its_last_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_here(tmp_path, "--n_total_updates=1")
    before = (tmp_path / "run" / "checkpoint.pt").read_bytes()
    flags = (*TINY, f"--log_dir={tmp_path}", "--xpid=run", "--from_last_checkpoint", "--n_total_updates=1000")
    assert main([*flags, "--lr=1e30"]) == 1
    assert "the training has diverged after" in capsys.readouterr().err
    assert (tmp_path / "run" / "checkpoint.pt").read_bytes() == before
    assert json.loads((tmp_path / "run" / "meta.json").read_text())["successful"] is False
    assert ticks(tmp_path / "run")[-1] < 1000


def contents(directory: Path) -> dict[str, bytes]:
    """Files of a run; the lock says who used the folder last."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file() and path.name != ".lock"}


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    train_here(tmp_path, "--n_total_updates=1")
    run = tmp_path / "run"
    before = contents(run)
    for flags, message in (
        (("--student_hidden_dim=16",), "another network of the student 0"),
        (("--student_recurrent_arch=gru",), "use the model flags of that run, or another --xpid"),
        (("--n_students=2", "--track_env_metrics=False"), "has other columns than this run"),
        (METHODS["paired"], "has other columns than this run"),
    ):
        output = train(tmp_path, *flags, "--n_total_updates=2", "--from_last_checkpoint", expected=2)
        assert output.count("error:") == 1 and message in output
        assert "Traceback" not in output
        assert contents(run) == before


@pytest.mark.parametrize(
    ("flags", "change", "message"),
    [
        (METHODS["sfl"], "--maze_width=9", "the saved levels consist of"),
        (METHODS["dr"], "--n_parallel=2", "of 4 environments, this run has 2"),
        (METHODS["dr"], "--n_eval=2", "of 4 environments, this run has 8"),
        (METHODS["paired"], "--n_parallel=2", "of 4 environments, this run has 2"),
    ],
    ids=["sfl", "dr", "dr with copies", "paired"],
)
def test_a_checkpoint_that_does_not_fit_is_refused_before_files_change(
    flags: tuple[str, ...], change: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # In minimax, recurrent states go from cycle to cycle.
    flags = (*flags, "--ued_compat=minimax", "--n_parallel=4")
    train_here(tmp_path, *flags, "--n_total_updates=1")
    before = contents(tmp_path / "run")
    place = (f"--log_dir={tmp_path}", "--xpid=run", "--from_last_checkpoint", "--n_total_updates=2")
    capsys.readouterr()
    assert main([*TINY, *flags, *place, change]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert "checkpoint.pt does not fit this run: " in line and message in line
    assert contents(tmp_path / "run") == before


@pytest.mark.parametrize(
    ("flags", "messages"),
    [
        (["--plr_temp=1"], ["it belongs to --train_runner=plr"]),
        (["--env_name=Maz"], ["--env_name=Maz: there is no such environment; did you mean 'Maze'", "--env_module"]),
        (
            ["--test_env_names=Maze,Maze-Labyrint"],
            ["--test_env_names=Maze-Labyrint: ", "did you mean 'Maze-Labyrinth'"],
        ),
        (["--env_module=json", "--env_name=Maz"], ["(--env_module=json registers no other ones)"]),
        (["--level_grid_interval=1"], ["does not have; set it to 0"]),
        (["--device=cuda:77"], ["--device=cuda:77", "this machine has", "--device=cpu"]),
        (["--student_model_name=nothing"], ["--student_model_name=nothing: there is no such network; did you mean"]),
        (["--maze_n_walls=1000"], ["--maze_n_walls=1000: ", "has room for 167 walls; lower it"]),
        (
            ["--train_runner=plr", "--ued_score=max_mc", "--plr_mutation_fn=defalt", "--plr_n_mutations=1"],
            ["--plr_mutation_fn=defalt: ", "did you mean 'default'?"],
        ),
        (
            ["--student_n_scalar_embeddings=3"],
            ["--student_n_scalar_embeddings=3 is too small: ", "has 4 values; set that, or 0"],
        ),
        (["--train_runner=sfl", "--sfl_batch_size=10"], ["--sfl_buffer_size=1000 is more than the 50 levels"]),
    ],
)
def test_wrong_flags_leave_no_folder(
    flags: list[str], messages: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = main([f"--log_dir={tmp_path}", *flags])
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert all(message in line for message in messages)
    assert printed.out == ""  # not at the end of the whole configuration
    assert list(tmp_path.iterdir()) == []


def test_all_unknown_names_are_reported_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"--log_dir={tmp_path}", "--env_name=Maz", "--test_env_names=A,Maze,B", "--device=cuda:77"]) == 2
    named = [line.split("error: ")[1].split(":")[0].split(" ")[0] for line in capsys.readouterr().err.splitlines()]
    assert named == ["--env_name=Maz", "--test_env_names=A", "--test_env_names=B", "--device=cuda"]


def test_wrong_flags_that_only_ranks_can_find_have_the_same_exit_code(tmp_path: Path) -> None:
    output = train(tmp_path, "--n_devices=2", "--level_grid_interval=1", expected=2)
    assert output.count("error: --level_grid_interval") == 1
    assert "Traceback" not in output and "'train_runner'" not in output
    assert list(tmp_path.iterdir()) == []


def test_a_run_says_where_its_files_are_and_what_it_has_reached(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_here(tmp_path, "--n_total_updates=2")
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert f"Training until there are 2 updates; the files of the run are in {tmp_path / 'run'}" in lines[0]
    assert lines[-1].endswith(f"The run has 2 of 2 updates, 2 cycles, 128 steps; its files are in {tmp_path / 'run'}")
    assert "_tick" not in printed.out  # tables are for --verbose


def test_only_one_of_several_processes_says_it(tmp_path: Path) -> None:
    output = train(tmp_path, "--n_total_updates=1", "--n_devices=2", "--lr_final=0.5")
    assert output.count("--lr_final=0.5 has no effect without --lr_anneal_steps: the learning rate stays 0.0001") == 1
    assert output.count("Training until there are 1 updates") == output.count("The run has 1 of 1 updates") == 1


def test_minibatches_that_do_not_fit_a_registered_network_leave_no_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(spec: Any, num_actions: int, no_options: Any, generator: Any) -> Any:
        options = {"recurrent_arch": "lstm", "recurrent_hidden_dim": 8}
        return registration.make_student_model("default_student_cnn", spec, num_actions, options, generator)

    monkeypatch.setattr(registration, "_students", dict(registration._students))
    registration.register_student_model("memory", build)
    flags = ("--student_model_name=memory", "--n_parallel=3", "--n_rollout_steps=4", "--student_ppo_n_minibatches=2")
    assert main([f"--log_dir={tmp_path}", "--n_total_updates=1", *flags]) == 2
    assert "--student_ppo_n_minibatches=2 does not divide the 3 environments" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_no_folder_for_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    assert main([*TINY, f"--log_dir={file}", "--xpid=run"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"error: --log_dir, --xpid: {file}/run cannot be made" in line
    assert file.read_text() == "mine"


LAVA = ("--env_module=sf_examples.ued.lava_grid", "--env_name=LavaGrid", "--n_parallel=4", "--n_rollout_steps=12")


@pytest.mark.parametrize(
    "flags",
    [
        (*METHODS["accel"], "--plr_force_unique=True", "--test_env_names=LavaGrid", "--test_interval=1"),
        ("--train_runner=paired", "--n_students=2", "--teacher_model_name=default_teacher_cnn", "--lava_ued_n_lava=3"),
    ],
    ids=["accel", "paired"],
)
def test_environments_of_users(flags: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = (f"--log_dir={tmp_path}", "--xpid=run", "--track_env_metrics=True")
    for total in (1, 2):
        assert main([*LAVA, *place, *flags, f"--n_total_updates={total}", "--from_last_checkpoint"]) == 0
    assert rows(tmp_path / "run")[-1]["n_updates"] == "2"
    monkeypatch.chdir(tmp_path)
    evaluation = (f"--log_dir={tmp_path}", "--xpid=run", "--env_names=LavaGrid", "--results_fname=x")
    assert evaluate.main(evaluation) == 0
    assert (tmp_path / "results" / "x.csv").read_text().startswith("xpid,eval/a0:test_return:LavaGrid")
