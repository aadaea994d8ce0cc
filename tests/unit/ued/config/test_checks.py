"""Combinations of flags that cannot work are rejected before anything happens."""

from __future__ import annotations

from pathlib import Path

import pytest

from sample_factory.cfg.errors import ConfigError
from sample_factory.ued.config.checks import remarks_on
from sample_factory.ued.config.train_args import parse_train_args

PLR = ("--train_runner=plr", "--ued_score=max_mc")
PAIRED = ("--train_runner=paired", "--teacher_model_name=default_teacher_cnn", "--n_students=2")
ACCEL = (*PLR, "--plr_mutation_fn=default", "--plr_n_mutations=5", "--n_parallel=8")
LSTM = ("--student_recurrent_arch=lstm", "--student_recurrent_hidden_dim=8")
TEACHER_LSTM = ("--teacher_recurrent_arch=lstm", "--teacher_recurrent_hidden_dim=8")

REJECTED = [
    (("--train_runner=paired", "--n_students=2"), "--teacher_model_name=default_teacher_cnn"),
    ((*PAIRED[:2],), "--ued_score=relative_regret compares exactly two students, but --n_students=1"),
    ((*PAIRED[:2], "--n_students=3", "--ued_score=mean_relative_regret"), "exactly two students"),
    ((*PAIRED, "--ued_score=max_mc"), "--ued_score=max_mc needs the returns stored in a level buffer"),
    (PLR[:1], "--ued_score=relative_regret compares students"),
    ((PLR[0], "--ued_score=population_regret"), "--ued_score=population_regret compares students"),
    ((*PLR, "--plr_use_score_ranks=False"), "--ued_score=max_mc can be negative"),
    ((PLR[0], "--ued_score=neg_return", "--plr_use_score_ranks=False"), "--ued_score=neg_return can be negative"),
    ((PLR[0], "--ued_score=value_disagreement"), "--student_value_ensemble_size=1; set"),
    ((*PAIRED, "--ued_score=value_disagreement"), "--student_value_ensemble_size=1; set"),
    ((*PLR, "--plr_replay_prob=0"), "would never end"),
    ((*PLR, "--plr_mutation_fn=default"), "--plr_n_mutations=0"),
    ((*ACCEL, "--plr_mutation_criterion=easy"), "--plr_mutation_subsample_size=0 parents"),
    ((*ACCEL, "--plr_mutation_criterion=hard", "--plr_mutation_subsample_size=3"), "divisor"),
    (
        (*ACCEL, "--n_devices=2", "--plr_mutation_criterion=hard", "--plr_mutation_subsample_size=8"),
        "fill 4 levels per device",
    ),
    (("--n_parallel=4", "--n_devices=3"), "--n_parallel=4 cannot be split over --n_devices=3"),
    (("--device=tpu",), "--device=tpu: must be cpu, cuda or cuda:<index>"),
    (("--device=gpu:1", "--n_devices=2", "--n_parallel=2"), "set --device=cuda"),
    (
        ("--train_runner=sfl", "--sfl_n_batches=2", "--sfl_batch_size=499"),
        "--sfl_buffer_size=1000 is more than the 998 levels that are looked at; lower it, or raise --sfl_n_batches",
    ),
    (("--device=cuda:1", "--n_devices=2", "--n_parallel=2"), "set --device=cuda"),
    ((*LSTM, "--n_parallel=4", "--student_ppo_n_minibatches=3"), "does not divide the 4 environments"),
    ((*LSTM, "--n_parallel=4", "--n_devices=2", "--student_ppo_n_minibatches=4"), "does not divide the 2 environm"),
    (("--n_rollout_steps=5", "--student_ppo_n_minibatches=3"), "does not divide the 5 transitions"),
    ((*PAIRED, *TEACHER_LSTM, "--n_parallel=4", "--teacher_ppo_n_minibatches=3"), "--teacher_ppo_n_minibatches=3"),
    (("--student_recurrent_arch=lstm",), "set for example --student_recurrent_hidden_dim=256"),
    ((*PAIRED, "--teacher_recurrent_arch=gru"), "set for example --teacher_recurrent_hidden_dim=256"),
    (
        ("--student_recurrent_arch=s5", "--student_recurrent_hidden_dim=8", "--student_s5_n_blocks=3"),
        "--student_recurrent_hidden_dim=8 must be a multiple of 2 * --student_s5_n_blocks=3",
    ),
    (
        (*PAIRED, "--teacher_recurrent_arch=s5", "--teacher_recurrent_hidden_dim=6", "--teacher_s5_n_blocks=2"),
        "--teacher_recurrent_hidden_dim=6 must be a multiple of 2 * --teacher_s5_n_blocks=2",
    ),
    (
        ("--student_scalar_embed_dim=0",),
        "--student_scalar_embed_dim=0 with --student_n_scalar_embeddings=4: an embedding needs a width; set both to 0",
    ),
    (
        ("--maze_height=3", "--maze_width=4", "--maze_n_walls=11"),
        "--maze_n_walls=11: with an agent and a goal a maze of --maze_height=3 and --maze_width=4 has room for 10",
    ),
    (("--maze_n_walls=168", "--maze_replace_wall_pos"), "has room for 167 walls; lower it, or enlarge the maze"),
    ((*PAIRED, "--maze_ued_n_walls=168"), "--maze_ued_n_walls=168: with an agent and a goal"),
    (
        (*PAIRED, "--maze_ued_n_walls=0", "--maze_ued_first_wall_pos_sets_budget"),
        "needs a first wall, but --maze_ued_n_walls=0; set for example --maze_ued_n_walls=25",
    ),
    (("--maze_agent_view_size=4",), "--maze_agent_view_size=4: must be odd"),
    (("--env_name=Maze-Labyrinth", "--maze_agent_view_size=4"), "--maze_agent_view_size=4: must be odd"),
    (("--log_dir=",), "--log_dir=: must be a folder; write --log_dir=. for the current one"),
    (("--config=",), "--config=: no .json in ."),
    (("--env_module=",), "--env_module=: cannot be imported"),
    (
        (*PAIRED, "--maze_ued_first_wall_pos_sets_budget=1", "--maze_ued_fixed_n_wall_steps=1"),
        "excludes --maze_ued_fixed_n_wall_steps=True",
    ),
    (("--render=True",), "--level_grid_interval"),
    (("--test_agent_idxs=1",), "no student 1: --test_agent_idxs takes * or numbers from 0 to 0"),
    (("--test_agent_idxs=0,a", "--n_students=2"), "no student a: --test_agent_idxs takes"),
    (("--test_agent_idxs=0,0", "--n_students=2"), "--test_agent_idxs=0,0 names a student twice"),
    (("--xpid=a/b",), "--xpid=a/b: must be the name of a folder"),
    (("--xpid=..",), "--xpid=..: must be the name of a folder"),
]

ACCEPTED = [
    (),
    PLR,
    ACCEL,
    PAIRED,
    (*PAIRED[:2], "--n_students=3", "--ued_score=population_regret"),
    (*PAIRED[:2], "--ued_score=neg_return"),
    (PLR[0], "--ued_score=value_disagreement", "--student_value_ensemble_size=2", *LSTM),
    (*ACCEL, "--plr_mutation_criterion=easy", "--plr_mutation_subsample_size=4"),
    (*ACCEL, "--plr_mutation_criterion=easy", "--plr_use_parallel_eval=True"),
    (*LSTM, "--n_parallel=4", "--n_eval=2", "--n_devices=2", "--student_ppo_n_minibatches=4"),
    (*PLR, "--plr_replay_prob=0", "--plr_use_robust_plr=False"),
    ("--test_agent_idxs=1,0", "--n_students=2"),
    ("--train_runner=sfl",),
    ("--maze_height=3", "--maze_width=4", "--maze_n_walls=10"),
    (*PAIRED, "--maze_n_walls=167", "--maze_ued_n_walls=167"),
    ("--student_scalar_embed_dim=0", "--student_n_scalar_embeddings=0"),
    ("--student_recurrent_arch=s5", "--student_recurrent_hidden_dim=8", "--student_s5_n_blocks=4"),
    ("--train_runner=sfl", "--sfl_n_batches=2", "--sfl_batch_size=500"),
]


@pytest.mark.parametrize(("argv", "message"), REJECTED)
def test_rejected(argv: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_train_args(argv)
    (problem,) = error.value.problems
    assert message in problem


@pytest.mark.parametrize("argv", ACCEPTED)
def test_accepted(argv: tuple[str, ...]) -> None:
    parse_train_args(argv)


def test_all_broken_rules_are_reported() -> None:
    with pytest.raises(ConfigError) as error:
        parse_train_args(["--render=True", "--xpid=a/b", "--device=x"])
    assert len(error.value.problems) == 3


# --- defaults that depend on other flags ---


def test_equal_rates_have_no_schedule() -> None:
    args = parse_train_args(["--lr=0.5", "--lr_anneal_steps=10"]).config.train_runner_args
    assert (args.lr_final, args.lr_anneal_steps) == (0.5, 0)
    args = parse_train_args(["--lr=0.5", "--lr_final=0.1", "--lr_anneal_steps=10"]).config.train_runner_args
    assert (args.lr_final, args.lr_anneal_steps) == (0.1, 10)


@pytest.mark.parametrize(
    ("flags", "remarks"),
    [
        ((), []),
        (("--lr=0.5", "--lr_final=0.1", "--lr_anneal_steps=10"), []),
        (("--lr=0.5", "--lr_final=0.5"), []),
        (
            ("--lr=0.5", "--lr_final=0.1"),
            ["--lr_final=0.1 has no effect without --lr_anneal_steps: the learning rate stays 0.5"],
        ),
        (
            ("--lr=0.5", "--lr_anneal_steps=10"),
            ["--lr_anneal_steps=10 has no effect without --lr_final: the learning rate stays 0.5"],
        ),
        ((*PAIRED, "--lr_final=0.1", "--teacher_lr_anneal_steps=10"), []),
        (
            ("--train_runner=plr", "--ued_score=max_mc", "--plr_n_mutations=3"),
            [
                "--plr_n_mutations=3 has no effect without --plr_mutation_fn: no levels are edited; for ACCEL add for "
                "example --plr_mutation_fn=default"
            ],
        ),
        (("--config=maze/accel",), []),
        (("--config=maze/s5_paired",), []),
    ],
)
def test_flags_without_effect_are_remarked_on(flags: tuple[str, ...], remarks: list[str]) -> None:
    assert remarks_on(parse_train_args(flags).values) == remarks


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ((), (0.5, 0.1, 10)),
        (("--teacher_lr=0.3",), (0.3, 0.1, 10)),
        (("--teacher_lr=0.1",), (0.1, 0.1, 0)),
        (("--teacher_lr_final=0.2",), (0.5, 0.2, 10)),
    ],
)
def test_the_teacher_takes_over_rates_of_the_students(flags: tuple[str, ...], expected: tuple[float, ...]) -> None:
    common = ("--lr=0.5", "--lr_final=0.1", "--teacher_lr_anneal_steps=10")
    args = parse_train_args([*PAIRED, *common, *flags]).config.train_runner_args
    assert (args.teacher_lr, args.teacher_lr_final, args.teacher_lr_anneal_steps) == expected


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ((), (0.5, 0.1, 10)),
        (("--teacher_lr=0.1",), (0.1, 0.1, 10)),
        (("--teacher_lr=0.2", "--teacher_lr_final=0.2"), (0.2, 0.2, 10)),
        (("--teacher_lr=0.2", "--teacher_lr_final=0.5"), (0.2, 0.5, 0)),
    ],
)
def test_in_minimax_rates_of_the_teacher_start_with_that_of_the_students(
    flags: tuple[str, ...], expected: tuple[float, ...]
) -> None:
    common = ("--ued_compat=minimax", "--lr=0.5", "--lr_final=0.1", "--teacher_lr_anneal_steps=10")
    args = parse_train_args([*PAIRED, *common, *flags]).config.train_runner_args
    assert (args.teacher_lr, args.teacher_lr_final, args.teacher_lr_anneal_steps) == expected


@pytest.mark.parametrize(
    ("written", "device"), [("gpu", "cuda"), ("gpu:3", "cuda:3"), ("cuda", "cuda"), ("cpu", "cpu")]
)
def test_gpu_is_another_word_for_cuda(written: str, device: str) -> None:
    args = parse_train_args([f"--device={written}"])
    assert args.config.device == args.values["device"] == device


def test_a_sampled_number_of_walls_is_drawn_without_replacement() -> None:
    args = parse_train_args(["--maze_sample_n_walls", "--maze_replace_wall_pos"]).config.env_args
    assert (args.sample_n_walls, args.replace_wall_pos) == (True, False)


def test_test_environments_show_the_same_kind_of_images() -> None:
    config = parse_train_args(["--maze_one_hot_obs", "--maze_agent_view_size=7"]).config
    assert (config.eval_env_args.one_hot_obs, config.eval_env_args.agent_view_size) == (True, 7)


# --- files and modules ---


def test_flags_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text('{"args": {"lr": [0.5], "seed": [3], "test_agent_idxs": ["\\"*\\""], "lr_final": [null]}}')
    args = parse_train_args([f"--config={path}", "--seed=4"])
    assert (args.values["lr"], args.values["seed"], args.values["lr_final"]) == (0.5, 4, None)


def test_files_with_alternatives_are_for_make_cmd(tmp_path: Path) -> None:
    path = tmp_path / "sweep.json"
    path.write_text('{"args": {"lr": [0.5, 0.6]}}')
    with pytest.raises(ConfigError, match=r"2 values for lr; .*make_cmd"):
        parse_train_args([f"--config={path}"])


def test_module_of_environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "registers_something.py").write_text("REGISTERED = True\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert parse_train_args(["--env_module=registers_something"]).config.env_module == "registers_something"
    with pytest.raises(ConfigError, match="--env_module=no_such_module: cannot be imported"):
        parse_train_args(["--env_module=no_such_module"])
