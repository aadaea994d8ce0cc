"""Checkpoint files survive crashes, damage and malice."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sample_factory.algo.learning import checkpoints as ckpt
from sample_factory.algo.learning.checkpoints import CheckpointError, CheckpointStore, CorruptCheckpointError
from sample_factory.utils.checkpoint_files import progress_of


def make_checkpoint(train_step: int, env_steps: int | None = None, **extra: Any) -> dict[str, Any]:
    return {
        "train_step": train_step,
        "env_steps": train_step * 100 if env_steps is None else env_steps,
        "best_performance": -1e9,
        "model": {"w": torch.full([3, 4], float(train_step)), "count": torch.ones(1, dtype=torch.float64)},
        "optimizer": {"state": {}, "param_groups": []},
        "curr_lr": 1e-4,
        **extra,
    }


def names(folder: Path) -> list[str]:
    """Files and folders without the side files, whose presence is looked at apart."""
    return sorted(name for name in os.listdir(folder) if not name.endswith(".sum"))


def newest(store: CheckpointStore, kind: str = "latest") -> dict[str, Any] | None:
    return ckpt.load_first(store.candidates(kind), lambda path: ckpt.read_checkpoint(path, "cpu"), store.set_aside)


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(str(tmp_path), keep=2)


# --- names and order ---


def test_file_names(store: CheckpointStore, tmp_path: Path) -> None:
    store.save_latest(make_checkpoint(470, 60160))
    store.save_best(make_checkpoint(470, 60160), "reward", 35.83)
    store.save_milestone(make_checkpoint(470, 60160))
    assert names(tmp_path) == [
        "best_000000470_60160_reward_35.830.pth",
        "checkpoint_000000470_60160.pth",
        "milestones",
    ]
    assert names(tmp_path / "milestones") == ["checkpoint_000000470_60160.pth"]


def test_rotation_keeps_newest(store: CheckpointStore, tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        store.save_latest(make_checkpoint(step))
    assert names(tmp_path) == ["checkpoint_000000003_300.pth", "checkpoint_000000004_400.pth"]


def test_more_kept_than_exist(tmp_path: Path) -> None:
    store = CheckpointStore(str(tmp_path), keep=5)
    for step in (1, 2, 3):
        store.save_latest(make_checkpoint(step))
    assert len(names(tmp_path)) == 3


def test_best_is_exactly_one(store: CheckpointStore, tmp_path: Path) -> None:
    store.save_best(make_checkpoint(5), "reward", 1.0)
    store.save_best(make_checkpoint(9), "reward", 2.0)
    assert names(tmp_path) == ["best_000000009_900_reward_2.000.pth"]


def test_C3_left_over_temporary_files_are_ignored_and_cleaned(store: CheckpointStore, tmp_path: Path) -> None:
    store.save_latest(make_checkpoint(1))
    for name in (
        "checkpoint_temp",
        "best_temp",
        ".checkpoint_000000009_900.pth.12.tmp",
        "checkpoint_x.pth",
        "best_1_2.pth",
    ):
        (tmp_path / name).write_bytes(b"half")
    assert [os.path.basename(p) for p in ckpt.list_checkpoints(str(tmp_path))] == ["checkpoint_000000001_100.pth"]
    loaded = newest(store)
    assert loaded is not None and loaded["train_step"] == 1

    store.save_latest(make_checkpoint(2))
    assert (tmp_path / "checkpoint_000000001_100.pth").exists(), "a stray file must not push out a good checkpoint"
    assert not any("temp" in name or name.endswith(".tmp") for name in names(tmp_path)), "left-overs are cleaned up"
    assert (tmp_path / "checkpoint_x.pth").exists(), "files with other names are not ours"


def test_q09_order_is_numeric(tmp_path: Path) -> None:
    store = CheckpointStore(str(tmp_path), keep=3)
    for step in (999_999_999, 1_000_000_000):
        store.save_latest(make_checkpoint(step))
    assert ckpt.list_checkpoints(str(tmp_path))[-1].endswith("checkpoint_1000000000_100000000000.pth")
    (tmp_path / "checkpoint_000000005_1000.pth").write_bytes(b"")
    (tmp_path / "checkpoint_000000005_999.pth").write_bytes(b"")
    ordered = [os.path.basename(p) for p in ckpt.list_checkpoints(str(tmp_path))]
    assert ordered[:2] == ["checkpoint_000000005_999.pth", "checkpoint_000000005_1000.pth"]


def test_q09_directory_with_a_checkpoint_name_is_left_alone(store: CheckpointStore, tmp_path: Path) -> None:
    (tmp_path / "checkpoint_000000000_0.pth").mkdir()
    for step in (1, 2, 3):
        store.save_latest(make_checkpoint(step))
    assert names(tmp_path) == [
        "checkpoint_000000000_0.pth",
        "checkpoint_000000002_200.pth",
        "checkpoint_000000003_300.pth",
    ]


@pytest.mark.parametrize("keep", [0, -3])
def test_C12_keeping_no_checkpoint_keeps_the_newest(tmp_path: Path, keep: int) -> None:
    store = CheckpointStore(str(tmp_path), keep)
    store.save_latest(make_checkpoint(1))
    store.save_latest(make_checkpoint(2))
    assert names(tmp_path) == ["checkpoint_000000002_200.pth"]


def test_q10_metric_with_slash(store: CheckpointStore, tmp_path: Path) -> None:
    store.save_best(make_checkpoint(3), "policy_stats/avg win rate", 0.5)
    assert names(tmp_path) == ["best_000000003_300_policy_stats_avg_win_rate_0.500.pth"]
    store.save_best(make_checkpoint(4), "../../evil", -0.5)
    assert names(tmp_path) == ["best_000000004_400_.._.._evil_-0.500.pth"]
    loaded = newest(store, "best")
    assert loaded is not None and loaded["train_step"] == 4


def test_patterns_as_clients_use_them(store: CheckpointStore, tmp_path: Path) -> None:
    store.save_latest(make_checkpoint(3))
    store.save_best(make_checkpoint(2), "reward", 1.0)
    assert len(ckpt.list_checkpoints(str(tmp_path), "best_*")) == 1
    assert len(ckpt.list_checkpoints(str(tmp_path), "checkpoint_*")) == 1
    assert len(ckpt.list_checkpoints(str(tmp_path), "*")) == 2
    assert ckpt.list_checkpoints(str(tmp_path / "absent")) == []


def test_C13_going_back_supersedes_later_files(store: CheckpointStore, tmp_path: Path) -> None:
    """C13: after a resume from the best (older) checkpoint, the new files count as newest and are not pruned away."""
    for step in (90, 100):
        store.save_latest(make_checkpoint(step))
    for step in (51, 52):
        store.save_latest(make_checkpoint(step))
    assert names(tmp_path) == [
        "checkpoint_000000051_5100.pth",
        "checkpoint_000000052_5200.pth",
        "checkpoint_000000090_9000.pth.superseded",
        "checkpoint_000000100_10000.pth.superseded",
    ]
    loaded = newest(store)
    assert loaded is not None and loaded["train_step"] == 52


def test_C13_newest_by_content_not_by_name(store: CheckpointStore, tmp_path: Path) -> None:
    store.save_latest(make_checkpoint(5))
    Path(store.save_latest(make_checkpoint(6))).rename(tmp_path / "checkpoint_000000002_200.pth")
    torch.save(make_checkpoint(1), tmp_path / "checkpoint_000000099_9900.pth")
    assert [ckpt.read_checkpoint(path, "cpu")["train_step"] for path in store.candidates("latest")] == [6, 5, 1]
    loaded = ckpt.read_newest(ckpt.list_checkpoints(str(tmp_path)), "cpu")
    assert loaded is not None and loaded["train_step"] == 6

    store.save_latest(make_checkpoint(7))
    assert names(tmp_path) == ["checkpoint_000000002_200.pth", "checkpoint_000000007_700.pth"]


def test_C13_equal_names_replace_each_other(store: CheckpointStore) -> None:
    store.save_latest(make_checkpoint(3, curr_lr=0.5))
    store.save_latest(make_checkpoint(3, curr_lr=0.25))
    loaded = newest(store)
    assert loaded is not None and loaded["curr_lr"] == 0.25


def test_best_performance_is_the_highest_by_the_metric_that_is_stored(store: CheckpointStore, tmp_path: Path) -> None:
    for name, value in zip(
        ("1_100_reward_2.000", "2_200_reward_5.000", "3_300_reward_3.000", "4_400_len_9.000"),
        (2.0, 5.0, 3.0, 9.0),
        strict=True,
    ):
        torch.save(make_checkpoint(1, best_performance=value), tmp_path / f"best_{name}.pth")
    assert store.best_performance("reward") == 5.0
    assert store.best_performance("len") == 9.0


def test_progress_is_that_of_the_file_which_is_there_now(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint_000000009_900.pth"
    assert progress_of(str(path)) == (9, 900)
    for step in (1, 2, 2):
        checkpoint = make_checkpoint(step, padding=torch.zeros(100 * step))
        torch.save(checkpoint, path)
        assert progress_of(str(path)) == (checkpoint["train_step"], checkpoint["env_steps"])


# --- side files ---


def test_side_file_has_size_and_hash(store: CheckpointStore, tmp_path: Path) -> None:
    path = Path(store.save_latest(make_checkpoint(1)))
    side = json.loads((tmp_path / f".{path.name}.sum").read_text())
    assert side == {"size": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def test_side_files_come_and_go_with_their_checkpoints(store: CheckpointStore, tmp_path: Path) -> None:
    for step in (1, 2, 3):
        store.save_latest(make_checkpoint(step))
    Path(store.save_best(make_checkpoint(3), "reward", 1.0)).unlink()
    store.save_latest(make_checkpoint(4))
    side_files = sorted(name for name in os.listdir(tmp_path) if name.endswith(".sum"))
    assert side_files == [".checkpoint_000000003_300.pth.sum", ".checkpoint_000000004_400.pth.sum"]
    assert not any(Path(name).match("checkpoint_*") for name in side_files), "the original must not see them"


@pytest.mark.parametrize("content", ["", "{}", "[1, 2]", '{"size": "big", "sha256": 3}', '{"size": 1, "sha256": "x"}'])
def test_side_file_alone_does_not_condemn_a_checkpoint(store: CheckpointStore, tmp_path: Path, content: str) -> None:
    """The file may have been replaced on purpose, or the side file be the damaged one."""
    path = Path(store.save_latest(make_checkpoint(1)))
    (tmp_path / f".{path.name}.sum").write_text(content)
    assert ckpt.read_checkpoint(str(path), "cpu")["train_step"] == 1
    torch.save(make_checkpoint(1, curr_lr=0.125), path)
    assert ckpt.read_checkpoint(str(path), "cpu")["curr_lr"] == 0.125


def test_no_side_file_describes_another_file_than_its_own(
    store: CheckpointStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(store.save_latest(make_checkpoint(1)))
    write = ckpt.write_atomically

    def fail_for_side_files(path: str, data: bytes) -> None:
        if path.endswith(".sum"):
            raise OSError(errno.ENOSPC, "no space")
        write(path, data)

    monkeypatch.setattr(ckpt, "write_atomically", fail_for_side_files)
    assert store.save_latest(make_checkpoint(1, curr_lr=0.125)) == str(path)
    assert os.listdir(tmp_path) == [path.name]
    assert ckpt.read_checkpoint(str(path), "cpu")["curr_lr"] == 0.125


# --- damage ---


def cut_points(size: int) -> dict[str, int]:
    return {"empty": 0, "one_byte": 1, "header": 40, "half": size // 2, "directory": size - 100, "last_byte": size - 1}


@pytest.mark.parametrize("where", list(cut_points(0)))
def test_C1_truncated_newest_falls_back_and_is_kept(store: CheckpointStore, tmp_path: Path, where: str) -> None:
    store.save_latest(make_checkpoint(1))
    path = Path(store.save_latest(make_checkpoint(2)))
    data = path.read_bytes()
    path.write_bytes(data[: cut_points(len(data))[where]])

    loaded = newest(store)
    assert loaded is not None and loaded["train_step"] == 1
    assert names(tmp_path) == ["checkpoint_000000001_100.pth", "checkpoint_000000002_200.pth.corrupt"]

    store.save_latest(make_checkpoint(3))
    assert (tmp_path / "checkpoint_000000001_100.pth").exists(), "the last good file must survive the next save"


def test_C1_flipped_bit_is_noticed(store: CheckpointStore) -> None:
    path = Path(store.save_latest(make_checkpoint(2)))
    data = bytearray(path.read_bytes())
    start = bytes(data).index(torch.full([12], 2.0).numpy().tobytes())
    data[start + 3] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptCheckpointError, match="check sum"):
        ckpt.read_checkpoint(str(path), "cpu")


def test_C1_every_cut_is_detected(store: CheckpointStore) -> None:
    path = Path(store.save_latest(make_checkpoint(2)))
    data = path.read_bytes()
    for size in range(0, len(data), 97):
        path.write_bytes(data[:size])
        with pytest.raises(CorruptCheckpointError):
            ckpt.read_checkpoint(str(path), "cpu")


def test_C1_fallback_order(store: CheckpointStore, tmp_path: Path) -> None:
    store.save_milestone(make_checkpoint(1))
    store.save_best(make_checkpoint(2), "reward", 1.0)
    store.save_latest(make_checkpoint(3))
    store.save_latest(make_checkpoint(4))
    steps = lambda kind: [ckpt.parse_checkpoint_name(p).train_step for p in store.candidates(kind)]  # type: ignore[union-attr]  # noqa: E731
    assert steps("latest") == [4, 3, 2, 1]
    assert steps("best") == [2, 4, 3, 1]
    for path in store.candidates("latest")[:-1]:
        Path(path).write_bytes(b"")
    loaded = newest(store)
    assert loaded is not None and loaded["train_step"] == 1


def test_C2_loud_failure_when_nothing_loads(store: CheckpointStore, tmp_path: Path) -> None:
    for step in (1, 2):
        Path(store.save_latest(make_checkpoint(step))).write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match=r"checkpoint_000000002_200\.pth(?s:.*)checkpoint_000000001_100\.pth"):
        newest(store)
    assert len(names(tmp_path)) == 2, "nothing is deleted"
    assert ckpt.read_newest([], "cpu") is None


def test_C6_unreadable_at_the_moment_is_not_called_corrupt(store: CheckpointStore, tmp_path: Path) -> None:
    store.save_latest(make_checkpoint(1))
    store.save_latest(make_checkpoint(2))

    def fail_on_newest(path: str) -> dict[str, Any]:
        if "000000002" in path:
            raise OSError(116, "Stale file handle")
        return ckpt.read_checkpoint(path, "cpu")

    loaded = ckpt.load_first(store.candidates("latest"), fail_on_newest, store.set_aside)
    assert loaded is not None and loaded["train_step"] == 1
    assert len(names(tmp_path)) == 2 and not any("corrupt" in name for name in names(tmp_path))


# --- crashes while saving ---


class Crash(BaseException):
    """Stands for the process being killed: no handler of ordinary exceptions may catch it."""


@pytest.mark.parametrize("point", ["open", "fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), Crash()], ids=["full", "killed"])
def test_C4_failure_at_any_point_leaves_a_good_newest(
    store: CheckpointStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str, error: BaseException
) -> None:
    store.save_latest(make_checkpoint(1))
    store.save_latest(make_checkpoint(2))
    before = names(tmp_path)

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise error

    with monkeypatch.context() as patch, pytest.raises(type(error)):
        if point == "open":
            patch.setattr("builtins.open", fail)
        else:
            patch.setattr(os, point, fail)
        store.save_latest(make_checkpoint(3))

    assert names(tmp_path) == before
    loaded = newest(store)
    assert loaded is not None and loaded["train_step"] == 2
    store.save_latest(make_checkpoint(3))
    assert names(tmp_path) == ["checkpoint_000000002_200.pth", "checkpoint_000000003_300.pth"]


def test_C5_disk_limit_in_the_middle_of_a_write(store: CheckpointStore, tmp_path: Path) -> None:
    """A real short write: the kernel refuses to let the file grow beyond 1 KB."""
    store.save_latest(make_checkpoint(1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            store.save_latest(make_checkpoint(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == ["checkpoint_000000001_100.pth"]
    store.save_latest(make_checkpoint(2))
    loaded = newest(store)
    assert loaded is not None and loaded["train_step"] == 2


def test_C4_silent_corruption_on_write_is_noticed(
    store: CheckpointStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The older file is deleted only after the newer one was read back."""
    one = CheckpointStore(str(tmp_path), keep=1)
    one.save_latest(make_checkpoint(1))
    real_fsync = os.fsync

    def corrupting_fsync(fd: int) -> None:
        os.pwrite(fd, b"\xff", 200)
        real_fsync(fd)

    monkeypatch.setattr(os, "fsync", corrupting_fsync)
    with pytest.raises(OSError, match="read back"):
        one.save_latest(make_checkpoint(2))
    assert names(tmp_path) == ["checkpoint_000000001_100.pth"]


def test_C4_process_killed_while_writing(tmp_path: Path) -> None:
    """SIGKILL between write and rename: the next process finds the older file, and cleans up."""
    CheckpointStore(str(tmp_path), keep=2).save_latest(make_checkpoint(1))
    script = (
        "import os, signal, torch\n"
        "from sample_factory.algo.learning import checkpoints as ckpt\n"
        "os.replace = lambda *args: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"store = ckpt.CheckpointStore({str(tmp_path)!r}, keep=2)\n"
        "store.save_latest({'train_step': 2, 'env_steps': 2, 'model': {'w': torch.ones(3)}})\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    assert any(name.endswith(".tmp") for name in names(tmp_path))
    store = CheckpointStore(str(tmp_path), keep=2)
    loaded = newest(store)
    assert loaded is not None and loaded["train_step"] == 1
    store.save_latest(make_checkpoint(3))
    assert names(tmp_path) == ["checkpoint_000000001_100.pth", "checkpoint_000000003_300.pth"]
