"""Options of scripts for Sample Factory 2 that are called like flags it does not have."""

from __future__ import annotations

import argparse
import copy
import json
import logging
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sample_factory.algo.evaluators.recorded_flags import add_recorded_args
from sample_factory.cfg.arguments import checkpoint_override_defaults, parse_full_cfg, parse_sf_args
from sample_factory.cfg.flags import FLAGS
from sample_factory.cfg.persistence import merge_saved
from sample_factory.cfg.shadowing import EXTENSIONS, flag_value, shadowed_flags
from sample_factory.cfg.validation import collect_problems
from sample_factory.utils.attr_dict import AttrDict

Customize = Callable[[ArgumentParser], object]


def parse(*argv: str, customize: Customize = lambda parser: None, evaluation: bool = False) -> Namespace:
    parser, _ = parse_sf_args(["--env=x", *argv], evaluation=evaluation)
    customize(parser)
    return parse_full_cfg(parser, ["--env=x", *argv])


def own_option(parser: ArgumentParser) -> None:
    parser.add_argument("--curriculum", type=float, default=3.0, help="mine")


def defaults(**values: Any) -> Customize:
    return lambda parser: parser.set_defaults(**values)


@pytest.mark.parametrize("name", EXTENSIONS)
def test_an_option_of_the_script_takes_the_place_of_ours(name: str) -> None:
    def customize(parser: ArgumentParser) -> None:
        parser.add_argument(f"--{name}", type=json.loads, default={"my": "default"})

    cfg = parse(customize=customize)
    assert getattr(cfg, name) == {"my": "default"}
    assert cfg.cli_args == {"env": "x"}
    cfg = parse(f"--{name}=[7]", customize=customize)
    assert getattr(cfg, name) == [7]
    assert cfg.cli_args == {"env": "x", name: [7]}
    assert cfg.shadowed_flags == [name]
    assert flag_value(cfg, name) == FLAGS[name].default_value()
    assert collect_problems(cfg) == []


def test_nothing_is_recorded_where_nothing_collides() -> None:
    cfg = parse()
    assert not hasattr(cfg, "shadowed_flags")
    assert shadowed_flags(cfg) == frozenset()
    assert flag_value(parse("--curriculum=plr"), "curriculum") == "plr"
    assert flag_value(AttrDict(), "curriculum") == "none"


def test_flags_of_the_original_stay_conflicts() -> None:
    parser, _ = parse_sf_args(["--env=x"])
    with pytest.raises(argparse.ArgumentError, match="conflicting option string: --gamma"):
        parser.add_argument("--gamma", type=float)
    own_option(parser)
    with pytest.raises(argparse.ArgumentError, match="conflicting option string: --curriculum"):
        own_option(parser)


@pytest.mark.parametrize(
    "customize",
    [
        lambda parser: own_option(parser.add_argument_group("mine")),
        lambda parser: own_option(parser.add_mutually_exclusive_group()),
        lambda parser: own_option(parser.add_argument_group("mine").add_mutually_exclusive_group()),
    ],
    ids=["group", "exclusive", "nested"],
)
def test_options_in_groups_do_the_same(customize: Customize) -> None:
    cfg = parse("--curriculum=7", customize=customize)
    assert (cfg.curriculum, cfg.shadowed_flags) == (7.0, ["curriculum"])


def test_a_common_destination_is_a_collision_as_well() -> None:
    cfg = parse(customize=lambda p: p.add_argument("--no_window", dest="ui", action="store_false"))
    assert (cfg.ui, cfg.shadowed_flags) == (True, ["ui"])
    cfg = parse("--env-timeout=never", customize=lambda p: p.add_argument("--env-timeout"))
    assert (cfg.env_timeout, cfg.shadowed_flags) == ("never", ["env_timeout"])


def test_parsers_can_be_copied() -> None:
    parser, _ = parse_sf_args(["--env=x"])
    copied = copy.deepcopy(parser)
    own_option(copied.add_argument_group("mine"))
    assert parse_full_cfg(copied, ["--env=x"]).curriculum == 3.0
    assert parse_full_cfg(parser, ["--env=x"]).curriculum == "none"


@pytest.mark.parametrize(
    ("name", "value"), [("curriculum", True), ("curriculum", 0.5), ("ui", "pygame"), ("env_timeout", "never")]
)
def test_defaults_that_our_flag_cannot_have_belong_to_the_script(name: str, value: Any) -> None:
    cfg = parse(customize=defaults(**{name: value}))
    assert getattr(cfg, name) == value
    assert cfg.shadowed_flags == [name]
    assert collect_problems(cfg) == []


def test_defaults_that_our_flag_can_have_are_ours() -> None:
    cfg = parse(customize=defaults(curriculum="dr", env_timeout=5))
    assert (flag_value(cfg, "curriculum"), flag_value(cfg, "env_timeout")) == ("dr", 5)
    assert shadowed_flags(cfg) == frozenset()


def test_wrong_defaults_of_flags_of_the_original_are_still_problems() -> None:
    assert "--gamma=7" in "".join(collect_problems(parse(customize=defaults(gamma=7.0))))


def test_rules_ignore_the_value_of_the_script() -> None:
    cfg = parse("--curriculum=7", "--num_policies=2", "--batched_sampling=True", customize=own_option)
    assert collect_problems(cfg) == []


def test_one_line_says_so(caplog: pytest.LogCaptureFixture) -> None:
    def customize(parser: ArgumentParser) -> None:
        parser.add_argument("--env_timeout")
        own_option(parser)

    parse(customize=customize)
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(lines) == 1
    assert lines[0].startswith("--env_timeout, --curriculum: used by this script")


def test_errors_of_the_option_do_not_recommend_values_of_our_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--curriculum=plr", customize=own_option)
    message = capsys.readouterr().err
    assert "argument --curriculum: invalid float value: 'plr'" in message
    assert "for example" not in message


# --- saved configurations ---


def saved_by(cfg: Namespace) -> AttrDict:
    return AttrDict(json.loads(json.dumps(vars(cfg))))


def foreign(**values: Any) -> AttrDict:
    """A file of Sample Factory 2: it has none of our flags."""
    cfg = vars(parse())
    return AttrDict({k: v for k, v in cfg.items() if k not in (*EXTENSIONS, "machine_defaults")} | values)


def ui_option(parser: ArgumentParser) -> None:
    parser.add_argument("--ui", default="text")


def test_a_resumed_run_keeps_the_value_of_the_script() -> None:
    saved = saved_by(parse("--curriculum=7", customize=own_option))
    for customize in (own_option, lambda parser: None):  # the same script, and a program that does not know it
        merged = merge_saved(parse(customize=customize), saved)
        assert (merged.curriculum, merged.shadowed_flags) == (7.0, ["curriculum"])
    assert merge_saved(parse("--curriculum=8", customize=own_option), saved).curriculum == 8.0


def test_values_of_the_script_are_not_per_run() -> None:
    saved = saved_by(parse("--ui=pygame", customize=ui_option))
    assert merge_saved(parse(), saved).ui == "pygame"
    assert merge_saved(parse("--ui=plain"), saved).ui == "plain"


def test_a_flag_given_to_a_program_that_has_it_is_ours_again() -> None:
    merged = merge_saved(parse("--curriculum=dr"), saved_by(parse(customize=own_option)))
    assert (merged.curriculum, merged.shadowed_flags) == ("dr", [])
    assert flag_value(merged, "curriculum") == "dr"


def test_a_script_that_gets_such_an_option_later_has_it_from_then_on() -> None:
    merged = merge_saved(parse("--curriculum=7", customize=own_option), saved_by(parse()))
    assert (merged.curriculum, merged.shadowed_flags) == (7.0, ["curriculum"])


def test_files_of_the_original_hold_options_of_scripts_only() -> None:
    merged = merge_saved(parse(), foreign(curriculum=0.5, env_timeout=9.0))
    assert (merged.curriculum, merged.env_timeout) == (0.5, 9.0)
    assert merged.shadowed_flags == ["curriculum", "env_timeout"]
    assert collect_problems(merged) == []
    assert "shadowed_flags" not in merge_saved(parse(), foreign())


@pytest.mark.parametrize("saved", [saved_by(parse(customize=ui_option)), foreign(ui="text")], ids=["own", "foreign"])
def test_saved_values_as_defaults_of_a_parser(tmp_path: Path, saved: AttrDict) -> None:
    place = [f"--train_dir={tmp_path}", "--experiment=old"]
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.json").write_text(json.dumps(saved | {"train_dir": str(tmp_path), "experiment": "old"}))
    cfg = parse(*place, customize=lambda parser: checkpoint_override_defaults(parse(*place), parser))
    assert (cfg.ui, cfg.shadowed_flags) == ("text", ["ui"])


def test_evaluation_has_the_recorded_option() -> None:
    saved = saved_by(parse(customize=own_option))
    cfg = parse("--curriculum=7", customize=lambda parser: add_recorded_args(parser, saved), evaluation=True)
    assert (cfg.curriculum, cfg.shadowed_flags) == (7.0, ["curriculum"])
    assert flag_value(merge_saved(cfg, saved), "curriculum") == "none"
