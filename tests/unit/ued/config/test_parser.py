"""The conditional parser."""

from __future__ import annotations

import pytest

from sample_factory.cfg.errors import ConfigError
from sample_factory.cfg.flags.flag import at_least
from sample_factory.ued.config import parser
from sample_factory.ued.config.flag import Group, flag, switch
from sample_factory.ued.config.nested import Config
from sample_factory.ued.config.parser import help_text, parse, register_flag_group, tokenize

PAIRED = ("--train_runner=paired", "--teacher_model_name=default_teacher_cnn")


def problem(*argv: str) -> str:
    (found,) = parse(argv).problems
    return found


# --- tokens ---


def test_forms_of_flags() -> None:
    assert tokenize(["--a=1", "--b", "2", "--c", "--d=", "--e=x=y", "--f", "-1"]) == [
        ("a", "1"),
        ("b", "2"),
        ("c", None),
        ("d", ""),
        ("e", "x=y"),
        ("f", "-1"),
    ]


@pytest.mark.parametrize("argv", [("x",), ("--a=1", "x"), ("-a",), ("--a", "1", "2")])
def test_what_is_no_flag_is_an_error(argv: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="unknown argument"):
        tokenize(argv)


# --- values ---


@pytest.mark.parametrize("text", ["yes", "True", "T", "y", "1"])
def test_true(text: str) -> None:
    assert parse([f"--verbose={text}"]).config.verbose is True


@pytest.mark.parametrize("text", ["no", "False", "F", "N", "0"])
def test_false(text: str) -> None:
    assert parse([f"--maze_see_agent={text}"]).config.env_args.see_agent is False


def test_bare_flags() -> None:
    parsed = parse(["--verbose", "--lr_final", "--student_recurrent_arch"])
    assert not parsed.problems
    assert parsed.config.verbose is True
    assert parsed.config.train_runner_args.lr_final is None
    assert parsed.config.student_model_args.recurrent_arch is None


def test_other_bare_flags_need_a_value() -> None:
    assert problem("--render").startswith("--render needs a value")


def test_none_in_words() -> None:
    parsed = parse(["--student_s5_layernorm_pos=None", "--lr_final=none"])
    assert not parsed.problems
    assert parsed.config.student_model_args.s5_layernorm_pos is None


def test_quotes_of_files_are_removed() -> None:
    assert parse(['--test_agent_idxs="*"']).config.eval_args.agent_idxs == "*"


def test_last_one_wins() -> None:
    assert parse(["--seed=1", "--seed=2"]).config.seed == 2


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("--seed=a", "--seed=a: must be an integer; for example --seed=1 (the default)"),
        ("--seed=-1", "--seed=-1: must be >= 0; for example --seed=1 (the default)"),
        ("--lr=fast", "--lr=fast: must be a number; for example --lr=0.0001 (the default)"),
        ("--discount=1.5", "--discount=1.5: must be >= 0 and <= 1; for example --discount=0.995 (the default)"),
        ("--lr=nan", "--lr=nan: must be >= 0; for example --lr=0.0001 (the default)"),
        ("--verbose=maybe", "--verbose=maybe: must be yes or no; for example --verbose=False (the default)"),
        ("--train_runner=plrr", "--train_runner=plrr: must be one of dr, plr, paired, sfl; did you mean plr?"),
    ],
)
def test_wrong_values_are_named_with_a_repair(argument: str, expected: str) -> None:
    assert problem(argument) == expected


def test_all_problems_at_once() -> None:
    assert len(parse(["--seed=a", "--lr=b", "--nonsense=1"]).problems) == 3


# --- conditions ---


@pytest.mark.parametrize(
    ("argv", "condition"),
    [
        (("--plr_temp=1",), "--train_runner=plr, but this run has --train_runner=dr"),
        (("--ued_score=max_mc",), "--train_runner=plr|paired, but this run has --train_runner=dr"),
        (("--teacher_lr=1",), "--train_runner=paired, but"),
        (("--teacher_hidden_dim=1",), "--train_runner=paired and --teacher_model_name=default_teacher_cnn, but"),
        (("--maze_ued_n_walls=1",), "--train_runner=paired and --env_name=Maze|Maze-MemoryMaze, but"),
        (("--sfl_n_batches=1",), "--train_runner=sfl, but"),
        (("--env_name=Maze-Labyrinth", "--maze_height=5"), "--env_name=Maze|Maze-MemoryMaze, but"),
        (("--env_name=Lava", "--maze_see_agent=1"), "--env_name=Maze*, but this run has --env_name=Lava"),
        (("--student_model_name=mine", "--student_hidden_dim=1"), "--student_model_name=default_student_cnn, but"),
    ],
)
def test_flags_of_inactive_groups_name_the_condition(argv: tuple[str, ...], condition: str) -> None:
    found = problem(*argv)
    assert found.startswith(f"unknown argument {argv[-1].split('=')[0]}: it belongs to ")
    assert condition in found


@pytest.mark.parametrize(
    "argv",
    [
        ("--train_runner=plr", "--plr_temp=1"),
        (*PAIRED, "--teacher_hidden_dim=1", "--maze_ued_n_walls=1", "--ued_score=neg_return"),
        ("--plr_temp=1", "--train_runner=plr"),  # the order on the command line does not matter
        ("--env_name=Maze-Labyrinth", "--maze_see_agent=1", "--maze_test_see_agent=1"),
    ],
)
def test_flags_of_active_groups(argv: tuple[str, ...]) -> None:
    assert parse(argv).problems == []


def test_misspelt_flags_list_near_matches() -> None:
    assert problem("--n_paralel=1") == "unknown argument --n_paralel: no such flag; did you mean --n_parallel?"
    assert "see --help" in problem("--zzzzzzzzzz=1")


def test_abbreviations_are_no_flags() -> None:
    assert "did you mean --seed?" in problem("--see=1")


def test_placeholders_exist() -> None:
    config = parse(["--env_name=Lava", "--student_model_name=mine"]).config
    for name in ("student_model_args", "env_args", "ued_env_args", "eval_env_args"):
        assert config[name] == {}
    assert config.teacher_model_args is None
    assert parse(["--train_runner=paired"]).config.teacher_model_args == {}


# --- groups of users ---


@pytest.fixture
def no_extra_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parser, "_EXTRA_GROUPS", [])


def test_environments_bring_flags(no_extra_groups: None) -> None:
    group = Group(
        title="Lava",
        dest="env_args",
        prefix="lava",
        condition={"env_name": ("Lava*",)},
        flags=(flag("lava_size", int, 5, "Size.", bounds=at_least(2)), switch("lava_hot", True, "Hot.")),
    )
    register_flag_group(group)
    register_flag_group(group)
    assert parse(["--env_name=Lava-Deep", "--lava_size=7"]).config.env_args == {"size": 7, "hot": True}
    assert "--env_name=Lava*" in problem("--lava_size=7")
    assert "--lava_size" in help_text("x")


def test_names_are_taken_once(no_extra_groups: None) -> None:
    with pytest.raises(ValueError, match="--lr of the group 'Mine' exists already"):
        register_flag_group(Group("Mine", "env_args", (flag("lr", float, 1.0, "Mine."),)))


def test_help_names_all_flags_and_conditions() -> None:
    text = help_text("sample_factory.ued.train")
    assert "--plr_temp=float (default: 1.0)" in text
    assert "[with --train_runner=plr]" in text


# --- nested result ---


def test_nested_access() -> None:
    config = Config.of({"a": {"b": 1}, "c": 2})
    assert (config.a.b, config["c"], config.missing, config.a.missing) == (1, 2, None, None)
    config.c = 3
    config.group("d").e = 4
    assert config.plain() == {"a": {"b": 1}, "c": 3, "d": {"e": 4}}
    assert type(config.plain()["a"]) is dict
    assert not hasattr(config, "__deepcopy__")
