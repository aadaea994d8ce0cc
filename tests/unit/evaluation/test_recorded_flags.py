from __future__ import annotations

import pytest

from sample_factory.algo.evaluators.recorded_flags import add_recorded_args
from sample_factory.cfg.arguments import parse_full_cfg, parse_sf_args

SAVED = {
    "env": "my_env",
    "gamma": 0.5,
    "custom_len": 10,
    "custom_coeff": 1,
    "custom_flag": True,
    "custom_text": None,
    "custom_layers": [4, 8],
    "custom_nested": {"a": 1},
    "git_hash": "unknown",
    "cli_args": {"env": "my_env"},
    "machine_defaults": ["num_workers"],
}


def parse(*options: str):
    argv = ["--env=my_env", *options]
    parser, _ = parse_sf_args(argv, evaluation=True)
    add_recorded_args(parser, SAVED)
    return parse_full_cfg(parser, argv)


def test_recorded_values_are_the_defaults():
    cfg = parse()
    assert (cfg.custom_len, cfg.custom_flag, cfg.custom_text, cfg.custom_layers) == (10, True, None, [4, 8])
    assert cfg.cli_args == {"env": "my_env"}


def test_command_line_values_get_the_recorded_type():
    cfg = parse(
        "--custom_len=20",
        "--custom_coeff=0.25",
        "--custom_flag=False",
        "--custom_text=hi",
        "--custom_layers",
        "16",
        "32",
    )
    assert (cfg.custom_len, cfg.custom_coeff, cfg.custom_flag, cfg.custom_text) == (20, 0.25, False, "hi")
    assert cfg.custom_layers == [16, 32]
    assert set(cfg.cli_args) == {"env", "custom_len", "custom_coeff", "custom_flag", "custom_text", "custom_layers"}


def test_built_in_flags_and_provenance_are_not_added():
    cfg = parse()
    assert cfg.gamma == 0.99  # the saved value arrives later, through load_from_checkpoint
    assert not hasattr(cfg, "custom_nested")


@pytest.mark.parametrize("option", ["--not_recorded=1", "--custom_flag=maybe", "--custom_len=x"])
def test_unknown_flags_and_wrong_types_exit_with_2(option, capsys):
    with pytest.raises(SystemExit) as exit_info:
        parse(option)
    assert exit_info.value.code == 2
    assert option.split("=")[0] in capsys.readouterr().err
