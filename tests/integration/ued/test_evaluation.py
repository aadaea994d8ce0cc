"""The evaluation command."""

from __future__ import annotations

import csv
import inspect
import json
import shutil
from pathlib import Path
from typing import Optional

import pytest
import torch

from sample_factory.ued import evaluate
from sample_factory.ued.envs import registration
from sample_factory.ued.envs.registration import make_ued_env
from sample_factory.ued.runs import evaluation
from sample_factory.ued.runs.evaluation import StoredRun, option_value, standard_error, summary
from tests.integration.ued.harness import METHODS, run, train_here

pytestmark = [pytest.mark.multiproc, pytest.mark.timeout(200)]

NAME = "eval/a0:test_return:Maze-SixteenRooms"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three trained runs, a folder without a checkpoint, and one whose name has no number."""
    folder = tmp_path_factory.mktemp("logs")
    for trial in range(2):
        train_here(folder, "--n_total_updates=2", f"--seed={trial}", xpid=f"dr_{trial}")
    train_here(folder, *METHODS["dr"], "--n_total_updates=1", xpid="dr_10")
    train_here(folder, "--n_total_updates=1", xpid="dr_last")
    (folder / "dr_3").mkdir()
    return folder


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def evaluated(runs: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, *args: str, code: int = 0) -> None:
    monkeypatch.chdir(folder)
    assert evaluate.main([f"--log_dir={runs}", *args]) == code


def test_the_command_writes_one_row_per_run(runs: Path, tmp_path: Path) -> None:
    output = run(
        "evaluate",
        f"--log_dir={runs}",
        "--xpid_prefix=dr",
        "--env_names=Maze-SixteenRooms,Maze-Labyrinth",
        "--n_episodes=2",
        "--results_fname=*",
        cwd=tmp_path,
    )
    assert f"Skipping dr_3: there is no {runs / 'dr_3' / 'meta.json'}" in output
    assert f"| min:{NAME}" in output and "+/-" in output
    table = read(tmp_path / "results" / "dr.csv")
    assert [row["xpid"] for row in table] == ["dr_0", "dr_1", "dr_10"]
    names = [f"test_{what}:Maze-{maze}" for maze in ("SixteenRooms", "Labyrinth") for what in ("return", "solved_rate")]
    assert set(table[0]) == {"xpid", *(f"eval/a{i}:{name}" for i in range(2) for name in names)}
    assert table[0][f"eval/a1:{names[0]}"] == "" != table[2][f"eval/a1:{names[0]}"]


def test_one_run(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ("--xpid=dr_last", "--env_names=Maze-SixteenRooms", "--results_path=a/b")
    evaluated(runs, tmp_path, monkeypatch, *flags, "--results_fname=mine")
    assert [row["xpid"] for row in read(tmp_path / "a" / "b" / "mine.csv")] == ["dr_last"]
    evaluated(runs, tmp_path, monkeypatch, *flags)
    assert len(list((tmp_path / "a" / "b").iterdir())) == 1


def test_worst_case(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ["--cvar", "--cvar_n_levels=30", "--cvar_n_episodes=2", "--cvar_fractions=0.5,0.1", "--results_fname=w"]
    flags.append("--cvar_env_options=n_walls=0,max_episode_steps=60")
    evaluated(runs, tmp_path, monkeypatch, "--xpid=dr_0", *flags)
    (row,) = read(tmp_path / "results" / "w.csv")
    rates = [float(row[f"eval/a0:{name}_solved_rate:Maze"]) for name in ("random", "worst_50%", "worst_10%")]
    assert all(0 <= rate <= 1 for rate in rates) and 0 < rates[0] < 1
    evaluated(runs, tmp_path, monkeypatch, "--xpid=dr_0", *flags)
    assert read(tmp_path / "results" / "w.csv") == [row]


def test_worst_case_in_another_maze(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ("--cvar", "--cvar_n_levels=4", "--cvar_n_episodes=1", "--cvar_fractions=0.5", "--results_fname=w")
    maze = ("--cvar_env_name=Maze-PerfectMaze", "--cvar_env_options=max_episode_steps=40")
    evaluated(runs, tmp_path, monkeypatch, "--xpid=dr_0", *flags, *maze)
    (row,) = read(tmp_path / "results" / "w.csv")
    assert 0 <= float(row["eval/a0:random_solved_rate:Maze-PerfectMaze"]) <= 1


def test_other_mazes_keep_their_own_limit_of_steps(runs: Path) -> None:
    run = StoredRun(runs / "dr_0", "checkpoint", torch.device("cpu"))

    def limit(name: str | None, **options: str) -> int:
        return run.random_env(name, options).max_episode_steps

    own = make_ued_env("Maze-PerfectMaze").max_episode_steps
    assert (limit(None), limit("Maze"), limit("Maze-PerfectMaze")) == (10, 10, own)
    assert own > 10
    assert limit("Maze-PerfectMaze", max_episode_steps="450") == 450
    assert limit("Maze-PerfectMaze", max_episode_steps="30") == limit(None, max_episode_steps="30") == 30


def test_pictures(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("PIL")
    evaluated(runs, tmp_path, monkeypatch, "--xpid=dr_0", "--env_names=Maze-SixteenRooms", "--render_mode")
    assert "An episode was written to results/dr_0_a0_Maze-SixteenRooms.gif\n" in capsys.readouterr().out
    picture = tmp_path / "results" / "dr_0_a0_Maze-SixteenRooms.gif"
    assert picture.read_bytes().startswith(b"GIF8")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ("--env_names=Maze,Maze-Sixten",),
            "--env_names=Maze-Sixten: there is no such environment; did you mean 'Maze-SixteenRooms'",
        ),
        (("--cvar", "--cvar_env_name=Maz"), "--cvar_env_name=Maz: there is no such environment; did you mean 'Maze'"),
        (("--env_names=Maze", "--agent_idxs=1"), "no student 1: --agent_idxs takes"),
        (("--cvar", "--cvar_env_options=walls=4"), "no option 'walls'; there are"),
        (("--cvar", "--cvar_env_options=n_walls"), "must be name=value"),
        (("--cvar", "--cvar_env_options=n_walls=a"), "n_walls=a must be of type int"),
        (
            ("--cvar", "--cvar_env_name=Maze-PerfectMaze", "--cvar_env_options=max_episode_steps=long"),
            "--cvar_env_options: max_episode_steps=long must be of type int",
        ),
        (("--cvar", "--cvar_env_options=agent_view_size=7"), "students cannot act in Maze"),
    ],
)
def test_wrong_requests(flags: tuple[str, ...], message: str, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main([f"--log_dir={runs}", "--xpid=dr_0", *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


class BareMaze:
    """A maze that cannot be drawn, and does not tell which levels can be solved. Nobody can play in it."""

    def __init__(self) -> None:
        maze = make_ued_env("Maze")
        self.observation_spec, self.num_actions = maze.observation_spec, maze.num_actions
        self.max_episode_steps, self.sample_levels = maze.max_episode_steps, maze.sample_levels

    def level_metrics(self, levels: object) -> dict[str, torch.Tensor]:
        return {}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--env_names=BareMaze", "--render_mode"), "BareMaze cannot be drawn"),
        (("--env_names=BareMaze", "--cvar", "--cvar_env_name=BareMaze"), "does not tell which levels can be solved"),
    ],
)
def test_what_an_environment_lacks_is_said_before_anything_is_played(
    flags: tuple[str, ...],
    message: str,
    runs: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registration, "_ENTRIES", dict(registration._ENTRIES))
    registration.register_ued_env("BareMaze", BareMaze)
    assert evaluate.main([f"--log_dir={runs}", "--xpid=dr_0", *flags]) == 2
    assert message in capsys.readouterr().err


def test_a_run_whose_module_is_missing(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(runs / "dr_0", tmp_path / "run")
    meta = json.loads((tmp_path / "run" / "meta.json").read_text())
    meta["config"]["env_module"] = "no_such_module"
    (tmp_path / "run" / "meta.json").write_text(json.dumps(meta))
    assert evaluate.main([f"--log_dir={tmp_path}", "--xpid=run", "--env_names=Maze"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"error: {tmp_path / 'run'} was trained with --env_module=no_such_module: cannot be imported" in line


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_missing_gpu(
    device: str, runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    flags = (f"--log_dir={runs}", "--xpid=dr_0", "--env_names=Maze", f"--device={device}")
    assert evaluate.main(flags) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"error: --device={device}" in line
    assert "this machine has 0 GPUs that PyTorch can use; take --device=cpu" in line


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "--env_names is needed"),
        (("--env_names=,",), "--env_names is needed"),
        (("--env_names=Maze", "--n_episodes=0"), "--n_episodes=0: must be >= 1"),
        (("--env_names=Maze", "--device=tpu"), "--device=tpu: must be cpu"),
        (("--env_names=Maze", "--seed=-1"), "--seed=-1: must be >= 0"),
        (("--env_names=Maze", "--seed=99999999999999999999"), "--seed=99999999999999999999: must be >= 0 and <= "),
        (("--env_names=Maze", "--results_fname="), "--results_fname=: must be a file name"),
        (("--env_names=Maze", "--render_mode=ipython"), "--render_mode: invalid choice: 'ipython'"),
        (("--cvar=maybe",), "must be yes or no, got 'maybe'"),
        (("--cvar", "--cvar_fractions=2"), "--cvar_fractions"),
        (("--env_names=Maze-FourRooms", "--cvar_env_options=n_walls=9"), "--cvar_env_options has no effect without"),
        (("--env_name=Maze",), "--env_name"),
    ],
)
def test_wrong_command_lines(flags: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        evaluate.main(flags)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_ctrl_c_ends_without_a_traceback(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def press(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sample_factory.ued.runs.evaluation.evaluate_run", press)
    flags = (f"--log_dir={runs}", "--xpid=dr_0", "--env_names=Maze", f"--results_path={tmp_path}", "--results_fname=x")
    assert evaluate.main(flags) == 2
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .endswith("Ctrl-C: ended before all runs were evaluated; there are no results")
    )
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flags in (("--xpid_prefix=x",), ("--xpid=x",)):
        assert evaluate.main([f"--log_dir={tmp_path}", "--env_names=Maze", *flags]) == 1
    assert "There is no run to evaluate" in capsys.readouterr().out


@pytest.mark.parametrize("flags", [("--results_fname=x",), ("--results_fname=a/x",), ("--render_mode",)])
def test_results_without_a_place_are_refused_before_the_evaluation(
    flags: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    train_here(tmp_path, "--n_total_updates=1")
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(evaluation, "evaluate_run", lambda *_: pytest.fail("evaluated"))
    place = (f"--log_dir={tmp_path}", "--xpid=run", f"--results_path={tmp_path / 'file'}")
    capsys.readouterr()
    assert evaluate.main([*place, "--env_names=Maze", *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"error: --results_path={tmp_path / 'file'}: " in line and "cannot be made" in line
    assert (tmp_path / "file").read_text() == "mine"


def test_summary_over_runs() -> None:
    results = [{"a": 0.5, "b": 1.0}, {"a": 0.25, "b": 1.0}, {"a": 0.75}]
    assert summary(results) == [("a", "0.5 +/- 0.12"), ("min:a", "0.25"), ("b", "1 +/- 0"), ("min:b", "1")]
    assert standard_error([1.0, 3.0]) == pytest.approx(1 / 2**0.5)


def test_text_becomes_what_an_option_is() -> None:
    def build(size: int, *, limit: Optional[int] = None, names: tuple[str, ...] = ("a",), share=0.5) -> None: ...  # noqa: UP045

    options = inspect.signature(build).parameters
    texts = {"size": "7", "limit": "8", "names": "12", "share": "1"}
    values = {name: option_value(name, text, options) for name, text in texts.items()}
    assert values == {"size": 7, "limit": 8, "names": "12", "share": 1.0}
