"""Rows T: trackers that do not work, experiments that fail."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sample_factory.utils import wandb_utils
from tests.faults.fault_run import FAULT_ENV, REPOSITORY, SERIAL, TINY

multiproc = pytest.mark.multiproc
thorough = pytest.mark.faults

SHORT = "--train_for_env_steps=2000"

FAKE_WANDB = """
import os, types
KIND = os.environ["FAKE_WANDB"]

class CommError(Exception): pass
class UsageError(Exception): pass
errors = types.SimpleNamespace(CommError=CommError)
Settings = dict
run = None

class Run:
    config = types.SimpleNamespace(update=lambda *args, **kwargs: None)
    def define_metric(self, *args, **kwargs): pass
    def finish(self, exit_code):
        if KIND == "finish":
            raise RuntimeError("cannot finish")

def init(**kwargs):
    global run
    if KIND == "import_time" or KIND == "raise":
        raise RuntimeError("the tracker is broken")
    if KIND == "no_key" and kwargs["mode"] != "offline":
        raise UsageError("api_key not configured (no-tty)")
    if KIND == "exit":
        raise SystemExit("the tracker thinks it may end programs")
    if KIND == "summaries":
        from torch.utils.tensorboard import SummaryWriter
        def broken(*args, **kwargs):
            raise ConnectionError("no upload")
        SummaryWriter.add_scalar = broken
    run = Run()
    return run
"""
CASES = {
    "raise": "Could not set up Weights and Biases",
    "no_key": "recording offline",
    "exit": "Could not set up Weights and Biases",
    "summaries": "Could not write summaries: ConnectionError: no upload",
    "finish": "Could not finish the Weights and Biases run",
}


@multiproc
@pytest.mark.parametrize(
    "kind", ["no_key", *(pytest.param(kind, marks=thorough) for kind in CASES if kind != "no_key")]
)
def test_T1_training_does_not_depend_on_the_tracker(start_run, tmp_path, kind):
    package = tmp_path / "fake"
    package.mkdir()
    (package / "wandb.py").write_text(FAKE_WANDB)
    (package / "__pycache__").mkdir()
    variables = {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(package)]), "FAKE_WANDB": kind}
    variables["PYTHONDONTWRITEBYTECODE"] = "1"
    run = start_run("--with_wandb=True", SHORT, *SERIAL, f"--wandb_dir={tmp_path}", variables=variables)
    run.finish()
    run.assert_clean_end(0, "train_for_env_steps")
    assert CASES[kind] in run.output
    assert run.checkpoints()


def test_T1_tracker_that_never_answers_costs_a_bounded_time():
    never = threading.Event()
    try:
        assert wandb_utils._within(0.1, lambda: never.wait() and None) == "no answer within 0.1 seconds"
    finally:
        never.set()
    assert wandb_utils._within(60, lambda: None) is None
    assert wandb_utils.SETUP_DEADLINE_SEC + wandb_utils.FINISH_DEADLINE_SEC <= 200


RUN_MODULE = """
from sample_factory.launcher.run_description import Experiment, ParamGrid, RunDescription
COMMAND = {command!r}
RUN_DESCRIPTION = RunDescription("r", [
    Experiment("good", COMMAND),
    Experiment("flag", COMMAND + " --gamma=7"),
    Experiment("env", COMMAND, env_vars={{"FAULT": "init_raise:0"}}),
])
"""


@multiproc
def test_T2_launcher_reports_failures_with_their_causes(tmp_path):
    flags = [*FAULT_ENV, *TINY, *SERIAL, SHORT]
    command = f"python -m sf_examples.train_gym_env {' '.join(flags)}"
    (tmp_path / "my_runs.py").write_text(RUN_MODULE.format(command=command))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}
    environment["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), str(tmp_path)])
    argv = [sys.executable, "-m", "sample_factory.launcher.run", "--run=my_runs", f"--train_dir={tmp_path / 'train'}"]
    done = subprocess.run(
        [*argv, "--pause_between=0", "--max_parallel=1"],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        timeout=100,
    )
    assert done.returncode == 1, done.stderr
    table = done.stderr[done.stderr.index("2 of 3 experiments failed") :]
    rows = {
        line.split()[0].split("_")[1]: line.split(maxsplit=2)[1:] for line in table.splitlines()[2:] if line.strip()
    }
    assert rows["flag"][0] == "2"
    assert rows["env"][0] == "1" and "'fault_env' could not be created" in rows["env"][1]
    assert "good" not in rows
    assert list(Path(tmp_path / "train").rglob("checkpoint_*.pth")), "the others went on"
