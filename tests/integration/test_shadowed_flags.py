"""Real runs of scripts whose options are called like flags of ours."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sample_factory.algo.utils.misc import ExperimentStatus
from sample_factory.cfg.arguments import parse_full_cfg, parse_sf_args
from sample_factory.cfg.shadowing import EXTENSIONS
from sample_factory.enjoy import main as enjoy
from sample_factory.envs.env_utils import register_env
from sample_factory.train import run_rl
from tests.integration.harness import SERIAL, TINY

SHORT = tuple(option for option in TINY if not option.startswith("--ui"))

SHORT = tuple(option for option in TINY if not option.startswith("--ui"))


def parse_as_script(argv: Sequence[str]) -> Any:
    parser: ArgumentParser
    parser, _ = parse_sf_args(argv)
    for name in EXTENSIONS:
        parser.add_argument(f"--{name}", default="mine")
    return parse_full_cfg(parser, argv)


def make_env(env_name: str, cfg: Any, env_config: Any, render_mode: str | None = None) -> Any:
    import gymnasium

    assert {getattr(cfg, name) for name in EXTENSIONS if name != "curriculum"} == {"mine"}
    assert cfg.curriculum == "7"
    return gymnasium.make("CartPole-v1", render_mode=render_mode)


@pytest.mark.parametrize("mode", [SERIAL, ()], ids=["serial", "parallel"])
def test_the_core_has_its_defaults_and_the_script_its_values(tmp_path: Path, mode: Sequence[str]) -> None:
    register_env("env_of_the_script", make_env)
    place = ("--env=env_of_the_script", f"--train_dir={tmp_path}", "--experiment=e")
    argv = [*SHORT, *mode, *place, "--train_for_env_steps=300", "--curriculum=7"]
    assert run_rl(parse_as_script(argv)) == ExperimentStatus.SUCCESS

    saved = json.loads((tmp_path / "e" / "config.json").read_text())
    assert (saved["curriculum"], saved["max_rollbacks"]) == ("7", "mine")
    assert saved["shadowed_flags"] == sorted(EXTENSIONS)

    resumed = [option for option in argv if option != "--curriculum=7"] + ["--train_for_env_steps=600"]
    assert run_rl(parse_as_script(resumed)) == ExperimentStatus.SUCCESS
    assert enjoy([*place, "--no_render", "--max_num_frames=10"]) == ExperimentStatus.SUCCESS
