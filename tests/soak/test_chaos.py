"""Ten minutes of bad luck: every few seconds a random process of a run is killed or stopped, or a temporary file cut.

Whatever ends is started again with the same command line, as a scheduler would.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time

import pytest
import torch

from sample_factory.algo.learning.checkpoints import read_checkpoint
from tests.faults.fault_run import FaultRun

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1500)]

CHAOS_SEC = float(os.environ.get("CHAOS_SEC", "600"))
FLAGS = (
    "--env=fault_cartpole",
    "--num_envs_per_worker=8",
    "--rollout=128",
    "--batch_size=512",
    "--num_batches_per_epoch=4",
    "--num_epochs=6",
    "--learning_rate=0.001",
    "--exploration_loss_coeff=0.0",
    "--ppo_clip_ratio=0.2",
    "--max_grad_norm=0.5",
    "--encoder_mlp_layers",
    "64",
    "64",
    "--nonlinearity=tanh",
    "--value_bootstrap=True",
    "--save_every_sec=5",
    "--env_timeout=3",
    "--fault_timeout=10",
    "--max_worker_restarts=1000",
)


def newest_env_steps(run: FaultRun) -> int:
    """Progress in the newest checkpoint, which has to be readable, or 0."""
    found = run.checkpoints()
    return int(read_checkpoint(str(found[-1]), torch.device("cpu"))["env_steps"]) if found else 0


def cut_a_temporary_file(run: FaultRun, rng: random.Random) -> str:
    """Of a writer at work; if there is none, leave half a file as a killed writer would."""
    hidden = [path for path in run.experiment.rglob(".*") if path.is_file() and path.name.endswith(".tmp")]
    if hidden:
        path = rng.choice(hidden)
        with contextlib.suppress(FileNotFoundError):  # it has its name by now
            os.truncate(path, path.stat().st_size // 2)
        return f"cut {path.name}"
    whole = run.checkpoints()
    if not whole:
        return "no file to cut"
    data = whole[-1].read_bytes()
    half = whole[-1].with_name(f".{whole[-1].name}.{rng.randrange(10**6)}.tmp")
    half.write_bytes(data[: len(data) // 2])
    return f"left {half.name}"


def make_trouble(run: FaultRun, rng: random.Random) -> str:
    """One misfortune; returns what it was."""
    kind = rng.choice(["kill", "kill", "stop", "cut"])
    if kind == "cut":
        return cut_a_temporary_file(run, rng)
    victims = [p for p in run.workers() if "resource_tracker" not in " ".join(p.cmdline())]
    if not victims:
        return "nobody to kill"
    victim = rng.choice(victims)
    (victim.kill if kind == "kill" else victim.suspend)()
    return f"{kind} {victim.pid}"


def test_X1_random_chaos(tmp_path) -> None:
    rng = random.Random(os.environ.get("CHAOS_SEED", "1"))
    deadline = time.monotonic() + CHAOS_SEC
    progress, history, num_starts = 0, [], 0
    while time.monotonic() < deadline:
        run = FaultRun(tmp_path, *FLAGS)
        num_starts += 1
        run.files_before = set()
        try:
            while run.process.poll() is None and time.monotonic() < deadline:
                run.wait_for_a_moment(rng.uniform(5, 20))
                if run.process.poll() is None:
                    history.append(make_trouble(run, rng))
            if run.process.poll() is None:
                run.send(signal.SIGTERM)
            code = run.finish(60)  # asserts that no process is left
            assert code in (1, 143), (history, run.tail())
            assert run.result()["exit_code"] == code and run.result()["cause"], history
            assert run.shared_memory() == []
            saved = newest_env_steps(run)
            assert saved >= progress, (history, saved, progress)
            progress = saved
        finally:
            run.kill_everything()
    final = FaultRun(tmp_path, *FLAGS)
    try:
        final.wait_for(r"Avg episode reward: \[\(0, '[0-9]", timeout_sec=120)
        final.wait_for_a_moment(20)
        final.send(signal.SIGTERM)
        assert final.finish(60) == 143
        reward = final.result()["reward"]["0"]
    finally:
        final.kill_everything()
    assert progress > 0
    print(f"{num_starts} starts, {len(history)} misfortunes, {progress} frames, reward {reward}")
    assert reward >= 0.9 * 500, (history, reward)
