"""What a run needs is counted beforehand, and what is missing is named with the flag to change."""

from __future__ import annotations

import os
import resource
from types import SimpleNamespace

import pytest
import torch
from gymnasium import spaces

from sample_factory.algo.runners import resources
from sample_factory.algo.runners.resources import (
    ResourceError,
    ResourceNeeds,
    check_resources,
    check_room_for_weights,
    check_shared_memory,
    raise_soft_limits,
    require_open_files,
    require_processes,
)
from sample_factory.algo.utils.shared_buffers import BufferMgr
from tests.unit.flags.sampling_setup import env_info_of, sampling_cfg

GIB = 2**30


def shared_bytes_of(buffer_mgr: BufferMgr) -> int:
    """What the trajectory tensors of this run really take."""
    pending, total = list(buffer_mgr.traj_tensors_torch.values()), 0
    seen: set[int] = set()
    while pending:
        for tensor in pending.pop().values():
            if isinstance(tensor, dict):
                pending.append(tensor)
            elif (storage := tensor.untyped_storage()).data_ptr() not in seen:
                seen.add(storage.data_ptr())
                total += storage.nbytes()
    return total


SHAPES = [
    ("--num_workers=8", "--num_envs_per_worker=16", "--rollout=32"),
    ("--num_workers=4", "--num_envs_per_worker=64", "--rollout=16", "--use_rnn=True", "--rnn_size=256"),
    ("--async_rl=False", "--num_workers=2", "--num_envs_per_worker=32", "--rollout=16", "--batch_size=2048"),
]


@pytest.mark.parametrize("flags", SHAPES, ids=["async", "rnn", "sync"])
def test_needed_memory_is_what_is_allocated(flags):
    cfg = sampling_cfg("--serial_mode=False", *flags)
    env_info = env_info_of(cfg)
    queues = (1 + cfg.num_policies + cfg.num_workers + 1) * resources._QUEUE_BYTES
    counted = ResourceNeeds.of(cfg, env_info).shared_bytes - queues
    allocated = shared_bytes_of(BufferMgr(cfg, env_info))
    assert 0.8 * allocated <= counted <= 1.2 * allocated + 200_000


def test_serial_runs_share_nothing():
    cfg = sampling_cfg("--serial_mode=True", "--num_workers=8")
    assert ResourceNeeds.of(cfg, env_info_of(cfg)).shared_bytes == 0


def limits(monkeypatch, kind, soft, hard):
    """Pretend limits; returns those that are set."""
    new = []
    real = resource.getrlimit
    monkeypatch.setattr(resource, "getrlimit", lambda which: (soft, hard) if which == kind else real(which))
    monkeypatch.setattr(resource, "setrlimit", lambda which, value: new.append((which, value)))
    return new


@pytest.fixture
def cfg():
    return sampling_cfg("--serial_mode=False", "--num_workers=30")


def test_R1_missing_shared_memory_names_the_flags(cfg, monkeypatch):
    stats = SimpleNamespace(f_bavail=64 * 2**20 // 4096, f_frsize=4096)
    monkeypatch.setattr(os, "statvfs", lambda _: stats)
    cfg.num_envs_per_worker = 10_000
    with pytest.raises(ResourceError, match=r"64\.0 MiB free in /dev/shm.*--num_workers=30.*--shm-size=1g"):
        check_resources(cfg, env_info_of(cfg))
    with pytest.raises(ResourceError, match="--num_policies=1"):
        check_room_for_weights(cfg, torch.nn.Linear(4000, 4000))
    check_room_for_weights(cfg, torch.nn.Linear(400, 400))
    check_shared_memory(64 * 2**20, "")
    with pytest.raises(ResourceError):
        check_shared_memory(64 * 2**20 + 1, "")


def test_R1_systems_without_such_a_folder(tmp_path):
    check_shared_memory(100 * GIB, "", str(tmp_path / "absent"))


def test_R2_soft_limit_of_files_is_raised(cfg, monkeypatch):
    new = limits(monkeypatch, resource.RLIMIT_NOFILE, 256, 4096)
    require_open_files(256, cfg)
    assert new == []
    require_open_files(300, cfg)
    assert new == [(resource.RLIMIT_NOFILE, (600, 4096))]
    require_open_files(4096, cfg)
    assert new[1:] == [(resource.RLIMIT_NOFILE, (4096, 4096))]
    with pytest.raises(ResourceError, match=r"4097 needed, the hard limit is 4096.*--num_workers=30"):
        require_open_files(4097, cfg)


@pytest.mark.parametrize(
    ("kind", "before", "after"),
    [
        (resource.RLIMIT_NOFILE, (256, 100_000), 4096),
        (resource.RLIMIT_NOFILE, (256, 1000), 1000),
        (resource.RLIMIT_NOFILE, (256, resource.RLIM_INFINITY), 4096),
        (resource.RLIMIT_NOFILE, (5000, 100_000), None),
        (resource.RLIMIT_NPROC, (256, 1000), 1000),
        (resource.RLIMIT_NPROC, (1000, 1000), None),
    ],
)
def test_R2_soft_limits_are_raised_before_processes_inherit_them(monkeypatch, kind, before, after):
    other = {resource.RLIMIT_NOFILE: resource.RLIMIT_NPROC, resource.RLIMIT_NPROC: resource.RLIMIT_NOFILE}[kind]
    new = []
    endless = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    monkeypatch.setattr(resource, "getrlimit", lambda which: endless if which == other else before)
    monkeypatch.setattr(resource, "setrlimit", lambda which, value: new.append((which, value)))
    raise_soft_limits()
    assert new == ([] if after is None else [(kind, (after, before[1]))])


def test_R2_unlimited_hard_limit(cfg, monkeypatch):
    new = limits(monkeypatch, resource.RLIMIT_NOFILE, 256, resource.RLIM_INFINITY)
    require_open_files(1000, cfg)
    assert new == [(resource.RLIMIT_NOFILE, (2000, resource.RLIM_INFINITY))]


def test_R2_process_limit_counts_what_the_user_runs_already(cfg, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(resources, "_threads_of_this_user", lambda: 500)
    monkeypatch.setattr(resources, "_tasks_left_in_cgroup", lambda: None)
    new = limits(monkeypatch, resource.RLIMIT_NPROC, 512, 1000)
    require_processes(3, cfg)
    assert new == []
    require_processes(4, cfg)
    assert new == [(resource.RLIMIT_NPROC, (1000, 1000))]
    with pytest.raises(ResourceError, match=r"Too few processes.*hard limit is 1000.*--num_workers=30"):
        require_processes(200, cfg)


def test_R2_limit_of_a_container(cfg, monkeypatch, tmp_path):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(resources, "_tasks_left_in_cgroup", lambda: 100)
    require_processes(25, cfg)
    with pytest.raises(ResourceError, match=r"pids.max\) allows 100 more.*--num_workers=30"):
        require_processes(26, cfg)


@pytest.mark.parametrize(("maximum", "left"), [("100", 93), ("max", None), (None, None)])
def test_R2_tasks_left(tmp_path, monkeypatch, maximum, left):
    class FakePath(type(tmp_path)):
        def read_text(self):
            return "0::/\n" if str(self) == "/proc/self/cgroup" else super().read_text()

    monkeypatch.setattr(resources, "Path", FakePath)
    if maximum is not None:
        (tmp_path / "pids.max").write_text(f"{maximum}\n")
        (tmp_path / "pids.current").write_text("7\n")
    assert resources._tasks_left_in_cgroup(str(tmp_path)) == left


def test_R2_own_threads_are_counted():
    assert resources._threads_of_this_user() >= 1


def test_needs_grow_with_the_run():
    env_info = env_info_of(sampling_cfg())
    small = ResourceNeeds.of(sampling_cfg("--serial_mode=False", "--num_workers=2"), env_info)
    large = ResourceNeeds.of(sampling_cfg("--serial_mode=False", "--num_workers=20"), env_info)
    assert large.shared_bytes > small.shared_bytes and large.files > small.files
    assert large.processes == small.processes + 18


def test_images_are_counted():
    cfg = sampling_cfg("--serial_mode=False", "--num_workers=2", "--num_envs_per_worker=2", "--rollout=31")
    env_info = env_info_of(cfg)
    env_info.obs_space = spaces.Dict(obs=spaces.Box(0, 255, (4, 84, 84), "uint8"))
    rows = 2 * 2 * 2  # workers, environments, blocks
    assert ResourceNeeds.of(cfg, env_info).shared_bytes >= rows * 32 * 4 * 84 * 84
