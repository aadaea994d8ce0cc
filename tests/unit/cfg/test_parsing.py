"""The two passes over the command line."""

from __future__ import annotations

import argparse
import copy
import pickle
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path

import pytest

from sample_factory.cfg import arguments
from sample_factory.cfg.arguments import cfg_dict, cfg_str, default_cfg, parse_full_cfg, parse_sf_args
from sample_factory.cfg.cfg import add_basic_cli_args, add_model_args
from sample_factory.cfg.flags import FLAGS, TRAINING_FLAGS
from sample_factory.cfg.parser import expand_abbreviations
from sample_factory.utils.attr_dict import AttrDict


def parse(
    *argv: str, evaluation: bool = False, customize: Callable[[ArgumentParser], object] = lambda parser: None
) -> Namespace:
    parser, _ = parse_sf_args(list(argv), evaluation=evaluation)
    customize(parser)
    return parse_full_cfg(parser, list(argv))


def error_of(capsys: pytest.CaptureFixture[str], *argv: str, **kwargs: object) -> str:
    """What the user reads when the command line is refused with exit code 2."""
    with pytest.raises(SystemExit) as stopped:
        parse(*argv, **kwargs)  # type: ignore[arg-type]
    assert stopped.value.code == 2
    return capsys.readouterr().err


def test_configuration_has_all_keys_in_order() -> None:
    cfg = parse("--env=x")
    keys = list(vars(cfg))
    extensions = {
        "allow_fresh_start",
        "unsafe_load",
        "max_skipped_updates",
        "max_rollbacks",
        "save_fault_timeout",
        "fault_timeout",
        "inference_placement",
        "startup_timeout",
        "env_timeout",
        "max_env_rebuilds",
        "max_worker_restarts",
        "bad_obs",
        "requeue_exit_code",
        "ui",
        "weight_init_scope",
        "mixed_precision",
        "cuda_graphs",
        "env_module",
        "curriculum",
        "curriculum_score",
        "curriculum_replay_prob",
        "curriculum_buffer_size",
        "curriculum_staleness_coef",
        "curriculum_temp",
        "curriculum_use_score_ranks",
        "curriculum_min_fill_ratio",
        "curriculum_robust",
        "curriculum_n_mutations",
        "machine_defaults",
    }
    original = [key for key in keys if key not in extensions]
    assert len(original) == 122
    assert original[:3] == ["help", "algo", "env"]
    assert original[-4:] == ["command_line", "cli_args", "git_hash", "git_repo_name"]
    assert set(keys) - set(original) == extensions


def test_cli_args_are_the_options_really_given() -> None:
    argv = "--env=x --gamma=0.99 --no_render --wandb_tags a b --encoder_mlp_layers"
    cfg = parse(*argv.split(), evaluation=True)
    expected = {"env": "x", "gamma": 0.99, "encoder_mlp_layers": [], "wandb_tags": ["a", "b"], "no_render": True}
    assert cfg.cli_args == expected
    assert list(cfg.cli_args) == list(expected)
    assert cfg.command_line == argv


def test_machine_defaults_name_what_nobody_chose() -> None:
    assert parse("--env=x").machine_defaults == ["train_dir", "num_workers", "wandb_dir"]
    assert parse("--env=x", "--train_dir=./t").machine_defaults == ["num_workers", "wandb_dir"]
    cfg = parse("--env=x", customize=lambda parser: parser.set_defaults(num_workers=1000))
    assert cfg.machine_defaults == ["train_dir", "wandb_dir"]


def test_first_pass_ignores_options_of_the_script() -> None:
    _, partial = parse_sf_args(["--env=x", "--my_option=3", "--my_list", "1", "2"])
    assert partial.env == "x"


def test_argv_defaults_to_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["script.py", "--env=from_sys_argv"])
    parser, partial = parse_sf_args()
    assert partial.env == "from_sys_argv"
    assert parse_full_cfg(parser).command_line == "--env=from_sys_argv"


def test_script_options_and_defaults() -> None:
    def customize(parser: ArgumentParser) -> None:
        parser.add_argument("--my_option", type=int, default=1)
        parser.set_defaults(rnn_size=17, lr_schedule="own_schedule", key_without_option=[1])

    cfg = parse("--env=x", "--my_option=3", customize=customize)
    assert (cfg.my_option, cfg.rnn_size, cfg.lr_schedule, cfg.key_without_option) == (3, 17, "own_schedule", [1])
    assert cfg.cli_args == {"env": "x", "my_option": 3}


def test_command_line_wins_over_script_defaults() -> None:
    cfg = parse("--env=x", "--rnn_size=5", customize=lambda parser: parser.set_defaults(rnn_size=17))
    assert cfg.rnn_size == 5


def test_configuration_can_be_mutated_and_rebuilt() -> None:
    cfg = parse("--env=x")
    cfg.own_value = 3
    assert Namespace(**cfg.__dict__) == cfg
    assert Namespace(**vars(cfg)).own_value == 3


def test_parser_can_be_copied() -> None:
    parser, _ = parse_sf_args(["--env=x"])
    assert parse_full_cfg(copy.deepcopy(parser), ["--env=y"]).env == "y"


def test_parser_can_be_used_directly() -> None:
    parser, _ = parse_sf_args(["--env=x"])
    assert parser.parse_args(["--env=x", "--num_w=7"]).num_workers == 7
    target = Namespace()
    assert parser.parse_args(["--env=x"], target) is target
    assert target.env == "x"
    parsed, unknown = parser.parse_known_args(["--env=x", "--own=1"])
    assert (parsed.env, unknown) == ("x", ["--own=1"])


def test_a_parser_of_another_class_is_accepted() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    add_basic_cli_args(parser)
    add_model_args(parser)
    cfg = parse_full_cfg(parser, ["--env=x", "--rnn_size=3"])
    assert cfg.cli_args == {"env": "x", "rnn_size": 3}


def test_append_and_switch_options_of_scripts() -> None:
    def customize(parser: ArgumentParser) -> None:
        parser.add_argument("--item", action="append", default=[])
        parser.add_argument("--on", action="store_true")
        parser.add_argument("--off", action="store_true")

    cfg = parse("--env=x", "--item=1", "--item=2", "--on", customize=customize)
    assert (cfg.item, cfg.on, cfg.off) == (["1", "2"], True, False)
    assert cfg.cli_args == {"env": "x", "item": ["1", "2"], "on": True}


@pytest.mark.parametrize(("text", "value"), [("True", True), ("false", False), ("TRUE", True)])
def test_bools_are_words(text: str, value: bool) -> None:
    assert parse("--env=x", f"--use_rnn={text}").use_rnn is value


def test_abbreviations_work_in_both_passes() -> None:
    argv = ["--env=x", "--exploration_loss_coef=0.5", "--num_w", "7", "--encoder_mlp", "3", "4"]
    _, partial = parse_sf_args(argv)
    cfg = parse(*argv)
    for parsed in (partial, cfg):
        assert (parsed.exploration_loss_coeff, parsed.num_workers) == (0.5, 7)
        assert parsed.encoder_mlp_layers == [3, 4]
    assert cfg.cli_args["num_workers"] == 7


def test_extensions_leave_abbreviations_of_the_original_unique() -> None:
    cfg = parse("--env=x", "--al=foo", "--sta=3")
    assert (cfg.algo, cfg.stats_avg) == ("foo", 3)


@pytest.mark.parametrize("evaluation", [False, True], ids=["training", "evaluation"])
def test_every_abbreviation_of_the_original_works(evaluation: bool) -> None:
    parser, _ = parse_sf_args(["--env=x"], evaluation=evaluation)
    flags = FLAGS if evaluation else TRAINING_FLAGS
    original = [name for name, flag in flags.items() if not flag.extension]
    prefixes = {name[:length] for name in original for length in range(1, len(name))}
    unique = {p: found[0] for p in prefixes if len(found := [name for name in original if name.startswith(p)]) == 1}
    assert len(unique) > 900
    for prefix, name in unique.items():
        assert expand_abbreviations(parser, [f"--{prefix}=1"]) == [f"--{name}=1"]


def test_nothing_is_expanded_after_a_double_dash(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--num_w=7" in error_of(capsys, "--env=x", "--", "--num_w=7")


def test_q12_linear_decay_is_a_choice() -> None:
    assert parse("--env=x", "--lr_schedule=linear_decay").lr_schedule == "linear_decay"


@pytest.mark.parametrize("option", ["--help", "-h"])
@pytest.mark.parametrize("with_env", [True, False])
def test_q41_help_needs_no_environment(option: str, with_env: bool, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [option, "--env=x"] if with_env else [option]
    with pytest.raises(SystemExit) as stopped:
        parse(*argv, customize=lambda parser: parser.add_argument("--my_own_option", help="does things"))
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for expected in ("--my_own_option", "--pbt_perturb_max", "(default: 0.15)", "Population-based training"):
        assert expected in text


def test_q41_scripts_get_a_string_as_environment_name() -> None:
    _, partial = parse_sf_args(["--help"])
    assert partial.env == ""


def test_help_is_printed_although_other_options_are_broken(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse("--help", "--num_workers=abc", "--typo=1", "--gamma=7")
    assert stopped.value.code == 0
    assert "--num_workers" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--reward", "--use", "--optim", "--batch"])
def test_q42_options_of_scripts_may_be_prefixes_of_ours(option: str) -> None:
    cfg = parse("--env=x", f"{option}=own", customize=lambda parser: parser.add_argument(option, type=str))
    assert getattr(cfg, option.removeprefix("--")) == "own"
    assert cfg.optimizer == "adam"
    assert cfg.cli_args == {"env": "x", option.removeprefix("--"): "own"}


def test_q42_ambiguous_abbreviations_are_still_errors(capsys: pytest.CaptureFixture[str]) -> None:
    message = error_of(capsys, "--env=x", "--reward=3")
    assert "ambiguous option: --reward=3 could match --reward_scale, --reward_clip" in message


def test_q46_a_broken_git_does_not_stop_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_git() -> tuple[str, str]:
        raise FileNotFoundError("git")

    monkeypatch.setattr(arguments, "get_git_commit_hash", no_git)
    cfg = parse("--env=x")
    assert (cfg.git_hash, cfg.git_repo_name) == ("unknown", "not a git repository")


def test_q46_no_git_executable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert parse("--env=x").git_hash == "unknown"


def test_git_provenance_is_looked_up_when_parsing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arguments, "get_git_commit_hash", lambda: ("abc", "git@host:repo.git"))
    cfg = parse("--env=x")
    assert (cfg.git_hash, cfg.git_repo_name) == ("abc", "git@host:repo.git")


def test_missing_environment(capsys: pytest.CaptureFixture[str]) -> None:
    message = error_of(capsys, "--num_workers=0", "--rollout=x")
    assert "the following arguments are required: --env; for example --env=CartPole-v1" in message
    assert "--num_workers=0: must be >= 1" in message
    assert "--rollout" in message


def test_environment_without_a_value_is_reported_once(capsys: pytest.CaptureFixture[str]) -> None:
    message = error_of(capsys, "--env")
    assert message.count("--env") == 1


def test_all_problems_of_a_command_line_are_reported_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    message = error_of(
        capsys,
        "--env=x",
        "--num_workers=abc",
        "--batch_size=1e6",
        "--lr_schedule=lineardecay",
        "--use_rnn=1",
        "--num_epocs=3",
        "--rew=3",
        "stray",
        "--gamma=7",
        "--keep_checkpoints",
        "0",
        "--experiment=../x",
    )
    lines = message.splitlines()
    assert "10 problems" in lines[0]
    problems = [line.strip() for line in lines[1:11]]
    expected = [
        ("--num_workers", "'abc'", "write digits only"),
        ("--batch_size", "'1e6'", "--batch_size=1000000"),
        ("--lr_schedule", "'lineardecay'", "did you mean --lr_schedule=linear_decay?"),
        ("--use_rnn", "'1'", "for example --use_rnn=True"),
        ("--num_epocs=3", "did you mean --num_epochs?"),
        ("--rew=3", "--reward_scale, --reward_clip"),
        ("stray",),
        ("--gamma=7.0", "must be >= 0 and <= 1"),
        ("--keep_checkpoints=0", "must be >= 1"),
        ("--experiment=../x", "inside --train_dir"),
    ]
    assert len(problems) == len(expected)
    for parts in expected:
        assert any(all(part in problem for part in parts) for problem in problems), parts


@pytest.mark.parametrize(
    ("flag", "hint"),
    [
        ("--load_checkpoint_kind=newest", "did you mean --load_checkpoint_kind=latest?"),
        ("--device=cuda", "did you mean --device=gpu?"),
        ("--encoder_conv_architecture=impala", "did you mean --encoder_conv_architecture=convnet_impala?"),
        ("--workers=3", "did you mean --num_workers?"),
        ("--sample_env_episodes=3", "--sample_env_episodes=3; a flag of evaluation, not of training"),
        ("--my_own_thing=3", "--my_own_thing=3; see --help for all flags"),
        (
            "--encoder_mlp_layers 64 x",
            "write whole numbers with spaces between them, for example --encoder_mlp_layers 512 512",
        ),
        ("--decoder_mlp_layers x", "for example --decoder_mlp_layers 1 2"),
    ],
)
def test_hints(flag: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert hint in error_of(capsys, "--env=x", *flag.split())


@pytest.mark.parametrize("flag", ["--load_checkpoint_kind=oldest", "--device=npu", "--max_env_things=3"])
def test_no_hint_if_nothing_is_near(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean" not in error_of(capsys, "--env=x", flag)


def test_help_names_defaults_where_there_are_some(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse("--help", evaluation=True)
    words = " ".join(capsys.readouterr().out.split())
    assert "Print all flags of this script and exit. --algo" in words
    assert "Name of the environment to train or evaluate in. (required)" in words
    assert "(default: 0.95)" in words


def test_errors_do_not_hide_behind_a_long_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(error_of(capsys, "--env=x", "--num_epocs=3").splitlines()) == 2


def test_problems_of_script_options_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    message = error_of(
        capsys,
        "--env=x",
        "--mine=a",
        "--gamma=2",
        customize=lambda parser: parser.add_argument("--mine", type=int, required=True),
    )
    assert "argument --mine: invalid int value: 'a'" in message
    assert "--gamma=2.0" in message


def test_missing_option_of_a_script(capsys: pytest.CaptureFixture[str]) -> None:
    message = error_of(
        capsys, "--env=x", customize=lambda parser: parser.add_argument("--mine", type=int, required=True)
    )
    assert "the following arguments are required: --mine" in message


def test_rules_over_several_flags_wait_until_all_values_are_known() -> None:
    # A saved configuration may hold the rollout that this batch size fits, and scripts may change values.
    assert parse("--env=x", "--batch_size=63").batch_size == 63


def test_default_cfg() -> None:
    cfg = default_cfg()
    assert (cfg.algo, cfg.env, cfg.experiment) == ("APPO", "env", "test")
    assert cfg.cli_args == {"algo": "APPO", "env": "env", "experiment": "test"}
    assert default_cfg(env="e", experiment="t").command_line == "--algo=APPO --env=e --experiment=t"


def test_cfg_dict_copies_namespaces_and_dictionaries() -> None:
    for cfg in (Namespace(a=1), AttrDict(a=1)):
        copied = cfg_dict(cfg)
        copied.a = 2
        assert isinstance(copied, AttrDict)
        assert cfg.a == 1


def test_cfg_str() -> None:
    assert cfg_str(Namespace(a=1, b="c")) == "a=1\nb=c"


def test_configuration_can_be_pickled() -> None:
    cfg = cfg_dict(parse("--env=x"))
    assert pickle.loads(pickle.dumps(cfg)) == cfg
