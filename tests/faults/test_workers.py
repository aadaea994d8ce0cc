"""Rows E and L: environments and components that break, hang, die or return nonsense, one at a time."""

from __future__ import annotations

import os
import re
import signal

import psutil
import pytest
import torch

from sample_factory.algo.learning.checkpoints import read_checkpoint
from tests.faults.fault_run import SERIAL, SYNC

pytestmark = pytest.mark.multiproc
thorough = pytest.mark.faults

GOAL = ("--train_for_env_steps=20000",)
SEPARATE = ("--inference_placement=separate",)
REACHED = "all policies reached"
MODES = pytest.mark.parametrize(
    "mode",
    [
        pytest.param((), id="async"),
        pytest.param(SYNC, id="sync"),
        pytest.param(SEPARATE, marks=thorough, id="separate"),
        pytest.param(("--batched_sampling=True",), marks=thorough, id="batched"),
    ],
)


def assert_weights_are_finite(run):
    for path in run.checkpoints():
        for name, tensor in read_checkpoint(str(path), torch.device("cpu"))["model"].items():
            assert tensor.isfinite().all(), name


# --- E1, E2: the environment cannot be created ---


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("init_raise", "could not be created: RuntimeError: the environment cannot be built"),
        pytest.param("init_kill", "SIGKILL", marks=thorough),
        pytest.param("init_hang", "was not created within 3 seconds", marks=thorough),
    ],
)
def test_E1_E2_environment_that_cannot_be_created_ends_the_run(start_run, fault, cause):
    run = start_run("--startup_timeout=3" if fault == "init_hang" else "--startup_timeout=60", fault=fault)
    assert run.finish(40) == 1
    assert re.search(cause, run.output), run.tail()
    if fault == "init_hang":
        assert "fault_env.py" in run.output and "in hang" in run.output  # where it was stuck
    assert run.result()["exit_code"] == 1 and re.search(cause, run.result()["cause"])


def test_E3_unknown_environment_is_refused_with_near_matches(start_run):
    run = start_run("--env=fault_cartpol")
    assert run.finish(30) == 2
    assert "fault_cartpole" in run.output


# --- E4, E5: exceptions in step and reset ---


@MODES
def test_E4_E5_environment_that_raises_now_and_then_is_built_anew(start_run, mode):
    run = start_run(*GOAL, *mode, fault="raise_p:0.002")
    assert run.finish() == 0
    run.assert_clean_end(0, REACHED)
    faults = run.result()["faults"]
    assert faults["env_failures"] > 5 and faults.get("worker_restarts", 0) == 0, faults
    assert "ZeroDivisionError: the environment broke in step" in run.output
    assert "env_failures" in [line for line in run.lines if "Faults survived" in line][-1]


def fork_server_of(run):
    [server] = [p for p in run.workers() if "multiprocessing.forkserver" in " ".join(p.cmdline()) and p.children()]
    return server


@thorough
def test_E4_serial_mode_builds_environments_anew_too(start_run):
    run = start_run(*GOAL, *SERIAL, fault="raise_p:0.002")
    assert run.finish() == 0
    assert run.result()["faults"]["env_failures"] > 5


@MODES
def test_E4_E5_worker_whose_environments_break_again_and_again_is_replaced(start_run, mode, tmp_path):
    run = start_run(
        *GOAL, *mode, "--max_env_rebuilds=0", fault="raise:50:0", variables={"FAULT_ONCE": str(tmp_path / "once")}
    )
    assert run.finish() == 0
    run.files_before |= {name for name in run.files() if name.startswith("once")}
    run.assert_clean_end(0, REACHED)
    assert run.result()["faults"] == {"env_failures": 1, "worker_restarts": 1} or run.result()["faults"] == {
        "worker_restarts": 1
    }


@thorough
@pytest.mark.parametrize("mode", [(), SERIAL, ("--batched_sampling=True",)], ids=["async", "serial", "batched"])
def test_E4_environment_that_cannot_be_closed_has_served_its_purpose(start_run, mode):
    run = start_run(*GOAL, *mode, fault="close_raise:0")
    assert run.finish() == 0
    run.assert_clean_end(0, REACHED)
    assert "ZeroDivisionError: the environment broke in close" in run.output


# --- E6: hangs ---


@MODES
def test_E6_hanging_environment_is_found_and_its_worker_replaced(start_run, mode, tmp_path):
    run = start_run(*mode, "--env_timeout=3", fault="hang:50:0", variables={"FAULT_ONCE": str(tmp_path / "once")})
    run.wait_for("rollout_proc0 was replaced")
    run.wait_for_more_frames()
    run.send(signal.SIGTERM)
    run.finish(30)
    run.files_before |= {name for name in run.files() if name.startswith("once")}
    run.assert_clean_end(143, "SIGTERM")
    assert run.result()["faults"]["worker_restarts"] == 1
    assert re.search(r"rollout_proc0 .*showed no sign of life.*--env_timeout=3", run.output)
    assert "fault_env.py" in run.output and "in hang" in run.output


@thorough
def test_E6_slow_environment_is_not_taken_for_a_hanging_one(start_run):
    """A step of all environments of a worker takes longer than the limit, a step of one does not."""
    run = start_run("--env_timeout=1", "--train_for_seconds=8", fault="slow:0.4")
    assert run.finish() == 0
    assert run.result()["faults"] == {}


@thorough
@MODES
def test_E6_stopped_worker_is_replaced(start_run, mode):
    run = start_run(*mode, "--env_timeout=3")
    run.wait_for_training()
    os.kill(run.pid_of("Worker 1 started"), signal.SIGSTOP)
    run.wait_for("rollout_proc1 was replaced")
    run.wait_for_more_frames()
    run.send(signal.SIGTERM)
    run.finish(30)
    run.assert_clean_end(143, "SIGTERM")


# --- E7, E8: deaths ---


@MODES
def test_E7_killed_worker_is_replaced_and_training_goes_on(start_run, mode, tmp_path):
    run = start_run(*GOAL, *mode, fault="kill:60:0", variables={"FAULT_ONCE": str(tmp_path / "once")})
    assert run.finish() == 0
    run.files_before |= {name for name in run.files() if name.startswith("once")}
    run.assert_clean_end(0, REACHED)
    assert run.result()["faults"] == {"worker_restarts": 1}
    run.wait_for("rollout_proc0 was killed by signal 9")


@thorough
@MODES
def test_E7_workers_are_killed_again_and_again(start_run, mode):
    """Five times each: the pause before the next one doubles."""
    run = start_run(*mode, "--max_worker_restarts=100")
    run.wait_for_training()
    for i in range(10):
        line = len(run.lines)
        os.kill(run.pid_of(f"Worker {i % 2} started", last=True), signal.SIGKILL)
        run.wait_for(f"rollout_proc{i % 2} was replaced", start=line)
        run.wait_for(f"Worker {i % 2} started", start=line)
    run.wait_for_more_frames()
    run.send(signal.SIGTERM)
    run.finish(30)
    run.assert_clean_end(143, "SIGTERM")
    assert run.result()["faults"] == {"worker_restarts": 10}


@MODES
def test_E8_run_ends_when_workers_keep_dying(start_run, mode):
    run = start_run(*mode, "--max_worker_restarts=2", "--max_env_rebuilds=1", fault="raise:1")
    assert run.finish(60) == 1
    run.assert_clean_end(
        1,
        r"process rollout_proc\d exited with 1: ZeroDivisionError: .*; it was replaced 2 times .*--max_worker_restarts",
    )
    assert "ZeroDivisionError: the environment broke in step" in run.tail()


# --- E9, E10: nonsense ---

BAD_OBS = ["nan_obs", "inf_obs", "wrong_shape", "wrong_dtype", "missing_key"]


@pytest.mark.parametrize("kind", [BAD_OBS[0], *(pytest.param(k, marks=thorough) for k in BAD_OBS[1:])])
def test_E9_bad_observation_ends_the_run_with_a_message(start_run, kind):
    run = start_run(fault=f"{kind}:30:0")
    assert run.finish(60) == 1
    key = "extra" if kind == "missing_key" else "obs"
    run.assert_clean_end(1, rf"Environment \d+ \(fault_env\) of rollout worker 0: observation '{key}'")
    assert_weights_are_finite(run)


@pytest.mark.parametrize("kind", ["nan_reward", pytest.param("inf_reward", marks=thorough)])
def test_E10_bad_reward_ends_the_run_with_a_message(start_run, kind):
    run = start_run(fault=f"{kind}:30:0")
    assert run.finish(60) == 1
    run.assert_clean_end(1, r"Environment \d+ \(fault_env\) of rollout worker 0: reward: (nan|inf)")
    assert_weights_are_finite(run)


@thorough
@pytest.mark.parametrize("policy", ["reset", "zero"])
@pytest.mark.parametrize("mode", [(), SERIAL, ("--batched_sampling=True",)], ids=["async", "serial", "batched"])
@pytest.mark.parametrize("kind", ["nan_obs", "nan_reward"])
def test_E9_E10_training_goes_on_with_a_policy_for_bad_values(start_run, kind, mode, policy):
    run = start_run(*GOAL, *mode, f"--bad_obs={policy}", fault=f"{kind}:100:0")
    assert run.finish() == 0
    run.assert_clean_end(0, REACHED)
    assert run.result()["faults"]["bad_observations"] > 0
    assert_weights_are_finite(run)


# --- L: the other components ---


@pytest.mark.parametrize("mode", [(), pytest.param(SYNC, marks=thorough)], ids=["async", "sync"])
def test_L1_killed_learner_ends_the_run(start_run, mode):
    run = start_run(*mode, "--save_every_sec=1")
    run.wait_until(run.checkpoints, "a checkpoint")
    os.kill(run.pid_of("LearnerWorker_p0 started"), signal.SIGKILL)
    assert run.finish(20) == 1
    run.assert_clean_end(1, "learner_proc0 was killed by signal 9")
    assert run.checkpoints()


@thorough
def test_L1_stopped_learner_ends_the_run(start_run):
    run = start_run("--fault_timeout=5")
    run.wait_for_training()
    os.kill(run.pid_of("LearnerWorker_p0 started"), signal.SIGSTOP)
    assert run.finish(40) == 1
    run.assert_clean_end(1, "learner_proc0 showed no sign of life")


@pytest.mark.parametrize("mode", [(), pytest.param(SYNC, marks=thorough)], ids=["async", "sync"])
@pytest.mark.parametrize("sig", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=thorough)])
def test_L4_inference_worker_is_replaced(start_run, mode, sig):
    run = start_run(*mode, *SEPARATE, "--fault_timeout=5")
    run.wait_for_training()
    line = len(run.lines)
    os.kill(run.pid_of("InferenceWorker_p0-w0 started"), sig)
    run.wait_for("inference_proc0-0 was replaced", start=line)
    run.wait_for_more_frames()
    run.send(signal.SIGTERM)
    run.finish(30)
    run.assert_clean_end(143, "SIGTERM")
    assert run.result()["faults"] == {"worker_restarts": 1}


BROKEN_PARTS = ("--env_module=tests.faults.broken_parts",)


@pytest.mark.parametrize("mode", [(), pytest.param(SYNC, marks=thorough)], ids=["async", "sync"])
@pytest.mark.parametrize("part", ["batcher", pytest.param("learner", marks=thorough)])
def test_L2_L5_exception_in_a_thread_of_the_learner_ends_the_run(start_run, part, mode):
    run = start_run(*BROKEN_PARTS, *mode, variables={"BROKEN": f"{part}:50"})
    assert run.finish(40) == 1
    run.assert_clean_end(1, "learner_proc0 exited with 1: ")
    assert f"ZeroDivisionError: the {part} broke" in run.tail()
    assert run.checkpoints(), "what was learned before is saved"
    assert_weights_are_finite(run)


@thorough
def test_L6_slow_learner_holds_the_workers_back_and_loses_nothing(start_run):
    run = start_run(*BROKEN_PARTS, "--train_for_env_steps=3000", variables={"BROKEN": "slow_learner:0.2"})
    assert run.finish() == 0
    run.assert_clean_end(0, REACHED)
    sent = sum(int(n) for n in re.findall(r"rows sent: (\d+)", run.output))
    received = int(re.search(r"rows received: (\d+)", run.output)[1])
    # Two workers with four environments: each can have sent one block before it hears of the end, and another that the
    # batcher has not come to.
    assert 3000 // 8 <= received <= sent <= received + 2 * 8
    lag = max(float(value) for value in re.findall(r"Policy #0 lag: .*max: ([\d.]+)", run.output))
    assert lag <= 4  # two batches that wait, one being trained on, one block of the next


@thorough
def test_L5_fork_server_that_is_killed_ends_the_run(start_run):
    run = start_run()
    run.wait_for_training()
    server = fork_server_of(run)
    server.kill()
    assert run.finish(40) == 1
    run.assert_clean_end(1, "was killed by signal 9|could not|exited")


@pytest.mark.parametrize("mode", [(), pytest.param(SEPARATE, marks=thorough)], ids=["async", "separate"])
@pytest.mark.parametrize("fault", ["", pytest.param("hang:100", marks=thorough)], ids=["healthy", "hanging"])
def test_S3_workers_die_with_a_killed_main_process(start_run, mode, fault):
    run = start_run(*mode, fault=fault)
    run.wait_for("Starting to hang") if fault else run.wait_for_training()
    assert len(run.workers()) >= 4  # fork server and resource tracker are among them
    run.send(signal.SIGKILL)
    assert run.finish(20) == -signal.SIGKILL  # asserts that all are gone within five seconds
    run.assert_nothing_outside(may_leave_temporary=True)


@pytest.mark.parametrize("sig", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=thorough)])
def test_S3_processes_of_environments_end_with_the_run(start_run, sig):
    run = start_run(fault="children:0")
    run.wait_for_training()
    assert "sleep" in {process.name() for process in run.workers()}
    run.send(sig)
    assert run.finish(30) == (143 if sig == signal.SIGTERM else -sig)  # asserts that nobody is left
    assert "unexpected pid" not in run.output


@thorough
def test_E6_processes_of_environments_end_with_a_worker_that_is_killed(start_run, tmp_path):
    once = {"FAULT_ONCE": str(tmp_path / "once")}
    run = start_run("--env_timeout=3", fault="children:0,hang:50:0", variables=once)
    run.wait_for("Starting to hang")
    children = psutil.Process(run.pid_of("Worker 0 started")).children()
    assert len(children) == 8  # two of every environment
    run.wait_for("rollout_proc0 was replaced")
    assert not any(child.is_running() for child in children)
    run.send(signal.SIGTERM)
    assert run.finish(30) == 143


@pytest.mark.parametrize("worker", [1])
@pytest.mark.parametrize("mode", [(), pytest.param(SYNC, marks=thorough)], ids=["async", "sync"])
def test_E8_environment_that_cannot_be_created_in_one_worker_ends_the_run(start_run, mode, worker):
    run = start_run(*mode, "--max_worker_restarts=1", fault=f"init_raise:0:{worker}")
    assert run.finish(60) == 1
    run.assert_clean_end(
        1, f"rollout_proc{worker} exited with 1: RuntimeError: the environment cannot be built; it was"
    )


@thorough
def test_P1_fork_server_that_is_stopped_is_continued(start_run):
    """Nobody could be replaced without it, and it would outlive the run."""
    run = start_run()
    run.wait_for_training()
    server = fork_server_of(run)
    server.suspend()
    os.kill(run.pid_of("Worker 0 started"), signal.SIGKILL)
    run.wait_for("rollout_proc0 was replaced")
    server.suspend()
    run.send(signal.SIGTERM)
    run.finish(30)
    run.assert_clean_end(143, "SIGTERM")


@thorough
def test_S3_fork_server_that_is_stopped_ends_with_the_main_process(start_run):
    run = start_run()
    run.wait_for_training()
    server = fork_server_of(run)
    server.suspend()
    run.send(signal.SIGKILL)
    assert run.finish(30) == -signal.SIGKILL  # asserts that nobody is left
