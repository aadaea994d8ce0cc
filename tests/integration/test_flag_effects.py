"""Flags whose effect only a real run or a real worker process can show."""

from __future__ import annotations

import csv
import json
import logging
import multiprocessing
import os
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from sample_factory.algo.runners.runner import AlgoObserver, Runner
from sample_factory.algo.sampling.rollout_worker import init_rollout_worker_process
from sample_factory.algo.utils.context import sf_global_context
from sample_factory.algo.utils.life_signs import PHASE, RUNNING, LifeSigns
from sample_factory.algo.utils.misc import ExperimentStatus
from sample_factory.algo.utils.multiprocessing_utils import get_mp_ctx
from sample_factory.cfg import validation
from sample_factory.eval import do_eval
from sample_factory.utils.processes import cores_for_worker_process
from sample_factory.utils.utils import log
from tests.integration.harness import SERIAL, SYNC, checkpoints, experiment, parse, train

SHORT = ("--train_for_env_steps=300", "--use_env_info_cache=True")


@pytest.fixture(autouse=True)
def shared_cache_of_env_infos(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the first run of this module asks an environment for its spaces."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.getbasetemp()))


def saved_config(train_dir: Path) -> dict[str, Any]:
    return json.loads((experiment(train_dir) / "config.json").read_text())


# --- scheduling of worker processes ---


class LooksAtProcesses(AlgoObserver):
    """Niceness and CPU cores of every worker process, by kind, as soon as all rollout workers are at work."""

    def __init__(self) -> None:
        self.niceness: dict[str, set[int]] = {}
        self.cores: dict[str, list[int]] = {}

    def on_training_step(self, runner: Runner, training_iteration_since_resume: int) -> None:
        signs = runner.buffer_mgr.life_signs
        phases = [signs.read(signs.rollout_row(i))[PHASE] for i in range(runner.cfg.num_workers)]
        if self.niceness or any(phase != RUNNING for phase in phases):
            return
        runner.cfg.train_for_seconds = 0.0  # that was all
        for worker in runner.supervisor.running:
            process = psutil.Process(worker._process.pid)
            kind = worker.name.partition("_")[0]
            self.niceness.setdefault(kind, set()).add(process.nice())
            self.cores[worker.name] = process.cpu_affinity()


@pytest.mark.multiproc
@pytest.mark.parametrize("is_pinned", [True, False])
def test_default_niceness_and_affinity(tmp_path: Path, is_pinned: bool) -> None:
    """--default_niceness: learner as given, inference 2 more, rollout workers 10 more. --set_workers_cpu_affinity"""
    observer = LooksAtProcesses()
    flags = ("--default_niceness=3", f"--set_workers_cpu_affinity={is_pinned}", "--inference_placement=separate")
    status, _ = train(tmp_path, *SHORT, *flags, "--train_for_env_steps=1000000", observer=observer)
    assert status == ExperimentStatus.SUCCESS
    assert observer.niceness == {"learner": {3}, "inference": {5}, "rollout": {13}}
    all_cores = observer.cores["learner_proc0"]
    for worker_idx in range(2):
        share = cores_for_worker_process(worker_idx, 2, len(all_cores)) if is_pinned else None
        expected = all_cores if share is None else [all_cores[i] for i in share]
        assert observer.cores[f"rollout_proc{worker_idx}"] == expected


def report_threads(flags: dict[str, Any], connection: Any) -> None:
    """Body of a process: what a rollout worker with one core does about threads."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    os.environ["OMP_NUM_THREADS"] = "2"
    threadpool_limits(limits=2, user_api="blas")
    cfg = SimpleNamespace(
        num_workers=1, set_workers_cpu_affinity=True, actor_worker_gpus=[], log_to_file=False, seed=1, device="cpu"
    )
    cfg.__dict__.update(flags)
    loop = SimpleNamespace(process=multiprocessing.current_process(), show_life_signs=lambda words: None)
    buffers = SimpleNamespace(life_signs=LifeSigns(1, 1, 1, share=False))
    worker = SimpleNamespace(cfg=cfg, worker_idx=0, event_loop=loop, buffer_mgr=buffers, num_restarts=0)
    init_rollout_worker_process(sf_global_context(), worker)  # type: ignore[arg-type]
    # Other libraries may bring a BLAS of their own that sees only one core; what matters is the largest pool.
    blas = max(library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas")
    connection.send((blas, os.environ["OMP_NUM_THREADS"]))


@pytest.mark.multiproc
@pytest.mark.parametrize("is_forced, num_threads", [(True, 1), (False, 2)])
def test_force_envs_single_thread(is_forced: bool, num_threads: int) -> None:
    ctx: Any = get_mp_ctx(serial=False)
    receiver, sender = ctx.Pipe(duplex=False)
    process = ctx.Process(target=report_threads, args=({"force_envs_single_thread": is_forced}, sender))
    process.start()
    sender.close()
    assert receiver.recv() == (num_threads, str(num_threads))
    process.join()


# --- seed and device ---


class BusyTimers(AlgoObserver):
    """Everything periodic happens all the time, as if the machine were very slow."""

    def on_start(self, runner: Runner) -> None:
        for timer in runner.timers:
            timer.set_interval(0.001)


def final_weights(train_dir: Path, *args: str, observer: AlgoObserver | None = None) -> dict[str, torch.Tensor]:
    status, _ = train(train_dir, *SERIAL, *SHORT, *args, observer=observer)
    assert status == ExperimentStatus.SUCCESS
    return torch.load(checkpoints(train_dir)[-1], weights_only=False)["model"]


@pytest.mark.parametrize("mode", [("--batch_size=32", "--num_batches_per_epoch=2", "--shuffle_minibatches=True"), SYNC])
def test_seed(tmp_path: Path, mode: tuple[str, ...]) -> None:
    """Weights after a whole serial run are equal to the last bit, whatever the clock says."""
    first = final_weights(tmp_path / "a", *mode, "--seed=7")
    second = final_weights(tmp_path / "b", *mode, "--seed=7", observer=BusyTimers())
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = final_weights(tmp_path / "c", *mode, "--seed=8")
    assert not torch.equal(first["critic_linear.weight"], other["critic_linear.weight"])


class Warnings(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def test_device_gpu_without_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Says so once and goes on with the CPU."""
    warnings = Warnings()
    monkeypatch.setattr(validation, "_missing_gpu_reported", [])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(log, "handlers", [*log.handlers, warnings])
    status, runner = train(tmp_path, *SERIAL, *SHORT, "--device=gpu")
    assert status == ExperimentStatus.SUCCESS
    assert runner.learners[0].learner.device.type == "cpu"
    (message,) = [message for message in warnings.messages if "--device=gpu" in message]
    assert "CPU" in message


# --- what a run leaves behind ---


def test_best_policies_episode_counter_and_milestones(tmp_path: Path) -> None:
    """--save_best_after, --save_best_metric, --episode_counter"""
    flags = ("--save_best_after=1", "--save_best_metric=len", "--episode_counter=True")
    status, runner = train(tmp_path / "a", *SERIAL, *SHORT, *flags)
    assert status == ExperimentStatus.SUCCESS
    (best,) = checkpoints(tmp_path / "a", prefix="best")
    assert "_len_" in best.name
    assert runner.metrics.mean("episode_number", 0) > 0

    _, runner = train(tmp_path / "b", *SERIAL, *SHORT, "--save_best_after=1000000")
    assert checkpoints(tmp_path / "b", prefix="best") == []
    assert runner.metrics.mean("episode_number", 0) is None


@pytest.mark.slow
def test_with_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real client records the run in --wandb_dir, and the identity of the run is kept for a resume."""
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    flags = ("--with_wandb=True", f"--wandb_dir={tmp_path / 'tracker'}", "--wandb_project=flags")
    status, _ = train(tmp_path, *SERIAL, *SHORT, *flags)
    wandb.teardown()  # waits for the process that writes the file; happens by itself at the end of a program
    assert status == ExperimentStatus.SUCCESS
    run_id = saved_config(tmp_path)["wandb_unique_id"]
    assert run_id.startswith("test_")
    (record,) = (tmp_path / "tracker").glob(f"wandb/offline-run-*/run-{run_id}.wandb")
    assert b"reward/reward" in record.read_bytes()

    status, runner = train(tmp_path, *SERIAL, *SHORT, *flags, "--train_for_env_steps=400")
    wandb.teardown()
    assert status == ExperimentStatus.SUCCESS and runner.cfg.wandb_unique_id == run_id


def test_tracker_that_raises_and_no_log_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--with_wandb: a problem of the tracker does not cost the training. --log_to_file=False"""
    wandb = pytest.importorskip("wandb")

    def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("the tracker is broken")

    monkeypatch.setattr(wandb, "init", broken)
    status, runner = train(tmp_path, *SERIAL, *SHORT, "--with_wandb=True", "--log_to_file=False")
    assert status == ExperimentStatus.SUCCESS and runner.env_steps[0] > 300
    assert checkpoints(tmp_path) and not (experiment(tmp_path) / "sf_log.txt").exists()


# --- fast evaluation ---


def test_fast_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--sample_env_episodes, --csv_folder_name"""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    train(tmp_path, *SERIAL, *SHORT)
    flags = ("--encoder_mlp_layers", "16", "--use_rnn=False", "--device=cpu", "--rollout=8", "--batch_size=64")
    sizes = ("--num_workers=1", "--num_envs_per_worker=2", *SERIAL, "--use_env_info_cache=True")
    options = ("--sample_env_episodes=6", "--csv_folder_name=numbers")
    status = do_eval(parse(tmp_path, *flags, *sizes, *options, evaluation=True))
    assert status == ExperimentStatus.SUCCESS
    with open(experiment(tmp_path) / "numbers" / "eval_p0.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    assert all(float(row["reward"]) == float(row["len"]) > 0 for row in rows), "CartPole pays 1 per step"
