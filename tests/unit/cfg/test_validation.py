"""Rules over several flags."""

from __future__ import annotations

import logging
import pickle
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from sample_factory.cfg import validation
from sample_factory.cfg.arguments import cfg_dict, default_cfg, preprocess_cfg
from sample_factory.cfg.validation import (
    ConfigError,
    check_cfg_before_evaluation,
    check_cfg_before_start,
    collect_evaluation_problems,
    collect_problems,
    resolve_device,
    verify_cfg,
)
from sample_factory.utils.utils import log


@dataclass
class EnvShape:
    num_agents: int = 1


class LogRecords(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((record.levelno, record.getMessage()))

    def of_level(self, level: int) -> list[str]:
        return [text for lineno, text in self.lines if lineno == level]


@pytest.fixture
def records() -> Any:
    handler = LogRecords()
    log.addHandler(handler)
    yield handler
    log.removeHandler(handler)


def config(**changes: Any) -> Namespace:
    cfg = default_cfg()
    vars(cfg).update(changes)
    return cfg


def problems_of(num_agents: int | None = 1, **changes: Any) -> list[str]:
    return collect_problems(config(**changes), None if num_agents is None else EnvShape(num_agents))


def test_defaults_are_fine() -> None:
    assert problems_of() == []
    assert preprocess_cfg(default_cfg(), EnvShape()) is True


# changes, expected part of the message; one broken rule each
BROKEN: list[tuple[dict[str, Any], str]] = [
    (dict(num_envs_per_worker=3), "--num_envs_per_worker=3 cannot be divided by --worker_num_splits=2"),
    (dict(num_envs_per_worker=1), "--num_envs_per_worker=1 cannot be divided by --worker_num_splits=2"),
    (dict(with_vtrace=True), "--normalize_returns"),
    (dict(recurrence=1), "--recurrence=1 is too short for --use_rnn=True"),
    (dict(rollout=1), "--recurrence=1 is too short"),
    (dict(recurrence=5), "--rollout=32 cannot be divided by --recurrence=5"),
    (dict(recurrence=64), "--rollout=32 cannot be divided by --recurrence=64"),
    (
        dict(use_rnn=False, recurrence=5, num_batches_per_epoch=2),
        "--rollout=32 cannot be divided by --recurrence=5",
    ),
    (dict(with_vtrace=True, normalize_returns=False, recurrence=16), "--recurrence equal to --rollout"),
    (dict(with_vtrace=True, normalize_returns=False, use_rnn=False, recurrence=1), "--recurrence equal to --rollout"),
    (dict(with_vtrace=True, normalize_returns=False, use_rnn=False, rollout=1), "--recurrence equal to --rollout"),
    (dict(batch_size=1000), "--batch_size=1000 cannot be divided by --rollout=32"),
    (dict(batch_size=16), "for example --batch_size=32"),
    (dict(lr_schedule="kl_adaptive_epoch", lr_adaptive_min=0.1), "--lr_adaptive_min=0.1 is above"),
    (dict(mixed_precision="tf32", device="cpu"), "--mixed_precision=tf32 is arithmetic of GPUs"),
    (dict(with_pbt=True, pbt_perturb_min=2.0), "--pbt_perturb_min=2.0 is above"),
]


@pytest.mark.parametrize(("changes", "message"), BROKEN, ids=[str(changes) for changes, _ in BROKEN])
def test_broken_rules(changes: dict[str, Any], message: str) -> None:
    found = problems_of(**changes)
    assert len(found) == 1
    assert message in found[0]
    assert not verify_cfg(config(**changes), EnvShape())
    with pytest.raises(ConfigError):
        check_cfg_before_start(config(**changes))


ACCEPTED: list[dict[str, Any]] = [
    dict(worker_num_splits=1, num_envs_per_worker=1),
    dict(worker_num_splits=3, num_envs_per_worker=6),
    dict(recurrence=16),
    dict(use_rnn=False, recurrence=32),
    dict(use_rnn=False, recurrence=5),  # with one minibatch nothing is cut, so the value does not matter
    dict(with_vtrace=True, normalize_returns=False),
    dict(with_vtrace=True, normalize_returns=False, use_rnn=False),
    dict(exploration_loss="symmetric_kl"),
    dict(lr_adaptive_min=0.1),
    dict(mixed_precision="bf16", device="cpu"),
    dict(mixed_precision="tf32", device="gpu"),
    dict(pbt_perturb_min=2.0),
    dict(save_best_metric="z_episode/len"),
    dict(max_grad_norm=-1.0, continuous_tanh_scale=-1.0, save_milestones_sec=0),
    dict(train_for_env_steps=1e9),
    dict(reward_clip=float("inf")),
    dict(fps=35, eval_env_frameskip=3, env_frameskip=4),  # training scripts may set keys of evaluation
    dict(experiment="group/run"),
    dict(num_policies=3, num_workers=2, async_rl=True),
]


@pytest.mark.parametrize("changes", ACCEPTED, ids=str)
def test_what_works_is_not_rejected(changes: dict[str, Any]) -> None:
    assert problems_of(**changes) == []


def test_q27_batch_of_partial_rollouts_is_found_before_start() -> None:
    assert problems_of(None, batch_size=63) == [
        "--batch_size=63 cannot be divided by --rollout=32; for example --batch_size=64"
    ]


SYNC = dict(async_rl=False, num_workers=8, num_envs_per_worker=8, rollout=64)


@pytest.mark.parametrize(
    ("batch_size", "num_batches", "agents", "policies", "ok"),
    [
        (1024, 4, 1, 1, True),  # exactly one rollout of all environments
        (1024, 8, 1, 1, True),  # two
        (1024, 2, 1, 1, False),  # half a rollout
        (1024, 6, 1, 1, False),  # one and a half
        (1024, 4, 2, 1, False),
        (1024, 4, 2, 2, True),
        (1024, 8, 2, 1, True),
    ],
)
def test_sync_datasets_are_whole_rollouts(
    batch_size: int, num_batches: int, agents: int, policies: int, ok: bool
) -> None:
    changes = dict(SYNC, batch_size=batch_size, num_batches_per_epoch=num_batches, num_policies=policies)
    assert (problems_of(agents, **changes) == []) is ok
    assert problems_of(None, **changes) == [], "the number of agents is not known before start"
    assert problems_of(agents, **dict(changes, async_rl=True)) == []


def test_sync_message_shows_the_numbers(records: LogRecords) -> None:
    assert not verify_cfg(config(**SYNC, batch_size=1024, num_batches_per_epoch=6), EnvShape())
    errors = records.of_level(logging.ERROR)
    assert len(errors) == 4
    assert "= 4096 samples" in errors[1]
    assert "= 6144 samples" in errors[2]
    assert "1.500" in errors[3]


def test_sync_policies_share_environments_equally() -> None:
    changes = dict(async_rl=False, num_policies=3, num_workers=1, num_envs_per_worker=4)
    assert any("--num_policies=3" in problem for problem in problems_of(None, **changes))


def test_batched_sampling_needs_no_relation_between_slices_and_dataset() -> None:
    changes = dict(batched_sampling=True, num_envs_per_worker=6, worker_num_splits=2, batch_size=64, rollout=16)
    assert problems_of(1, **changes) == []


@pytest.mark.parametrize(
    ("workers", "policies", "async_rl", "ok"),
    [(2, 2, True, True), (1, 2, True, False), (3, 2, True, True), (3, 2, False, False), (4, 2, False, True)],
)
def test_batched_workers_serve_every_policy(workers: int, policies: int, async_rl: bool, ok: bool) -> None:
    changes = dict(batched_sampling=True, num_workers=workers, num_policies=policies, async_rl=async_rl)
    found = problems_of(None, **changes, num_envs_per_worker=2)
    assert any("--batched_sampling=True" in problem for problem in found) != ok


@pytest.mark.parametrize(("given", "used"), [(30, 30), (59, 59), (60, 30), (100_000, 30)])
def test_heartbeats_are_more_frequent_than_their_check(given: int, used: int, records: LogRecords) -> None:
    cfg = config(heartbeat_interval=given, heartbeat_reporting_interval=60)
    assert preprocess_cfg(cfg, EnvShape())
    assert cfg.heartbeat_interval == used
    warned = [text for text in records.of_level(logging.WARNING) if f"--heartbeat_interval={given} " in text]
    assert len(warned) == (given != used)


def test_all_problems_at_once() -> None:
    found = problems_of(
        num_workers=0, batch_size=1000, num_envs_per_worker=3, experiment="", gamma=7, device="tpu", env=None
    )
    for text in ("--num_workers=0", "--batch_size=1000", "--worker_num_splits=2", "--gamma=7", "--device=tpu", "--env"):
        assert sum(text in problem for problem in found) == 1
    assert any(problem.startswith("--experiment=") for problem in found)
    assert len(found) == 7


def test_rules_do_not_stumble_over_broken_values() -> None:
    for value in (None, 0, -3, "x", [1], 2.5):
        for name in ("rollout", "worker_num_splits", "num_policies", "batch_size", "lr_schedule", "actor_worker_gpus"):
            changes = {name: value}
            if (name, value) == ("actor_worker_gpus", [1]):
                continue
            assert verify_cfg(config(**changes), EnvShape()) is False


def test_empty_environment_name() -> None:
    assert len(problems_of(env="")) == 1


def test_verify_never_raises_and_logs_every_problem(records: LogRecords) -> None:
    assert verify_cfg(config(num_workers=0, gamma=7.0), EnvShape()) is False
    assert len(records.of_level(logging.ERROR)) == 2


def test_dictionaries_and_incomplete_configurations_are_accepted() -> None:
    assert collect_problems(cfg_dict(default_cfg()), EnvShape()) == []
    partial = Namespace(env="x", experiment="e", batch_size=31)
    assert len(collect_problems(partial)) == 1


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (dict(use_rnn=True), 32),
        (dict(use_rnn=False), 1),
        (dict(use_rnn=True, recurrence=16), 16),
        (dict(use_rnn=False, with_vtrace=True, normalize_returns=False), 32),
    ],
)
def test_automatic_recurrence(changes: dict[str, Any], expected: int) -> None:
    for cfg in (config(**changes), cfg_dict(config(**changes))):
        assert preprocess_cfg(cfg, EnvShape())
        assert cfg.recurrence == expected


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        (dict(serial_mode=True), "--serial_mode=True"),
        (dict(num_policies=2, batched_sampling=True), "one policy"),
        (dict(num_policies=2, async_rl=False, num_workers=2, batch_size=64), "experimental"),
        (dict(use_rnn=False, recurrence=32), "--recurrence=1 is faster"),
        (dict(ppo_clip_ratio=0.0), "--ppo_clip_ratio=0"),
        (dict(with_vtrace=True, normalize_returns=False, vtrace_rho=0.0), "--vtrace_rho=0"),
        (dict(with_pbt=True), "--with_pbt=True does nothing with a single policy"),
        (dict(lr_schedule="linear_decay"), "so the learning rate hardly changes"),
    ],
)
def test_warnings(changes: dict[str, Any], part: str, records: LogRecords) -> None:
    assert verify_cfg(config(**changes), EnvShape()) is True
    warned = records.of_level(logging.WARNING)
    assert len(warned) == 1
    assert part in warned[0]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        dict(use_rnn=False, with_vtrace=True, normalize_returns=False),
        dict(with_pbt=True, num_policies=2),
        dict(lr_schedule="linear_decay", train_for_env_steps=10**6),
    ],
    ids=str,
)
def test_no_needless_warnings(changes: dict[str, Any], records: LogRecords) -> None:
    assert verify_cfg(config(**changes), EnvShape())
    assert records.of_level(logging.WARNING) == []


def test_the_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(ConfigError(["a", "b"])))
    assert error.problems == ["a", "b"]
    assert str(error) == "a\nb"


def test_evaluation_ignores_how_experience_was_collected() -> None:
    cfg = config(num_envs_per_worker=3, batch_size=1000)
    assert collect_evaluation_problems(cfg) == []
    check_cfg_before_evaluation(cfg)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        (dict(env_frameskip=4, eval_env_frameskip=3), "--eval_env_frameskip=3 must divide --env_frameskip=4"),
        (dict(policy_index=1), "--policy_index=1"),
        (dict(max_num_frames=0), "--max_num_frames=0"),
    ],
)
def test_evaluation_rules(changes: dict[str, Any], part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        check_cfg_before_evaluation(config(**changes))
    check_cfg_before_start(config(**changes))


def test_evaluation_frameskip_may_divide() -> None:
    assert collect_evaluation_problems(config(env_frameskip=4, eval_env_frameskip=2)) == []


def test_device_falls_back_to_the_cpu_with_one_warning(monkeypatch: pytest.MonkeyPatch, records: LogRecords) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(validation, "_missing_gpu_reported", [])
    cfg = config(device="gpu")
    assert [resolve_device(cfg), resolve_device(cfg)] == ["cpu", "cpu"]
    assert cfg.device == "gpu"
    assert len(records.of_level(logging.WARNING)) == 1
    assert "--device=gpu" in records.of_level(logging.WARNING)[0]


def test_device_as_asked_for(monkeypatch: pytest.MonkeyPatch, records: LogRecords) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device(config(device="gpu")) == "gpu"
    assert resolve_device(config(device="cpu")) == "cpu"
    assert records.lines == []


def test_gpus_of_rollout_workers_have_to_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert problems_of(actor_worker_gpus=[0, 1]) == []
    assert "use indices below 2" in problems_of(actor_worker_gpus=[0, 2])[0]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert "without values" in problems_of(actor_worker_gpus=[0])[0]


def test_symbolic_links_are_checked_before_start(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(ConfigError, match="leads outside"):
        check_cfg_before_start(config(train_dir=str(tmp_path / "train"), experiment="link"))
