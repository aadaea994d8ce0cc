"""Rows S: signals, at every moment of a run."""

from __future__ import annotations

import os
import random
import re
import signal

import pytest

from sample_factory.algo.learning.checkpoints import read_checkpoint
from tests.faults.fault_run import SERIAL, SYNC

pytestmark = pytest.mark.multiproc
thorough = pytest.mark.faults

MODES = pytest.mark.parametrize(
    "mode",
    [(), pytest.param(SYNC, marks=thorough), pytest.param(SERIAL, marks=thorough)],
    ids=["async", "sync", "serial"],
)
TARGETS = pytest.mark.parametrize("target", ["main", pytest.param("group", marks=thorough)])


def send(run, target, sig):
    run.send(sig) if target == "main" else run.send_to_group(sig)


def assert_all_progress_is_saved(run):
    assert run.saved_env_steps() >= run.result()["env_steps"]["0"] > 0


# --- S1: Ctrl-C ---


@TARGETS
@MODES
def test_S1_first_ctrl_c_saves_and_stops(start_run, mode, target):
    run = start_run(*mode)
    run.wait_for_training()
    send(run, target, signal.SIGINT)
    run.finish()
    run.assert_clean_end(2, "^SIGINT$")
    assert_all_progress_is_saved(run)


@thorough
@TARGETS
@MODES
def test_S1_second_ctrl_c_stops_without_saving(start_run, mode, target):
    run = start_run(*mode)
    run.wait_for_training()
    send(run, target, signal.SIGINT)
    send(run, target, signal.SIGINT)
    run.finish(20)
    run.assert_clean_end(2, "SIGINT", may_leave_temporary=True)


@thorough
def test_S1_second_ctrl_c_ends_a_stop_that_takes_long(start_run):
    """Both workers hang, so the stop alone would take the whole --fault_timeout."""
    run = start_run("--fault_timeout=1000", "--train_for_seconds=1000", fault="hang:300")
    run.wait_for_training()
    run.send(signal.SIGINT)
    run.wait_for("SIGINT received")
    run.send(signal.SIGINT)
    run.finish(20)
    run.assert_clean_end(2, "SIGINT, twice: not saved")


@thorough
def test_S1_third_ctrl_c_ends_at_once(start_run):
    run = start_run()
    run.wait_for_training()
    for _ in range(3):
        run.send(signal.SIGINT)
    assert run.finish(20) == 2
    assert run.result()["exit_code"] == 2 and "SIGINT" in run.result()["cause"]
    run.assert_nothing_outside(may_leave_temporary=True)


# --- S2: SIGTERM ---


@TARGETS
@MODES
def test_S2_sigterm_saves_and_exits_143(start_run, mode, target):
    run = start_run(*mode)
    run.wait_for_training()
    send(run, target, signal.SIGTERM)
    run.finish(20)
    run.assert_clean_end(143, "^SIGTERM$")
    assert_all_progress_is_saved(run)


@thorough
def test_S2_sigterm_with_requeue_exit_code(start_run):
    run = start_run("--requeue_exit_code=85")
    run.wait_for_training()
    run.send(signal.SIGTERM)
    run.finish(20)
    run.assert_clean_end(85, "^SIGTERM$")
    assert_all_progress_is_saved(run)


@thorough
def test_S2_run_that_cannot_save_everything_is_a_failure(start_run):
    """The code that means "start me again" is for runs that have stopped cleanly."""
    run = start_run("--requeue_exit_code=85", "--fault_timeout=3")
    run.wait_for_training()
    os.kill(run.pid_of("LearnerWorker_p0 started"), signal.SIGSTOP)
    run.send(signal.SIGTERM)
    run.finish(30)
    run.assert_clean_end(1, "SIGTERM; killed learner_proc0")


@thorough
def test_S2_environment_that_hangs_has_nothing_to_save(start_run):
    run = start_run("--requeue_exit_code=85", "--fault_timeout=3", fault="hang:300")
    run.wait_for_training()
    run.send(signal.SIGTERM)
    run.finish(30)
    run.assert_clean_end(85, "^SIGTERM$")
    assert run.result()["faults"]["workers_killed_at_the_end"] >= 1
    assert_all_progress_is_saved(run)


@thorough
@pytest.mark.parametrize("component", ["Worker 1", "LearnerWorker_p0"])
def test_S2_sigterm_to_one_child_is_its_crash(start_run, component):
    """A worker is replaced. Without the learner nothing can go on; it has saved."""
    run = start_run()
    run.wait_for_training()
    os.kill(run.pid_of(f"{component} started|{component} uses"), signal.SIGTERM)
    if component == "LearnerWorker_p0":
        run.finish(30)
        run.assert_clean_end(1, "learner_proc0")
        return
    run.wait_for("Lost a worker: process rollout_proc1")
    run.wait_for("Total num frames", start=len(run.lines))
    run.send(signal.SIGTERM)
    run.finish(20)
    run.assert_clean_end(143, "^SIGTERM$")
    assert run.result()["faults"] == {"worker_restarts": 1}


# --- S4: closed terminal, closed output, no terminal ---


@thorough
def test_S4_sighup_saves_and_exits_129(start_run):
    run = start_run()
    run.wait_for_training()
    run.send_to_group(signal.SIGHUP)
    run.finish(20)
    run.assert_clean_end(129, "^SIGHUP$")
    assert_all_progress_is_saved(run)


SHORT = "--train_for_env_steps=20000"


@pytest.mark.parametrize("unbuffered", [pytest.param("1", marks=thorough), ""], ids=["unbuffered", "buffered"])
def test_S4_output_into_a_closed_pipe(start_run, unbuffered):
    """`2>&1 | head -1`, with environments that print as well."""
    # The status goes around the pipe, to the output of the test.
    shell = ("sh", "-c", '{ { "$@" 2>&1; echo "exit code $?" >&3; } | head -1 >/dev/null; } 3>&1', "sh")
    run = start_run(SHORT, prefix=shell, fault="print:1", variables={"PYTHONUNBUFFERED": unbuffered})
    run.finish()
    assert run.output == "exit code 0\n"
    assert run.result()["exit_code"] == 0
    assert "Run ended with exit code 0" in run.log_file()
    run.assert_nothing_outside()


@thorough
def test_S4_no_standard_streams_at_all(start_run):
    run = start_run(SHORT, prefix=("sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"), fault="print:1")
    assert run.finish() == 0
    assert run.result()["exit_code"] == 0
    assert "Run ended with exit code 0" in run.log_file()
    for name in ("config.json", "result.json", "sf_log.txt"):
        assert "a line of the environment" not in (run.experiment / name).read_text()


# --- S5: at any moment ---


def assert_state_is_usable(run):
    """No half file: what is there can be read."""
    if run.experiment.exists():
        run.assert_nothing_outside(may_leave_temporary=True)
        assert run.result()["cause"]
        left = [path.name for path in run.experiment.rglob("*") if ".tmp" in path.name or path.name.endswith(".part")]
        assert left == []
        for path in run.checkpoints():
            read_checkpoint(str(path), "cpu")


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param("Starting experiment with the following configuration", marks=thorough),
        pytest.param("Starting process", marks=thorough),
        pytest.param("Inference runs inside", marks=thorough),
        pytest.param("Starting to hang", marks=thorough),
    ],
)
@pytest.mark.parametrize(("sig", "code"), [(signal.SIGINT, 2), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_S5_signal_during_start(start_run, moment, sig, code):
    fault = "init_hang:0" if "hang" in moment else ""
    run = start_run(fault=fault)
    run.wait_for(moment)
    run.send_to_group(sig)
    run.finish(15)
    run.assert_clean_end(code, sig.name)
    assert_state_is_usable(run)


def test_S5_signal_while_the_test_environment_hangs(start_run):
    run = start_run(fault="init_hang:0")
    run.wait_for("Starting to hang")
    run.send(signal.SIGTERM)
    run.finish(15)
    run.assert_clean_end(143, "SIGTERM before training started")


@thorough
@pytest.mark.parametrize("round_number", range(30))
def test_S5_signal_at_a_random_time(start_run, round_number):
    """From the first line of output on; SIGUSR1 only asks for a checkpoint."""
    rng = random.Random(round_number)
    run = start_run("--save_every_sec=1")
    marks = ["Starting experiment", "Starting process", "Heartbeat connected", "Total num frames: [1-9]"]
    run.wait_for(rng.choice(marks))
    sig = rng.choice([signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    for _ in range(rng.randint(0, 2)):
        run.send_to_group(signal.SIGUSR1)
    run.wait_for_a_moment(rng.uniform(0, 2))
    send(run, rng.choice(["main", "group"]), sig)
    run.finish(30)
    run.assert_clean_end({signal.SIGINT: 2}.get(sig, 128 + sig), sig.name)
    assert_state_is_usable(run)


@thorough
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_S5_signal_during_the_stop_changes_nothing(start_run, second):
    run = start_run()
    run.wait_for_training()
    run.send(signal.SIGTERM)
    run.wait_for("SIGTERM received")
    run.send_to_group(second)
    run.finish(20)
    run.assert_clean_end(143, "^SIGTERM$")
    assert_all_progress_is_saved(run)


@thorough
def test_S5_signals_during_saves(start_run):
    """Checkpoints are asked for without pause; the stop comes in the middle of one."""
    run = start_run()
    run.wait_for_training()
    for _ in range(50):
        run.send_to_group(signal.SIGUSR1)
    run.send_to_group(signal.SIGTERM)
    run.finish(30)
    run.assert_clean_end(143, "^SIGTERM$")
    assert_state_is_usable(run)
    assert_all_progress_is_saved(run)


# --- S6: the warning of a scheduler ---


@thorough
@TARGETS
@MODES
def test_S6_sigusr1_saves_and_training_goes_on(start_run, mode, target):
    run = start_run("--save_every_sec=1000", *mode)
    run.wait_for_training()
    assert run.checkpoints() == []
    send(run, target, signal.SIGUSR1)
    run.wait_until(run.checkpoints, "a checkpoint")
    saved = run.saved_env_steps()
    position = len(run.lines)
    run.wait_for("Total num frames", start=position)
    run.send(signal.SIGTERM)
    run.finish(20)
    run.assert_clean_end(143, "^SIGTERM$")
    assert run.saved_env_steps() > saved > 0


def test_S6_sigusr1_with_requeue_exit_code_saves_and_ends(start_run):
    run = start_run("--requeue_exit_code=99")
    run.wait_for_training()
    run.send_to_group(signal.SIGUSR1)
    run.finish(20)
    run.assert_clean_end(99, "^SIGUSR1$")
    assert_all_progress_is_saved(run)


@thorough
def test_S6_requeued_run_goes_on_where_it_was(start_run):
    """What a scheduler does: warn, start the same command again."""
    first = start_run("--requeue_exit_code=99")
    first.wait_for_training()
    first.send_to_group(signal.SIGUSR1)
    assert first.finish(20) == 99
    saved = first.saved_env_steps()
    second = start_run("--requeue_exit_code=99")
    second.wait_for_training()
    second.wait_for_more_frames()  # the first report has those of the checkpoint
    second.send(signal.SIGTERM)
    assert second.finish(20) == 99
    assert second.saved_env_steps() > saved


@thorough
def test_S6_sigusr1_before_there_is_anything_to_save(start_run):
    run = start_run("--train_for_env_steps=2000")
    run.wait_for("Starting process")
    run.send_to_group(signal.SIGUSR1)
    run.finish()
    run.assert_clean_end(0, "train_for_env_steps")


# --- S7: started in the background of a script ---


def test_S7_background_start_says_which_signal_works(start_run):
    run = start_run(sigint=signal.SIG_IGN)
    line = run.wait_for("SIGINT is ignored in this process")
    pid = re.search(r"kill -TERM (\d+)", line)
    assert pid is not None and int(pid[1]) == run.pid
    run.wait_for_training()
    run.send_to_group(signal.SIGINT)
    run.wait_for("Total num frames", start=len(run.lines))
    os.kill(int(pid[1]), signal.SIGTERM)
    run.finish(20)
    run.assert_clean_end(143, "^SIGTERM$")
    assert "SIGINT is ignored" in run.log_file()


@thorough
def test_S7_background_start_in_a_real_shell(start_run):
    """`sh -c 'command &'`: the shell is gone, the run goes on as a process of nobody."""
    run = start_run(prefix=("sh", "-c", '"$@" & echo "started $!"; wait $!; echo "exit code $?"', "sh"))
    pid = int(run.wait_for("^started ").split()[1])
    run.wait_for("SIGINT is ignored in this process")
    run.wait_for_training()
    os.kill(pid, signal.SIGTERM)
    run.finish(20)
    assert run.lines[-1] == "exit code 143\n"
    assert run.result()["cause"] == "SIGTERM"


# --- the time limit ---


@pytest.mark.parametrize(
    "mode",
    [(), pytest.param(SERIAL, marks=thorough), pytest.param(SYNC, marks=thorough)],
    ids=["async", "serial", "sync"],
)
def test_S1_time_limit_without_any_training_iteration(start_run, mode):
    """--train_for_seconds ends a run whose first dataset will never be complete."""
    run = start_run("--train_for_seconds=3", *mode, "--batch_size=8000000", "--rollout=8", fault="slow:0.1")
    run.finish(60)
    run.assert_clean_end(0, r"--train_for_seconds=3\b")
