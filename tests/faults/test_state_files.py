"""Rows C5 and C6 for everything that is not a checkpoint: the log, TensorBoard, files of a population; and for saving
in the background.

The fault layer makes writing below a folder fail, whoever does it.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sample_factory.algo.learning.batcher import Batcher
from sample_factory.algo.learning.checkpoints import CheckpointError, CheckpointStore, read_checkpoint
from sample_factory.algo.learning.learner_worker import LearnerWorker
from sample_factory.algo.runners import resilient_writer
from sample_factory.algo.runners.resilient_writer import open_summary_writer
from sample_factory.algo.utils.poll_loop import PollingEventLoop
from sample_factory.algo.utils.shared_buffers import BufferMgr
from sample_factory.pbt import store as pbt_store
from sample_factory.pbt.store import JsonFiles, hyperparams_in_checkpoint, read_json
from sample_factory.utils import logging as sf_logging
from sample_factory.utils.attr_dict import AttrDict
from sample_factory.utils.logging import close_file_logger, init_file_logger, log
from tests.unit.learning.learner_setup import checkpoint_folder, make_batch, make_cfg, make_env_info, make_learner


class BrokenDisk:
    """While ``error`` is set, no file below ``root`` can be opened for writing."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.error = str(root), 0
        real_open = builtins.open

        def open_or_fail(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            is_write = not isinstance(file, int) and set(mode) & set("wax+")
            if self.error and is_write and os.fsdecode(file).startswith(self.root):
                raise OSError(self.error, os.strerror(self.error), file)
            return real_open(file, mode, *args, **kwargs)

        monkeypatch.setattr(builtins, "open", open_or_fail)
        monkeypatch.setattr(io, "open", open_or_fail)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BrokenDisk:
    return BrokenDisk(tmp_path, monkeypatch)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The time that decides when something is tried again."""
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    yield now


ERRORS = pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.ESTALE, errno.EIO])


# --- the log ---


@pytest.fixture
def log_file(tmp_path: Path) -> Iterator[Path]:
    init_file_logger(AttrDict(train_dir=str(tmp_path), experiment="e"))
    yield tmp_path / "e" / "sf_log.txt"
    close_file_logger()


@ERRORS
def test_C5_log_goes_on_when_the_disk_does(disk: BrokenDisk, log_file: Path, clock: list[float], capsys, error) -> None:
    disk.error = error
    for i in range(20):
        log.info("lost %d", i)
    assert capsys.readouterr().err.count("cannot be written at the moment") == 1
    disk.error = 0
    log.info("too early")
    clock[0] += sf_logging.ExperimentFileHandler.RETRY_SEC
    log.info("back")
    lines = log_file.read_text().splitlines()
    assert lines[0].endswith("back") and lines[1].endswith("22 lines are missing in it"), "the warning is one of them"
    assert "Traceback" not in capsys.readouterr().err


def test_C5_log_line_that_was_not_flushed(log_file: Path, clock: list[float], capsys) -> None:
    """A real full device: the error comes when the buffer is flushed."""
    log.info("first")
    handler = next(h for h in log.handlers if isinstance(h, sf_logging.ExperimentFileHandler))
    real, handler.stream = handler.stream, open("/dev/full", "a")  # noqa: SIM115 - the handler closes it
    handler.dev, handler.ino = (os.stat(log_file).st_dev, os.stat(log_file).st_ino)
    log.info("lost")
    assert "cannot be written at the moment" in capsys.readouterr().err
    clock[0] += sf_logging.ExperimentFileHandler.RETRY_SEC
    log.info("back")
    real.close()
    assert [line.split("] ")[-1] for line in log_file.read_text().splitlines()][:2] == ["first", "back"]


def test_C6_log_of_a_vanished_folder(log_file: Path, clock: list[float], capsys) -> None:
    log.info("first")
    shutil.rmtree(log_file.parent)
    log.info("lost")
    assert "cannot be written at the moment" in capsys.readouterr().err
    log_file.parent.mkdir()
    clock[0] += sf_logging.ExperimentFileHandler.RETRY_SEC
    log.info("back")
    assert "back" in log_file.read_text()


# --- TensorBoard ---


def event_tags(folder: Path) -> set[str]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tags: set[str] = set()
    for path in folder.glob("events.*"):
        accumulator = EventAccumulator(str(path))
        accumulator.Reload()
        tags |= set(accumulator.Tags()["scalars"])
    return tags


@ERRORS
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # that of TensorBoard's writer
def test_C5_summaries_go_on_when_the_disk_does(
    tmp_path: Path, disk: BrokenDisk, clock: list[float], caplog: pytest.LogCaptureFixture, error: int
) -> None:
    writer = open_summary_writer(str(tmp_path / "0"), flush_secs=30)
    writer.add_scalar("before", 1.0, 1)
    writer.flush()
    disk.error = error
    for step in range(50):
        writer.add_scalar("lost", 1.0, step)
        writer.flush()
        clock[0] += 1
    assert caplog.text.count("cannot be written at the moment") == 1
    disk.error = 0
    clock[0] += resilient_writer.RETRY_SEC
    writer.add_scalar("after", 1.0, 60)
    writer.close()
    assert {"before", "after"} <= event_tags(tmp_path / "0")
    assert "can be written again" in caplog.text
    assert not list((tmp_path / "0").glob(".probe*"))


def test_C6_writer_opened_on_a_broken_disk(tmp_path: Path, disk: BrokenDisk, clock: list[float]) -> None:
    disk.error = errno.EROFS
    writer = open_summary_writer(str(tmp_path / "0"), flush_secs=30)
    writer.add_scalar("lost", 1.0, 1)
    writer.flush()
    writer.close()
    assert "lost" not in event_tags(tmp_path / "0")


# --- files of a population ---


@ERRORS
def test_C5_population_files_are_written_later(
    tmp_path: Path, disk: BrokenDisk, clock: list[float], caplog: pytest.LogCaptureFixture, error: int
) -> None:
    files, path = JsonFiles(), str(tmp_path / "policy_00_cfg.json")
    files.write(path, {"gamma": 0.5})
    disk.error = error
    files.write(path, {"gamma": 0.6})
    files.write(path, {"gamma": 0.7})
    assert read_json(path) == {"gamma": 0.5}
    assert sum(record.levelname == "WARNING" for record in caplog.records) == 1
    disk.error = 0
    files.retry()
    assert read_json(path) == {"gamma": 0.5}, "not before its time"
    clock[0] += pbt_store.RETRY_SEC
    files.retry()
    assert read_json(path) == {"gamma": 0.7}
    assert os.listdir(tmp_path) == ["policy_00_cfg.json"]


def test_C7_lost_hyperparameters_of_a_population_are_in_the_checkpoint(tmp_path: Path) -> None:
    learner = make_learner(make_cfg(tmp_path))
    assert hyperparams_in_checkpoint(learner.cfg, 0) is None
    learner.set_new_cfg({"gamma": 0.5})
    learner.train(make_batch(learner))
    learner.save()
    assert hyperparams_in_checkpoint(learner.cfg, 0) == {"gamma": 0.5}


# --- saving in the background ---


class Listener:
    """What the learner worker tells others."""

    def __init__(self, worker: LearnerWorker, monkeypatch: pytest.MonkeyPatch) -> None:
        self.num_saved = 0
        self.ended = threading.Event()
        monkeypatch.setattr(worker, "emit", self.emit)

    def emit(self, signal: str, *args: Any) -> None:
        self.num_saved += signal == "saved_model"
        if signal == "save_ended":
            self.ended.set()


@pytest.fixture
def worker(tmp_path: Path) -> LearnerWorker:
    cfg = make_cfg(tmp_path, "--serial_mode=False")
    env_info, loop = make_env_info(), PollingEventLoop("learner_loop")
    buffers = BufferMgr(cfg, env_info)
    worker = LearnerWorker(loop, cfg, env_info, buffers, Batcher(loop, 0, buffers, cfg, env_info), 0)
    worker.learner.init()
    worker._is_learner_ready = True
    return worker


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Nothing is written before the event is set."""
    go_on, write = threading.Event(), CheckpointStore._write

    def wait_and_write(self: CheckpointStore, *args: Any) -> str:
        assert go_on.wait(60)
        return write(self, *args)

    monkeypatch.setattr(CheckpointStore, "_write", wait_and_write)
    return go_on


def test_learner_does_not_wait_for_the_disk(
    tmp_path: Path, worker: LearnerWorker, slow_disk: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint holds the state of the moment it was asked for; requests meanwhile are answered afterwards."""
    listener, learner = Listener(worker, monkeypatch), worker.learner
    learner.train(make_batch(learner))
    expected = {name: value.clone() for name, value in learner.actor_critic.state_dict().items()}
    worker.save()
    learner.train(make_batch(learner, 1))
    worker.save()
    worker.save_milestone()
    worker.save_best(0, "reward", 5.0)
    assert learner.is_saving and listener.num_saved == 0 and learner.best_performance == -1e9
    assert not list(checkpoint_folder(tmp_path).glob("*.pth"))

    slow_disk.set()
    while learner.is_saving or worker._waiting_saves or listener.ended.is_set():
        assert listener.ended.wait(60)
        listener.ended.clear()
        learner.wait_for_saves()
        worker._on_save_ended()
    first = read_checkpoint(str(checkpoint_folder(tmp_path) / "checkpoint_000000001_32.pth"), "cpu")
    for name, value in expected.items():
        assert torch.equal(first["model"][name], value), name
    assert (checkpoint_folder(tmp_path) / "checkpoint_000000002_64.pth").exists()
    assert (checkpoint_folder(tmp_path) / "milestones" / "checkpoint_000000002_64.pth").exists()
    assert listener.num_saved == 2
    worker.save()
    assert listener.num_saved == 3, "this state is saved already: the answer comes at once"


def test_end_of_a_run_waits_for_the_save_in_flight(
    tmp_path: Path, worker: LearnerWorker, slow_disk: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = Listener(worker, monkeypatch)
    worker.learner.train(make_batch(worker.learner))
    worker.save()
    worker.learner.train(make_batch(worker.learner))
    threading.Timer(0.2, slow_disk.set).start()
    worker.on_stop()
    found = sorted(path.name for path in checkpoint_folder(tmp_path).glob("*.pth"))
    assert found == ["checkpoint_000000001_32.pth", "checkpoint_000000002_64.pth"]
    assert listener.num_saved == 1, "nobody is left to hear of the first one"


@ERRORS
def test_C6_end_of_a_run_on_a_broken_disk_is_an_error(
    tmp_path: Path, disk: BrokenDisk, worker: LearnerWorker, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("time.sleep", lambda sec: now.__setitem__(0, now[0] + sec))
    worker.learner.train(make_batch(worker.learner))
    disk.error = error
    with pytest.raises(CheckpointError, match="older checkpoint"):
        worker.on_stop()
    assert 5 < now[0] < 30, "it was tried for a while"
    worker.on_crash()
    disk.error = 0
    worker.on_stop()
    assert worker.is_stopped and (checkpoint_folder(tmp_path) / "checkpoint_000000001_32.pth").exists()


def test_C5_failed_save_is_tried_again_soon(
    tmp_path: Path, disk: BrokenDisk, worker: LearnerWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener, learner = Listener(worker, monkeypatch), worker.learner
    learner.train(make_batch(learner))
    disk.error = errno.ENOSPC
    for _ in range(3):
        worker.save()
        learner.wait_for_saves()
        worker._on_save_ended()
    timer = worker._save_retry_timer
    assert timer is not None and learner.is_save_failing and listener.num_saved == 0
    disk.error = 0
    worker.save()  # what the timer does
    learner.wait_for_saves()
    worker._on_save_ended()
    assert worker._save_retry_timer is None and not learner.is_save_failing and listener.num_saved == 1
    assert (checkpoint_folder(tmp_path) / "checkpoint_000000001_32.pth").exists()
