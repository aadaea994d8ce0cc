"""How runs end: signals, deaths and exceptions. Each run is the real command line in a session of its own."""

from __future__ import annotations

import os
import signal
import subprocess

import psutil
import pytest

from tests.integration.harness import (
    SERIAL,
    SYNC,
    TINY,
    assert_nothing_left,
    checkpoints,
    cli,
    experiment,
    kill_all_started,
    processes_of_session,
    read_until,
    result_of,
)

pytestmark = pytest.mark.multiproc

ENDLESS = (*TINY, "--train_for_env_steps=1000000000", "--train_for_seconds=1000", "--ui=plain")
FAULT_ENV = ("--env=fault_env", "--env_module=tests.integration.fault_env")
TRAINING = "Heartbeat connected on RolloutWorker_w1"


@pytest.fixture(autouse=True)
def no_run_left_behind():
    yield
    kill_all_started()


def start(tmp_path, *args, env=("--env=CartPole-v1",), sigint=signal.SIG_DFL, **variables) -> subprocess.Popen:
    os.environ.update(variables)
    try:
        return cli(*env, f"--train_dir={tmp_path}", "--experiment=test", *ENDLESS, *args, sigint=sigint)
    finally:
        for name in variables:
            del os.environ[name]


def finish(process: subprocess.Popen) -> tuple[int, str]:
    """Exit code and remaining output; nothing may be left of the run."""
    output, _ = process.communicate(timeout=50)
    assert_nothing_left(process.pid)
    return process.returncode, output


def wait_for_iterations(process: subprocess.Popen) -> list[str]:
    """Until the learner has trained: the runner reports more than zero frames."""
    lines = read_until(process, "Fps is")
    while "Total num frames: 0." in lines[-1]:
        lines += read_until(process, "Fps is")
    return lines


def worker_pid(process: subprocess.Popen, lines: list[str], marker: str) -> int:
    """Pid of the component whose log line contains ``marker`` (every log line carries its pid)."""
    line = next(line for line in lines if marker in line)
    return int(line.split("][")[1].split("]")[0])


@pytest.mark.parametrize(("sig", "exit_code"), [(signal.SIGINT, 2), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("to_group", [False, True])
@pytest.mark.parametrize("mode", [(), SYNC, SERIAL])
def test_signal_saves_and_stops(tmp_path, sig, exit_code, to_group, mode):
    process = start(tmp_path, *mode)
    wait_for_iterations(process)
    if to_group:
        os.killpg(process.pid, sig)
    else:
        process.send_signal(sig)
    returncode, output = finish(process)
    assert returncode == exit_code, output
    result = result_of(tmp_path)
    assert result["exit_code"] == exit_code and result["cause"] == sig.name
    saved_env_steps = int(checkpoints(tmp_path)[-1].stem.split("_")[-1])
    assert saved_env_steps >= result["env_steps"]["0"] > 0


def test_second_ctrl_c_does_not_wait_for_anybody(tmp_path):
    process = start(tmp_path)
    wait_for_iterations(process)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    returncode, _ = finish(process)
    assert returncode == 2


def test_run_started_in_the_background_of_a_script_ends_by_sigterm(tmp_path):
    """Such runs inherit "ignore SIGINT" and keep it."""
    process = start(tmp_path, sigint=signal.SIG_IGN)
    wait_for_iterations(process)
    process.send_signal(signal.SIGINT)
    read_until(process, "Fps is")
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == 143


def test_signal_during_start_leaves_nothing(tmp_path):
    process = start(tmp_path)
    read_until(process, "Starting experiment with the following configuration")
    process.send_signal(signal.SIGINT)
    returncode, _ = finish(process)
    assert returncode == 2


def test_q39_workers_die_with_a_killed_main_process(tmp_path):
    process = start(tmp_path)
    wait_for_iterations(process)
    workers = [p for p in processes_of_session(process.pid) if p.pid != process.pid]
    assert len(workers) >= 4
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(workers, timeout=5)
    assert not alive


def test_second_run_on_the_same_folder_is_refused(tmp_path):
    first = start(tmp_path)
    wait_for_iterations(first)
    second = start(tmp_path, "--restart_behavior=overwrite")
    returncode, output = finish(second)
    assert returncode == 1
    assert f'"pid": {first.pid}' in output
    assert first.poll() is None
    first.send_signal(signal.SIGINT)
    assert finish(first)[0] == 2


def test_unknown_environment_exits_2_before_anything_is_created(tmp_path):
    process = start(tmp_path, env=("--env=CartPole-v17",))
    returncode, output = finish(process)
    assert returncode == 2
    assert "CartPole-v1" in output
    assert not experiment(tmp_path).exists()


def test_all_bad_flags_at_once_exit_2(tmp_path):
    process = start(tmp_path, "--num_workers=0", "--batch_size=63", "--gamma=7", "--keep_checkpoints=0")
    returncode, output = finish(process)
    assert returncode == 2
    for flag in ("--num_workers", "--batch_size", "--gamma", "--keep_checkpoints"):
        assert flag in output
    assert not experiment(tmp_path).exists()


def test_training_survives_a_closed_terminal(tmp_path):
    """Output to a pipe nobody reads any more (``| head``)."""
    process = start(tmp_path, "--train_for_env_steps=20000")
    read_until(process, TRAINING)
    process.stdout.close()
    assert process.wait(timeout=50) == 0
    assert_nothing_left(process.pid)
    assert result_of(tmp_path)["exit_code"] == 0
