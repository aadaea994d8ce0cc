"""How many intra-op threads torch gets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces

from sample_factory.algo.utils import thread_counts
from sample_factory.algo.utils.thread_counts import (
    MAX_THREADS,
    ThreadCounts,
    choose_num_threads,
    flops_per_sample,
    limit_serial_threads,
    num_learner_threads,
    num_row_threads,
    num_threads_from_environment,
    set_threads,
    threads_now,
    use_learner_threads,
)

from .learner_setup import make_cfg, make_env_info, make_learner

SMALL, MEDIUM, LARGE = 3e7, 4e8, 1e10  # MLP 64x64, MLP 256x256, GRU 512; minibatches of 1024


@pytest.mark.parametrize(
    ("flops", "cores", "busy", "expected"),
    [
        (SMALL, 64, 0, 1),
        (MEDIUM, 64, 0, 4),
        (MEDIUM, 4, 0, 3),
        (MEDIUM, 4, 2, 1),
        (LARGE, 1, 0, 1),
        (LARGE, 2, 0, 1),
        (LARGE, 2, 3, 1),
        (LARGE, 16, 4, 11),
        (LARGE, 16, 17, 1),
        (LARGE, 256, 0, MAX_THREADS),
    ],
)
def test_choice(flops: float, cores: int, busy: int, expected: int) -> None:
    assert choose_num_threads(flops, cores, busy) == expected


@pytest.mark.parametrize("arguments", [(1.0, 0, 0), (1.0, 1, -1), (-1.0, 1, 0)])
def test_impossible_machines_are_refused(arguments: tuple[float, int, int]) -> None:
    with pytest.raises(ValueError, match="no such machine"):
        choose_num_threads(*arguments)


@pytest.mark.parametrize(("value", "expected"), [("3", 3), ("2,4", 2), ("", None), ("many", None), ("0", None)])
def test_environment(monkeypatch: pytest.MonkeyPatch, value: str, expected: int | None) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert num_threads_from_environment() == expected


def test_flops_of_models(tmp_path: Path) -> None:
    info = make_env_info()
    mlp = make_learner(make_cfg(tmp_path, "--encoder_mlp_layers", "64", "64"), info).actor_critic
    assert flops_per_sample(mlp, info.obs_space) == 2 * (4 * 64 + 64 * 64 + 64 + 3 * 64)
    gru = make_learner(make_cfg(tmp_path, "--use_rnn=True", "--rnn_size=16"), info).actor_critic
    assert flops_per_sample(gru, info.obs_space) == 2 * (4 * 8 + 3 * 16 * (8 + 16) + 16 + 3 * 16)
    image = make_env_info(obs_space=spaces.Dict(obs=spaces.Box(0, 255, (4, 84, 84), np.uint8)))
    cfg = make_cfg(tmp_path, "--encoder_conv_architecture=convnet_atari", "--encoder_conv_mlp_layers", "512")
    conv = make_learner(cfg, image).actor_critic
    assert flops_per_sample(conv, image.obs_space) == pytest.approx(18.7e6, rel=0.5)


def test_learner_counts_the_other_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(thread_counts, "num_usable_cores", lambda: 16)
    info = make_env_info()
    argv = ("--use_rnn=True", "--rnn_size=256", "--batch_size=1024", "--rollout=32", "--policy_workers_per_policy=2")
    cfg = make_cfg(tmp_path, *argv, "--num_workers=7")
    model = make_learner(cfg, info).actor_critic
    cfg.serial_mode = False
    assert num_learner_threads(cfg, model, info.obs_space) == 16 - 7 - 2 - 1
    cfg.policy_workers_per_policy = 1  # inside of the rollout workers
    assert num_learner_threads(cfg, model, info.obs_space) == 16 - 7 - 1
    cfg.num_workers = 32
    assert num_learner_threads(cfg, model, info.obs_space) == 1
    cfg.num_workers = 2
    cfg.batch_size = 32
    assert num_learner_threads(cfg, model, info.obs_space) == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert num_learner_threads(cfg, model, info.obs_space) == 5


@pytest.mark.parametrize(
    ("cores", "learners", "expected"), [(1, 1, 1), (2, 1, 2), (3, 2, 1), (16, 1, 4), (16, 2, 4), (16, 6, 2), (2, 5, 1)]
)
def test_threads_that_share_rows(cores: int, learners: int, expected: int) -> None:
    assert num_row_threads(cores, learners) == expected


def test_serial_mode_leaves_a_core_and_what_an_update_does_not_keep_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = threads_now()
    info = make_env_info()
    cfg = make_cfg(tmp_path)
    model = make_learner(cfg, info).actor_critic
    flops_per_step = 3.0 * flops_per_sample(model, info.obs_space)

    def threads(update_flops: float, cores: int = 16) -> tuple[int, int]:
        monkeypatch.setattr(thread_counts, "num_usable_cores", lambda: cores)
        set_threads(ThreadCounts(3, 1))
        cfg.batch_size = update_flops / flops_per_step
        limit_serial_threads(cfg, model, info.obs_space)
        return threads_now()

    try:
        assert [threads(flops)[0] for flops in (1e6, 1.5e8, 2.5e8, 1e10)] == [1, 1, 2, 3]
        assert [threads(1e10, cores) for cores in (1, 2, 3, 4)] == [(1, 1), (1, 2), (2, 1), (3, 1)]
        cfg.device = "gpu"
        assert threads(1e6) == (3, 1)
        cfg.device = "cpu"
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        assert threads(1e6) == (3, 1)
    finally:
        set_threads(before)


def test_threads_are_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = threads_now()
    monkeypatch.setattr(thread_counts, "num_usable_cores", lambda: 3)
    info = make_env_info()
    cfg = make_cfg(tmp_path)
    model = make_learner(cfg, info).actor_critic

    def threads() -> tuple[int, int]:
        used = use_learner_threads(cfg, model, info.obs_space)
        assert used == threads_now()
        return used

    try:
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
        assert threads() == (2, 1)
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        assert threads() == (1, 1)
        monkeypatch.delenv("OMP_NUM_THREADS")
        assert threads() == (1, 3)
        cfg.device = "gpu"
        assert threads() == (1, 1)
    finally:
        set_threads(before)
