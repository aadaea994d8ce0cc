"""What a configuration turns into."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sample_factory.ued.config.files import shipped_names
from sample_factory.ued.config.nested import Config
from sample_factory.ued.config.train_args import parse_train_args
from sample_factory.ued.envs.registration import registered_ued_envs
from sample_factory.ued.models import registration
from sample_factory.ued.runs import assembly
from sample_factory.ued.runs.assembly import Parts, make_parts, student_ppo, teacher_ppo
from sample_factory.ued.runs.ranks import Ranks
from sample_factory.ued.runs.wandb_log import WandbLog

CPU = torch.device("cpu")
SMALL = ("--student_recurrent_hidden_dim=8", "--maze_ued_n_walls=4", "--teacher_n_conv_filters=2")
PAIRED = ("--train_runner=paired", "--n_students=2", "--teacher_model_name=default_teacher_cnn")
SCHEDULE = ("--lr=0.5", "--lr_final=0.1", "--lr_anneal_steps=10")
COMPAT = "--ued_compat=minimax"


def config_of(*argv: str) -> Config:
    return parse_train_args(argv).config


def parts_of(*argv: str, ranks: Ranks | None = None) -> Parts:
    return make_parts(config_of(*argv), ranks or Ranks(), CPU)


@pytest.mark.parametrize("name", shipped_names())
def test_shipped_configurations_can_be_built(name: str) -> None:
    parts = parts_of(f"--config={name}", "--plr_buffer_size=8" if "pl" in name or "accel" in name else "--n_threads=1")
    assert len(parts.curriculum.students) == (2 if "paired" in name else 1)
    assert len(parts.evaluator.columns(1)) == 6
    assert "n_updates" in parts.curriculum.stat_names


@pytest.mark.parametrize("name", [name for name in registered_ued_envs() if name.startswith("Maze")])
def test_every_maze_can_be_trained_on(name: str) -> None:
    accel = ("--train_runner=plr", "--ued_score=max_mc", "--plr_mutation_fn=default", "--plr_n_mutations=1")
    sizes = ("--n_parallel=2", "--n_rollout_steps=3", "--plr_buffer_size=4", "--plr_use_parallel_eval=True")
    curriculum = parts_of(f"--env_name={name}", *accel, *sizes, "--plr_use_robust_plr=False").curriculum
    assert curriculum.run_cycle().stats["n_updates"] == 1


@pytest.mark.parametrize(("flags", "counts"), [((), {0, 1}), ((COMPAT,), {1})])
def test_minimax_draws_at_least_one_wall(flags: tuple[str, ...], counts: set[int]) -> None:
    env: Any = parts_of("--maze_sample_n_walls=True", "--maze_n_walls=1", *flags).curriculum.env
    levels = env.sample_levels(100, torch.Generator().manual_seed(0))
    assert set(levels.wall_map.sum((1, 2)).tolist()) == counts


@pytest.mark.parametrize(("flags", "is_free"), [((), True), ((COMPAT,), False)])
def test_minimax_takes_the_first_tile_from_its_teachers(flags: tuple[str, ...], is_free: bool) -> None:
    curriculum: Any = parts_of(*PAIRED, *SMALL, *flags).curriculum
    generator = torch.Generator().manual_seed(0)
    state = curriculum.teacher_env.reset(20, generator)
    for action in (168, 0):
        curriculum.teacher_env.step(state, torch.full((20,), action), generator)
    assert bool((state.choices[:, 1] == 0).all()) == is_free


# --- learners ---


def test_every_setting_of_the_learner_arrives() -> None:
    config = student_ppo(
        config_of(
            "--student_ppo_n_epochs=2",
            "--student_ppo_n_minibatches=5",
            "--student_ppo_clip_eps=0.3",
            "--student_ppo_clip_value_loss=False",
            "--student_value_loss_coef=0.7",
            "--student_entropy_coef=0.01",
            "--discount=0.9",
            "--student_gae_lambda=0.8",
            "--max_grad_norm=2",
            "--adam_eps=0.001",
            *SCHEDULE,
        )
    )
    assert vars(config) == {
        "n_epochs": 2,
        "n_minibatches": 5,
        "clip_eps": 0.3,
        "clip_value_loss": False,
        "value_loss_coef": 0.7,
        "entropy_coef": 0.01,
        "discount": 0.9,
        "gae_lambda": 0.8,
        "max_grad_norm": 2.0,
        "adam_eps": 0.001,
        "lr": 0.5,
        "lr_final": 0.1,
        "lr_anneal_steps": 10,
    }


@pytest.mark.parametrize("runner", [(), ("--train_runner=plr", "--ued_score=max_mc"), PAIRED])
def test_schedules_are_followed_unless_minimax_is_asked_for(runner: tuple[str, ...]) -> None:
    assert student_ppo(config_of(*runner, *SCHEDULE)).learning_rate(5) == pytest.approx(0.3)
    expected = 0.3 if runner == PAIRED else 0.5
    assert student_ppo(config_of(*runner, *SCHEDULE, COMPAT)).learning_rate(5) == pytest.approx(expected)


def test_rate_of_the_teacher() -> None:
    flags = (*PAIRED, "--lr=0.5", "--teacher_lr=0.2", "--teacher_discount=0.7", "--teacher_gae_lambda=0.6")
    config = teacher_ppo(config_of(*flags))
    assert (config.lr, config.discount, config.gae_lambda) == (0.2, 0.7, 0.6)
    assert teacher_ppo(config_of(*flags, COMPAT)).lr == 0.5


@pytest.mark.parametrize("teacher_lr", ["0.1", "0.3"])
def test_in_minimax_the_rate_of_the_teacher_falls_from_that_of_the_students(teacher_lr: str) -> None:
    flags = ("--lr=0.5", f"--teacher_lr={teacher_lr}", "--teacher_lr_final=0.1", "--teacher_lr_anneal_steps=10")
    config = teacher_ppo(config_of(*PAIRED, *flags, COMPAT))
    assert [config.learning_rate(k) for k in (0, 5, 10, 20)] == pytest.approx([0.5, 0.3, 0.1, 0.1])


@pytest.mark.parametrize(("size", "is_seen"), [(0, False), (2, True)])
def test_teachers_without_embeddings_do_not_see_the_time(size: int, is_seen: bool) -> None:
    parts = parts_of(*PAIRED, *SMALL, f"--teacher_scalar_embed_dim={size}")
    assert parts.curriculum.agents.teacher is not None
    model = parts.curriculum.agents.teacher.model
    obs = {"image": torch.zeros(2, 15, 15, 3), "time": torch.tensor([0, 5]), "noise": torch.zeros(2, 50)}
    values, logits, _ = model.step(obs, model.initial_carry(2), torch.zeros(2, dtype=torch.bool))
    for output in (values, logits):
        assert torch.equal(output[0], output[1]) != is_seen


def test_first_policies() -> None:
    for flags, is_constant in (((), False), ((COMPAT,), True)):
        weights = [p for p in parts_of(*flags).curriculum.students[0].model.parameters() if p.ndim == 2]
        assert any(bool((w == 0.01).all()) for w in weights) == is_constant


def test_minibatches_of_a_teacher_without_recurrence() -> None:
    flags = (*PAIRED, *SMALL, "--n_parallel=2", "--maze_ued_fixed_n_wall_steps=True")  # 6 steps in 2 levels
    parts_of(*flags, "--teacher_ppo_n_minibatches=4")
    with pytest.raises(ValueError, match="--teacher_ppo_n_minibatches=5 does not divide the 12 items"):
        parts_of(*flags, "--teacher_ppo_n_minibatches=5")


def test_minibatches_of_registered_students_with_recurrence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "_students", dict(registration._students))
    for name, options in (("memory", {"recurrent_arch": "lstm", "recurrent_hidden_dim": 8}), ("none", {})):
        register_student(name, options)
    flags = ("--n_rollout_steps=6", "--student_ppo_n_minibatches=2")  # which divides the transitions in any case
    parts_of(*flags, "--student_model_name=none", "--n_parallel=3")
    parts_of(*flags, "--student_model_name=memory", "--n_parallel=4")
    parts_of(*flags, "--student_model_name=memory", "--n_parallel=3", "--n_eval=2")
    message = "--student_ppo_n_minibatches=2 does not divide the 3 environments .* --student_model_name=memory"
    with pytest.raises(ValueError, match=message):
        parts_of(*flags, "--student_model_name=memory", "--n_parallel=3")
    with pytest.raises(ValueError, match=message):
        parts_of(*flags, "--student_model_name=memory", "--n_parallel=6", "--n_devices=2")


def register_student(name: str, options: dict[str, Any]) -> None:
    """A network of a user: the flags do not tell whether it is recurrent."""

    def build(spec: Any, num_actions: int, no_options: Any, generator: Any) -> Any:
        return registration.make_student_model("default_student_cnn", spec, num_actions, options, generator)

    registration.register_student_model(name, build)


def test_test_environments_have_to_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembly, "make_test_env", lambda name, config: make_other_env(config))
    with pytest.raises(ValueError, match=r"students cannot act in Maze-Labyrinth: it has images \(7, 7, 3\)"):
        parts_of("--test_env_names=Maze-Labyrinth")


def make_other_env(config: Config) -> Any:
    return assembly.make_ued_env("Maze", agent_view_size=7)


# --- random numbers ---


def numbers(seed: int, purpose: int, rank: int) -> tuple[float, ...]:
    generator = assembly.make_generator(Config(seed=seed), purpose, rank, CPU)
    return tuple(torch.rand(4, generator=generator).tolist())


def test_every_purpose_rank_and_seed_has_its_own_numbers() -> None:
    keys = [(seed, purpose, rank) for seed in range(4) for purpose in range(3) for rank in range(4)]
    assert len({numbers(*key) for key in keys}) == len(keys)
    assert numbers(1, 1, 1) == numbers(1, 1, 1)


def test_ranks_share_weights_but_not_levels() -> None:
    flags = ("--n_parallel=4", "--n_devices=2", "--train_runner=plr", "--ued_score=max_mc")
    first, second = (parts_of(*flags, ranks=Ranks(rank, 2)).curriculum for rank in range(2))
    for mine, other in zip(first.students[0].model.parameters(), second.students[0].model.parameters(), strict=True):
        assert torch.equal(mine, other)
    assert not torch.equal(first.generator.get_state(), second.generator.get_state())
    assert first.settings.num_levels == 2
    assert first.students[0].gradient_sync is not None


# --- Weights & Biases ---


class FakeWandb(SimpleNamespace):
    """Records what it is told."""

    def __init__(self) -> None:
        super().__init__(calls=[], logged=[])

    def login(self, **kwargs: Any) -> None:
        self.calls.append(("login", kwargs))

    def init(self, **kwargs: Any) -> FakeWandb:
        self.calls.append(("init", kwargs))
        return self

    def log(self, row: dict[str, Any], step: int) -> None:
        if step == 3:
            raise ConnectionError("gone")
        self.logged.append((step, row))

    def finish(self) -> None:
        self.calls.append(("finish", {}))


def test_rows_are_sent_if_there_is_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)  # type: ignore[arg-type]
    flags = ("--wandb_api_key=secret", "--wandb_project=p", "--wandb_group=g", "--wandb_entity=e", "--xpid=x")
    log = WandbLog(config_of(*flags), tmp_path)
    log.write(1, {"loss": 0.5, "missing": None})
    log.write(3, {"loss": 0.1})
    log.write(4, {"loss": 0.1})
    log.close()
    (_, login), (_, init) = fake.calls
    assert login == {"key": "secret", "host": "https://api.wandb.ai"}
    assert {k: init[k] for k in ("name", "project", "group", "entity")} == {
        "name": "x",
        "project": "p",
        "group": "g",
        "entity": "e",
    }
    assert "secret" not in str(init)
    assert fake.logged == [(1, {"loss": 0.5})]


def test_nothing_is_imported_without_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # an import would fail
    log = WandbLog(config_of(), tmp_path)
    log.write(1, {"loss": 0.5})
    log.close()
    broken = WandbLog(config_of("--wandb_api_key=x"), tmp_path)  # logs a warning
    broken.write(1, {"loss": 0.5})
