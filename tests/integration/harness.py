"""Starting small real trainings and looking at what they leave behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from sample_factory.algo.runners.runner import AlgoObserver, Runner
from sample_factory.algo.utils.misc import ExperimentStatus
from sample_factory.cfg.arguments import parse_full_cfg, parse_sf_args
from sample_factory.train import make_runner

# A policy so small that a run of a few thousand steps takes a second or two.
TINY = (
    "--device=cpu",
    "--num_workers=2",
    "--num_envs_per_worker=4",
    "--worker_num_splits=2",
    "--rollout=8",
    "--batch_size=64",
    "--encoder_mlp_layers",
    "16",
    "--rnn_size=16",
    "--use_rnn=False",
    "--decorrelate_envs_on_one_worker=False",
    "--train_for_env_steps=2000",
    "--train_for_seconds=1000",
    "--seed=1",
    "--ui=none",
)
SYNC = ("--async_rl=False", "--num_batches_per_epoch=1", "--batch_size=64")
SERIAL = ("--serial_mode=True",)
# Of all runs started from here, unless the test chooses itself; conftest.py sets it.
placement = "auto"
TRAINING_MODULES = ("sf_examples.train_gym_env",)
MODES = {"async": (), "sync": SYNC, "serial_async": SERIAL, "serial_sync": (*SERIAL, *SYNC)}


class CountIterations(AlgoObserver):
    """Observer that sees every hook."""

    def __init__(self) -> None:
        self.hooks: list[str] = []
        self.num_iterations = 0

    def on_init(self, runner: Runner) -> None:
        self.hooks.append("on_init")

    def on_connect_components(self, runner: Runner) -> None:
        self.hooks.append("on_connect_components")

    def on_start(self, runner: Runner) -> None:
        self.hooks.append("on_start")

    def on_training_step(self, runner: Runner, training_iteration_since_resume: int) -> None:
        self.num_iterations += 1

    def on_stop(self, runner: Runner) -> None:
        self.hooks.append("on_stop")


def parse(train_dir: Path, *args: str, env: str = "CartPole-v1", add_args=None, evaluation: bool = False):
    argv = [f"--env={env}", f"--train_dir={train_dir}", "--experiment=test", *args]
    parser, cfg = parse_sf_args(argv, evaluation=evaluation)
    if add_args is not None:
        add_args(cfg.env, parser)
    return parse_full_cfg(parser, argv)


def train(train_dir: Path, *args: str, env: str = "CartPole-v1", add_args=None, observer=None) -> tuple[int, Runner]:
    """A tiny training in this process (and its children); returns the exit code and the runner."""
    args = (*TINY, f"--inference_placement={placement}", *args)
    _, runner = make_runner(parse(train_dir, *args, env=env, add_args=add_args))
    if observer is not None:
        runner.register_observer(observer)
    status = runner.init()
    if status == ExperimentStatus.SUCCESS:
        status = runner.run()
    return status, runner


def experiment(train_dir: Path) -> Path:
    return train_dir / "test"


def result_of(train_dir: Path) -> dict:
    return json.loads((experiment(train_dir) / "result.json").read_text())


def checkpoints(train_dir: Path, policy_id: int = 0, prefix: str = "checkpoint") -> list[Path]:
    return sorted((experiment(train_dir) / f"checkpoint_p{policy_id}").glob(f"{prefix}_*.pth"))


_started: list[subprocess.Popen] = []


def cli(*args: str, module: str = "sf_examples.train_gym_env", sigint=signal.SIG_DFL, **kwargs) -> subprocess.Popen:
    """The same through the command line, as a session of its own.

    ``sigint``: disposition the process starts with, whatever that of the test runner is (a script that starts the
    tests in the background makes it "ignore").
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    if module in TRAINING_MODULES and "--help" not in args:
        args = (f"--inference_placement={placement}", *args)
    process = subprocess.Popen(
        [sys.executable, "-m", module, *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, sigint),
        **kwargs,
    )
    _started.append(process)
    return process


def kill_all_started() -> None:
    """For the end of a test that failed half-way: nothing it started may disturb the next one."""
    for process in _started:
        for left in processes_of_session(process.pid):
            left.kill()
        process.wait()
        process.stdout.close()
    _started.clear()


def read_until(process: subprocess.Popen, text: str) -> list[str]:
    """Output lines up to the first that contains ``text``; fails if the output ends before."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return lines
    raise AssertionError(f"{text!r} not in the output:\n{''.join(lines)}")


def processes_of_session(leader_pid: int) -> list[psutil.Process]:
    """Every process that still belongs to the session the CLI was started in."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader_pid and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, PermissionError, psutil.Error):
            continue
    return found


def assert_nothing_left(leader_pid: int, timeout_sec: float = 5.0) -> None:
    """No process of the run outlives it by more than a few seconds."""
    _, alive = psutil.wait_procs(processes_of_session(leader_pid), timeout=timeout_sec)
    assert not alive, alive
