"""Each flag accepts the values at its bounds and rejects those just outside, naming flag, value and repair."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from sample_factory.cfg.arguments import default_cfg, parse_full_cfg, parse_sf_args
from sample_factory.cfg.flags import FLAGS, TRAINING_FLAGS, Flag
from sample_factory.cfg.flags.flag import Range, str2bool
from sample_factory.cfg.validation import ConfigError, check_cfg_before_start, collect_problems

BOUNDED = [flag for flag in FLAGS.values() if flag.bounds is not None]
CHOICES = [flag for flag in FLAGS.values() if flag.choices is not None]
SWITCHABLE = [flag for flag in FLAGS.values() if flag.type is str2bool]


def names(flags: list[Flag]) -> list[str]:
    return [flag.name for flag in flags]


def values_at_bounds(flag: Flag) -> tuple[list[float], list[float]]:
    """Numbers that are just inside and just outside of the interval."""
    assert flag.bounds is not None
    step = 1 if flag.type is int else 1e-6
    inside: list[float] = list(flag.bounds.also)
    outside: list[float] = [math.nan] if flag.type is float else []
    if flag.bounds.low > -math.inf:
        low = int(flag.bounds.low) if flag.type is int else flag.bounds.low
        inside.append(low + step if flag.bounds.low_open else low)
        outside.append(low if flag.bounds.low_open else low - step)
    if flag.bounds.high < math.inf:
        high = int(flag.bounds.high) if flag.type is int else flag.bounds.high
        inside.append(high - step if flag.bounds.high_open else high)
        outside.append(high if flag.bounds.high_open else high + step)
    if flag.type is float and not flag.bounds.allow_inf:
        outside.append(math.inf)
    return inside, [value for value in outside if value not in flag.bounds.also]


def wrapped(flag: Flag, value: float) -> Any:
    return [value] if flag.nargs == "*" else value


@pytest.mark.parametrize("flag", BOUNDED, ids=names(BOUNDED))
def test_values_at_the_bounds(flag: Flag) -> None:
    inside, outside = values_at_bounds(flag)
    for value in inside:
        assert flag.problem(wrapped(flag, value)) is None
    for value in outside:
        problem = flag.problem(wrapped(flag, value))
        assert problem is not None
        assert problem.startswith(f"--{flag.name}={value}: must be ")
        assert ";" in problem, "a repair is part of every problem"


@pytest.mark.parametrize("flag", BOUNDED, ids=names(BOUNDED))
def test_values_outside_end_the_program_before_anything_starts(flag: Flag, capsys: pytest.CaptureFixture[str]) -> None:
    _, outside = values_at_bounds(flag)
    for value in outside:
        given = [f"--{flag.name}", str(value)] if flag.nargs == "*" else [f"--{flag.name}={value}"]
        argv = ["--env=x", *given]
        parser, _ = parse_sf_args(argv, evaluation=True)
        with pytest.raises(SystemExit) as stopped:
            parse_full_cfg(parser, argv)
        assert stopped.value.code == 2
        assert f"--{flag.name}={value}" in capsys.readouterr().err


@pytest.mark.parametrize("flag", list(FLAGS.values()), ids=list(FLAGS))
def test_the_default_is_accepted(flag: Flag) -> None:
    value = "some_env" if flag.required else flag.default_value()
    assert flag.problem(value) is None


@pytest.mark.parametrize("flag", BOUNDED, ids=names(BOUNDED))
@pytest.mark.parametrize("value", ["7", True, [1, [2]]], ids=["text", "bool", "list"])
def test_wrong_types_set_by_code_are_problems(flag: Flag, value: Any) -> None:
    assert flag.problem(value) is not None


@pytest.mark.parametrize("flag", SWITCHABLE, ids=names(SWITCHABLE))
def test_bools_are_not_text(flag: Flag) -> None:
    assert flag.problem(False) is None
    assert flag.problem("False") is not None, "a non-empty string would count as true"


@pytest.mark.parametrize("flag", CHOICES, ids=names(CHOICES))
def test_choices_set_by_code_are_checked(flag: Flag) -> None:
    assert flag.choices is not None
    for choice in flag.choices:
        assert flag.problem(choice) is None
    problem = flag.problem(flag.choices[-1] + "x")
    assert problem is not None
    assert f"did you mean {flag.choices[-1]}?" in problem


def test_custom_models_may_give_other_names_a_meaning() -> None:
    assert FLAGS["rnn_type"].problem("mamba") is None
    assert FLAGS["rnn_type"].problem("gru1") is not None
    assert FLAGS["policy_initialization"].problem("mine") is None
    assert FLAGS["policy_initialization"].problem("ortogonal") is not None
    assert FLAGS["optimizer"].problem("shampoo") is not None


def test_numbers_that_are_only_compared_may_be_set_as_floats() -> None:
    assert FLAGS["train_for_env_steps"].problem(1e9) is None
    assert FLAGS["save_every_sec"].problem(0.5) is None
    assert FLAGS["num_workers"].problem(8.0) is not None


def test_numpy_numbers_are_numbers() -> None:
    assert FLAGS["num_workers"].problem(np.int64(4)) is None
    assert FLAGS["gamma"].problem(np.float32(0.5)) is None
    assert FLAGS["gamma"].problem(np.float32(1.5)) is not None


def test_tuples_are_lists() -> None:
    assert FLAGS["encoder_mlp_layers"].problem((64, 64)) is None
    assert FLAGS["encoder_mlp_layers"].problem((64, 0)) is not None


def test_none_is_a_value_only_where_it_is_the_default() -> None:
    assert FLAGS["seed"].problem(None) is None
    assert FLAGS["batch_size"].problem(None) is not None


def test_ranges_describe_themselves() -> None:
    assert Range(low=1, also=(-1,)).describe() == ">= 1 or -1"
    assert Range(low=0, high=2**32 - 1).describe() == ">= 0 and <= 4294967295"
    assert Range(low=0, low_open=True, allow_inf=True).describe() == "> 0 or inf"
    assert Range().describe() == "any number"
    assert not Range(allow_inf=True).contains(math.nan)


def test_all_broken_values_are_found_at_once() -> None:
    cfg = default_cfg()
    broken = {name: None for name, flag in TRAINING_FLAGS.items() if flag.problem(None) is not None}
    vars(cfg).update(broken)
    assert len(broken) > 100
    assert len(collect_problems(cfg)) == len(broken)


def test_values_set_after_parsing_are_checked_before_start() -> None:
    cfg = default_cfg()
    check_cfg_before_start(cfg)
    cfg.keep_checkpoints = 0
    cfg.lr_schedule = "linear-decay"
    with pytest.raises(ConfigError) as raised:
        check_cfg_before_start(cfg)
    assert len(raised.value.problems) == 2
    assert "--keep_checkpoints=0: must be >= 1" in str(raised.value)
    assert "did you mean linear_decay?" in str(raised.value)


def test_c12_keeping_no_checkpoint_is_rejected() -> None:
    for value in (0, -1):
        assert FLAGS["keep_checkpoints"].problem(value) is not None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("experiment_summaries_interval", 0),
        ("save_best_every_sec", 0),
        ("decorrelate_experience_max_seconds", -1),
        ("heartbeat_interval", 100_000),
        ("ppo_clip_ratio", 0.0),
        ("vtrace_rho", 0.0),
    ],
)
def test_values_that_work_in_the_original_are_accepted(name: str, value: float) -> None:
    argv = ["--env=x", f"--{name}={value}"]
    parser, _ = parse_sf_args(argv)
    cfg = parse_full_cfg(parser, argv)
    assert getattr(cfg, name) == value
    check_cfg_before_start(cfg)


def test_a_standard_deviation_of_zero_has_no_logarithm() -> None:
    assert FLAGS["initial_stddev"].problem(0.0) is not None
