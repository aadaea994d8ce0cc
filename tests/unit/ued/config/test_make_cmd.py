"""Configuration files and the commands made of them."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from sample_factory.ued import make_cmd
from sample_factory.ued.config import parser
from sample_factory.ued.config.files import find_config, load_config, shipped_names
from sample_factory.ued.config.run_id import run_id
from sample_factory.ued.config.train_args import parse_train_args
from sf_examples.ued import lava_grid
from tests.unit.ued.config.minimax_configs import expected_texts

SHIPPED = ["accel", "dr", "paccel", "paired", "plr", "pplr"]
EXPECTED = """python -m sample_factory.ued.train \\
--train_runner=dr \\
--seed=7 \\
--lr=0.0001 \\
--student_entropy_coef=0.0 \\
--test_agent_idxs="*" \\
--log_dir=~/logs \\
--xpid=dr-maze13x13w25-r1s_1p_1e_250t_ae1e-05-ppo_lr0.0001g0.995cv0.5ce0.0e5mb1l0.95_pc0.2_h32cf16fc1se5ba_re_2

"""
ARGS: dict[str, list[Any]] = {
    "train_runner": ["dr"],
    "seed": [5],
    "lr": [1e-4, 3e-4],
    "student_entropy_coef": [0.0, 0.1],
    "student_recurrent_arch": [None],
    "test_agent_idxs": ["*"],
    "log_dir": ["~/logs"],
}


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, name: str = "mine", args: dict[str, list[Any]] = ARGS, **more: Any) -> None:
    path = folder / "config" / "configs" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"args": args, **more}))


def output(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert make_cmd.main(argv) == 0
    return capsys.readouterr().out


def flags_of(text: str) -> list[dict[str, str]]:
    """Of every printed command."""
    found = []
    for command in text.strip().split("\n\n"):
        words = shlex.split(command.replace("\\\n", " "))
        assert words[:2] == ["python", "-m"]
        found.append({"module": words[2], **dict(word[2:].split("=", 1) for word in words[3:])})
    return found


# --- shipped files ---


def test_twelve_files_are_shipped() -> None:
    assert shipped_names() == sorted(f"maze/{prefix}{name}" for prefix in ("", "s5_") for name in SHIPPED)


@pytest.mark.parametrize("name", shipped_names())
def test_shipped_files_pass_all_checks(name: str) -> None:
    args = parse_train_args([f"--config={name}"])
    config = load_config(find_config(name))
    assert args.values["n_total_updates"] == 30000
    assert set(config.args) <= set(args.values)
    assert args.values["student_recurrent_arch"] == ("s5" if "s5_" in name else "lstm")


@pytest.mark.parametrize("name", shipped_names())
def test_values_of_shipped_files(name: str) -> None:
    args = load_config(find_config(name)).args
    texts = {flag: str(value) for flag, (value,) in args.items()}
    assert texts == expected_texts()[name.removeprefix("maze/")]


# --- commands ---


def test_text_of_a_command(in_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(in_folder)
    text = output(capsys, "--config=mine", "--start_index=2")
    assert text.startswith(EXPECTED)
    assert text.count("python -m") == 4


def test_order_of_combinations_and_trials(in_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(in_folder)
    found = flags_of(output(capsys, "-c", "mine.json", "--n_trials=2"))
    seen = [(f["lr"], f["student_entropy_coef"], f["seed"], f["xpid"].rpartition("_")[2]) for f in found]
    trials = [("5", "0"), ("6", "1")]
    values = [("0.0001", "0.0"), ("0.0003", "0.0"), ("0.0001", "0.1"), ("0.0003", "0.1")]
    assert seen == [(*value, *trial) for value in values for trial in trials]
    assert len({f["xpid"] for f in found}) == 8


@pytest.mark.parametrize("name", shipped_names())
def test_commands_of_shipped_files_are_command_lines(
    name: str, in_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (flags,) = flags_of(output(capsys, f"--config={name}"))
    assert flags.pop("module") == "sample_factory.ued.train"
    parse_train_args([f"--{flag}={value}" for flag, value in flags.items()])


def test_count(in_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(in_folder)
    assert make_cmd.main(["--config=mine", "--n_trials=3", "--count"]) == 0
    printed = capsys.readouterr()
    assert len(flags_of(printed.out)) == 12  # and nothing but commands: they may be on their way into a script
    assert printed.err == (
        "Generated 12 unique commands.\nSweep over\nlr: 2\nstudent_entropy_coef: 2\nTotal num settings: 4\n"
    )


def test_count_without_alternatives(in_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(in_folder, args={"lr": [0.5]})
    assert make_cmd.main(["--config=mine", "--n_trials=5", "--count"]) == 0
    assert capsys.readouterr().err == "Generated 5 unique commands.\nTotal num settings: 1\n"


def test_evaluation_commands_have_no_run_id(in_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(in_folder, args={"xpid": ["a", "b"], "env_names": ["Maze-Labyrinth"]}, cmd="eval")
    found = flags_of(output(capsys, "--config=mine"))
    assert [f.get("xpid") for f in found] == ["a", "b"]
    assert {f["module"] for f in found} == {"sample_factory.ued.evaluate"}


def test_checkpoint_continues_runs(in_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(in_folder)
    found = flags_of(output(capsys, "--config=mine", "--checkpoint"))
    assert {f["from_last_checkpoint"] for f in found} == {"True"}


def test_prefix_of_run_ids(in_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(in_folder, xpid_prefix="sweep3")
    assert all(f["xpid"].startswith("sweep3-dr-maze") for f in flags_of(output(capsys, "--config=mine")))


def test_runs_that_ids_do_not_tell_apart_have_names_of_their_own(
    in_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(in_folder, args={"seed": [1, 5], "max_grad_norm": [0.5, 1.0], "lr": [1e-4, 3e-4]})
    found = flags_of(output(capsys, "--config=mine", "--n_trials=2"))
    assert len({f["xpid"] for f in found}) == len(found) == 16
    for i, f in enumerate(found):
        trial = i % 2
        first_seed = int(f["seed"]) - trial
        plain = run_id(parse_train_args([f"--lr={f['lr']}"]).values)
        assert f["xpid"] == f"{plain}-seed={first_seed}-max_grad_norm={f['max_grad_norm']}_{trial}"


def test_distinct_ids_are_names_as_they_are(in_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(in_folder, args={"seed": [7], "max_grad_norm": [2.0], "lr": [1e-4, 3e-4]})
    found = flags_of(output(capsys, "--config=mine"))
    plain = [run_id(parse_train_args([f"--lr={lr}"]).values) for lr in ("0.0001", "0.0003")]
    assert [f["xpid"] for f in found] == [f"{name}_0" for name in plain]


def test_names_are_fit_for_folders(in_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(
        in_folder, args={"log_dir": ["/a b/c", "~/logs"], "test_env_names": ["Maze-Labyrinth,Maze-FourRooms", "Maze"]}
    )
    found = flags_of(output(capsys, "--config=mine"))
    assert len({f["xpid"] for f in found}) == 4
    for f in found:
        assert re.fullmatch(r"[\w.+=-]+_0", f["xpid"])
        parse_train_args([f"--xpid={f['xpid']}"])


def test_flags_of_environments_of_users(
    in_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # As in a new process, where nobody has imported the module.
    monkeypatch.setattr(parser, "_EXTRA_GROUPS", [])
    monkeypatch.delitem(sys.modules, lava_grid.__name__)
    write(in_folder, args={"env_module": [lava_grid.__name__], "env_name": ["LavaGrid"], "lava_max_lava": [5, 10]})
    found = flags_of(output(capsys, "--config=mine"))
    assert [f["lava_max_lava"] for f in found] == ["5", "10"]
    assert len({f["xpid"] for f in found}) == 2
    assert parse_train_args([f"--{k}={v}" for k, v in found[1].items() if k != "module"]).config.env_args.max_lava == 10


def test_seeds_may_be_text(in_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(in_folder, args={"seed": ["5"]})
    assert [f["seed"] for f in flags_of(output(capsys, "--config=mine", "--n_trials=2"))] == ["5", "6"]


def test_weights_and_biases(in_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(in_folder, wandb_project="p")
    (in_folder / "config" / "wandb.json").write_text('{"base_url": "http://u", "api_key": "k"}')
    first = flags_of(output(capsys, "--config=mine", "--include_wandb_group", "--wandb_api_key=other"))[0]
    wandb = {flag: value for flag, value in first.items() if flag.startswith("wandb")}
    assert wandb == {
        "wandb_project": "p",
        "wandb_base_url": "http://u",
        "wandb_api_key": "other",
        "wandb_group": first["xpid"].removesuffix("_0"),
    }
    assert list(first)[-1] == "xpid"
    write(in_folder)
    assert "wandb" not in output(capsys, "--config=mine")


def test_trials_are_grouped_without_a_project_too(in_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(in_folder, args={"lr": [0.5]})
    found = flags_of(output(capsys, "--config=mine", "--include_wandb_group", "--checkpoint", "--n_trials=2"))
    assert [list(f)[1:] for f in found] == [["lr", "seed", "from_last_checkpoint", "wandb_group", "xpid"]] * 2
    assert [f["xpid"] for f in found] == [f"{found[0]['wandb_group']}_{trial}" for trial in range(2)]


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "cannot be read as JSON"), ('{"api_key": "k"}', "exactly the keys base_url and")],
)
def test_wrong_credentials(content: str, message: str, in_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(in_folder, wandb_project="p")
    (in_folder / "config" / "wandb.json").write_text(content)
    assert make_cmd.main(["--config=mine"]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and "config/wandb.json" in printed.err and message in printed.err


def test_values_with_special_characters_are_quoted(in_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(in_folder, args={"log_dir": ["/a b/$HOME's"]})
    assert flags_of(output(capsys, "--config=mine"))[0]["log_dir"] == "/a b/$HOME's"


def test_own_files_win_over_shipped_ones(in_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(in_folder, "maze/dr", {"lr": [0.5]})
    assert flags_of(output(capsys, "--config=maze/dr"))[0]["lr"] == "0.5"


def test_shipped_files_can_be_copied(in_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(in_folder, "maze/dr", {"lr": [0.5]})
    assert len(output(capsys, "--copy_shipped").splitlines()) == 11  # the file that exists stays
    assert load_config(in_folder / "config/configs/maze/dr.json").args == {"lr": [0.5]}
    assert output(capsys, "--list").splitlines() == shipped_names()


def test_a_file_is_no_folder_for_copies(in_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (in_folder / "file").write_text("mine")
    assert make_cmd.main(["--copy_shipped", "--dir=file"]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("make_cmd: error: --dir=file: the files cannot be copied there")
    assert (in_folder / "file").read_text() == "mine"


# --- errors ---


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ((), "--config is needed"),
        (("--config=mine", "--n_trials=0"), "--n_trials=0: must be >= 1"),
        (("--config=mine", "--start_index=-1"), "--start_index=-1: must be >= 0"),
    ],
)
def test_wrong_command_lines(argv: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        make_cmd.main(argv)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "cannot be read as JSON"),
        ("[]", 'expected an object with the key "args"'),
        ('{"args": {"lr": 1}}', 'the values of lr must be a list, for example "lr": [1]'),
        ('{"args": {"lr": []}}', "the values of lr must be a list"),
        ('{"args": {}, "arg": 1}', "unknown key 'arg'"),
        ('{"args": {"lrr": [1]}}', "did you mean --lr?"),
        ('{"args": {"plr_temp": [1]}}', "it belongs to --train_runner=plr"),
        ('{"args": {"env_module": ["no_such_module"]}}', "--env_module=no_such_module: cannot be imported"),
        ('{"args": {}, "cmd": "play"}', "cmd='play'; choose train, eval, evaluate"),
    ],
)
def test_wrong_files(content: str, message: str, in_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(in_folder)
    (in_folder / "config/configs/mine.json").write_text(content)
    assert make_cmd.main(["--config=mine"]) == 2
    assert message in capsys.readouterr().err


def test_unknown_files_name_near_ones(in_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert make_cmd.main(["--config=maze/acel"]) == 2
    assert "did you mean maze/accel" in capsys.readouterr().err
