"""Minutes of bad luck: runs that are killed again and again lose at most what was not saved yet. Run by `make soak`."""

from __future__ import annotations

import random

import psutil
import pytest

from sample_factory.algo.learning.checkpoints import read_checkpoint
from tests.integration.harness import (
    TINY,
    assert_nothing_left,
    checkpoints,
    cli,
    kill_all_started,
    processes_of_session,
    read_until,
)

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]

NUM_ROUNDS = 15


@pytest.fixture(autouse=True)
def no_run_left_behind():
    yield
    kill_all_started()


def newest_env_steps(tmp_path) -> int:
    """Progress in the newest checkpoint, which has to be readable."""
    found = checkpoints(tmp_path)
    return int(read_checkpoint(str(found[-1]), "cpu")["env_steps"]) if found else 0


def fork_server(session: int) -> psutil.Process:
    """The parent of all workers; they die with it, the learner among them."""
    servers = [p for p in processes_of_session(session) if "forkserver" in " ".join(p.cmdline()) and p.children()]
    return servers[0]


@pytest.mark.parametrize("victim", ["main", "everybody else"])
def test_progress_survives_kills_at_random_times(tmp_path, victim):
    rng = random.Random(1)
    flags = (*TINY, "--train_for_env_steps=1000000000", "--train_for_seconds=1000", "--save_every_sec=1", "--ui=plain")
    progress = 0
    for _ in range(NUM_ROUNDS):
        process = cli("--env=CartPole-v1", f"--train_dir={tmp_path}", "--experiment=test", *flags)
        for _ in range(rng.randint(1, 3)):  # reports are five seconds apart
            read_until(process, "Fps is")
        if victim == "main":
            process.kill()
        else:
            fork_server(process.pid).kill()
        process.communicate(timeout=90)
        assert_nothing_left(process.pid)
        saved = newest_env_steps(tmp_path)
        assert saved >= progress > -1
        progress = saved
    assert progress > 0
    assert not [p for p in psutil.Process().children(recursive=True) if "train_gym_env" in " ".join(p.cmdline())]
