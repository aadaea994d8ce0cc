"""Configurations with which a curriculum cannot work are refused before anything starts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sample_factory.algo.utils.levels import LevelSpec
from sample_factory.cfg.validation import collect_problems
from tests.unit.learning.learner_setup import make_cfg

LEVELS = LevelSpec((2,), "<i2", can_mutate=True, resets_itself=False)


def problems(*flags: str, spec: LevelSpec | None = LEVELS) -> str:
    env_info: Any = SimpleNamespace(num_agents=1, level_spec=spec)
    return "\n".join(collect_problems(make_cfg("train_dir", *flags), env_info))


@pytest.mark.parametrize("curriculum", ["none", "dr", "plr", "accel"])
def test_good_configurations(curriculum: str) -> None:
    assert problems(f"--curriculum={curriculum}") == ""
    assert problems("--curriculum=none", "--num_policies=2", spec=None) == ""


@pytest.mark.parametrize(
    ("flags", "spec", "words"),
    [
        (["--curriculum=dr"], None, ["--curriculum=dr", "environment test has no levels", "--curriculum=none"]),
        (["--curriculum=plr"], LevelSpec((2,), "<i2", True, True), ["several agents", "--curriculum=none"]),
        (["--curriculum=accel"], LevelSpec((2,), "<i2", False, False), ["mutate_level", "--curriculum=plr"]),
        (["--curriculum=plr", "--num_policies=2"], LEVELS, ["--num_policies=2", "one policy"]),
        (["--curriculum=plr", "--batched_sampling=True"], LEVELS, ["use --batched_sampling=False"]),
        (
            ["--curriculum=plr", "--curriculum_use_score_ranks=False"],
            LEVELS,
            ["--curriculum_score=max_mc", "ranks=True"],
        ),
    ],
)
def test_bad_configurations(flags: list[str], spec: LevelSpec | None, words: list[str]) -> None:
    text = problems(*flags, spec=spec)
    assert all(word in text for word in words), text


def test_scores_that_are_never_negative_may_be_weights() -> None:
    for score in ("positive_value_loss", "l1_value_loss"):
        assert problems("--curriculum=plr", "--curriculum_use_score_ranks=False", f"--curriculum_score={score}") == ""


@pytest.mark.parametrize("flag", ["replay_prob=1.5", "staleness_coef=-1", "temp=0", "buffer_size=0", "n_mutations=0"])
def test_numbers_out_of_bounds(flag: str) -> None:
    cfg = make_cfg("train_dir", "--curriculum=plr")
    name, value = flag.split("=")
    cfg[f"curriculum_{name}"] = float(value) if "." in value or name == "temp" else int(value)
    assert any(f"--curriculum_{name}" in problem for problem in collect_problems(cfg))
