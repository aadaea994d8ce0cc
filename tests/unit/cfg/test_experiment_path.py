"""Nothing is written or deleted outside the folder of the experiment."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest

from sample_factory.cfg.arguments import parse_full_cfg, parse_sf_args
from sample_factory.cfg.errors import ConfigError
from sample_factory.cfg.experiment_path import experiment_problems
from sample_factory.cfg.validation import check_cfg_before_evaluation


@pytest.mark.parametrize("name", ["run", "group/run", "a/b/c", "run/", "a//b", "..run", "ru n", "x.y", "./run", "-run"])
def test_names_inside_the_train_dir(tmp_path: Path, name: str) -> None:
    assert experiment_problems(str(tmp_path), name) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["", " ", ".", "..", "./", "../x", "a/..", "a/../..", "a/../b", "/abs", "a\0b", "a\nb", "x" * 256, None, 3]
)
def test_names_that_are_refused(tmp_path: Path, name: object) -> None:
    problems = experiment_problems(str(tmp_path), name)
    assert len(problems) == 1
    assert problems[0].startswith(f"--experiment={name}: ")


def test_an_absolute_name_is_repaired(tmp_path: Path) -> None:
    assert "--train_dir=/data --experiment=run" in experiment_problems(str(tmp_path), "/data/run")[0]


@pytest.mark.parametrize("train_dir", ["", "  ", None])
def test_a_train_dir_is_needed(train_dir: object) -> None:
    problems = experiment_problems(train_dir, "run")
    assert len(problems) == 1
    assert problems[0].startswith("--train_dir=")


def test_links_inside_are_followed(tmp_path: Path) -> None:
    (tmp_path / "train" / "run").mkdir(parents=True)
    (tmp_path / "train" / "alias").symlink_to(tmp_path / "train" / "run")
    (tmp_path / "train_link").symlink_to(tmp_path / "train")
    assert experiment_problems(str(tmp_path / "train"), "alias") == []
    assert experiment_problems(str(tmp_path / "train_link"), "run") == []


def test_links_that_lead_outside_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train2").mkdir()  # a name that starts like the train dir is outside of it
    for name, target in (("out", "train2"), ("up", "."), ("self", "train"), ("dangling", "nowhere")):
        (tmp_path / "train" / name).symlink_to(tmp_path / target)
        assert "leads outside" in experiment_problems(str(tmp_path / "train"), name)[0]
    assert "leads outside" in experiment_problems(str(tmp_path / "train"), "out/run")[0]


@pytest.mark.parametrize("value", ["", "..", "../x", "/tmp/x"])
def test_f02_the_command_line_is_refused(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--env=x", "--restart_behavior=overwrite", f"--experiment={value}"]
    parser, _ = parse_sf_args(argv)
    with pytest.raises(SystemExit) as stopped:
        parse_full_cfg(parser, argv)
    assert stopped.value.code == 2
    assert f"--experiment={value}: " in capsys.readouterr().err


@pytest.mark.parametrize("name", ["file", "file/run"])
def test_files_in_the_way_are_reported(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    (problem,) = experiment_problems(str(tmp_path), name)
    assert f"--experiment={name}: {tmp_path / 'file'} is a file" in problem


def test_a_train_dir_that_is_a_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (problem,) = experiment_problems(str(tmp_path / "file"), "run")
    assert f"--train_dir={tmp_path / 'file'}: {tmp_path / 'file'} is a file" in problem


@pytest.mark.parametrize("flag", ["video_name", "csv_folder_name"])
@pytest.mark.parametrize("value", ["../x", "/tmp/x", "a/../../x", "a\nb"])
def test_names_of_outputs_lead_nowhere_else(flag: str, value: str) -> None:
    cfg = parse_evaluation("--env=x")
    setattr(cfg, flag, value)
    with pytest.raises(ConfigError, match=f"(?s)--{flag}=.* leads out of the experiment folder"):
        check_cfg_before_evaluation(cfg)
    setattr(cfg, flag, "plain name.mp4")
    check_cfg_before_evaluation(cfg)


def parse_evaluation(*argv: str) -> Namespace:
    parser, _ = parse_sf_args(argv, evaluation=True)
    return parse_full_cfg(parser, argv)
