"""Real command lines of UED runs with settings that take seconds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from sample_factory.ued.runs.csv_log import read_log
from sample_factory.ued.train import main

ROOT = Path(__file__).resolve().parents[3]
TIMEOUT_SEC = 100

TINY = (
    "--n_parallel=4",
    "--n_rollout_steps=16",
    "--student_recurrent_arch=lstm",
    "--student_recurrent_hidden_dim=8",
    "--student_ppo_n_epochs=2",
    "--maze_height=7",
    "--maze_width=7",
    "--maze_n_walls=8",
    "--maze_max_episode_steps=10",
    "--track_env_metrics=True",
)
_PLR = ("--train_runner=plr", "--ued_score=max_mc", "--plr_buffer_size=16", "--plr_replay_prob=0.8")
_ACCEL = ("--plr_mutation_fn=default", "--plr_n_mutations=3")
METHODS: dict[str, tuple[str, ...]] = {
    "dr": ("--train_runner=dr", "--n_students=2"),
    "plr": (*_PLR, "--plr_use_robust_plr=False", "--plr_force_unique=True"),
    "robust_plr": _PLR,
    "accel": (*_PLR, *_ACCEL),
    "parallel_plr": (*_PLR, "--plr_use_parallel_eval=True"),
    "parallel_accel": (*_PLR, *_ACCEL, "--plr_use_parallel_eval=True"),
    "paired": (
        "--train_runner=paired",
        "--n_students=2",
        "--teacher_model_name=default_teacher_cnn",
        "--teacher_recurrent_arch=lstm",
        "--teacher_recurrent_hidden_dim=8",
        "--teacher_n_conv_filters=4",
        "--maze_ued_n_walls=5",
    ),
    "sfl": (
        "--train_runner=sfl",
        "--sfl_refresh_interval=2",
        "--sfl_n_batches=2",
        "--sfl_batch_size=8",
        "--sfl_eval_steps=20",
        "--sfl_buffer_size=6",
    ),
}


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def start(module: str, *args: str, cwd: Path | None = None) -> subprocess.Popen[str]:
    """A command in a session of its own. SIGINT works in it, whatever this process inherited."""
    return subprocess.Popen(
        [sys.executable, "-m", f"sample_factory.ued.{module}", *args],
        cwd=cwd or ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def run(module: str, *args: str, expected: int = 0, cwd: Path | None = None) -> str:
    """Output of a command that has to end with this exit code."""
    process = start(module, *args, cwd=cwd)
    try:
        output, _ = process.communicate(timeout=TIMEOUT_SEC)
    finally:
        process.kill()
    assert process.returncode == expected, output
    return output


def train(folder: Path, *args: str, xpid: str = "run", expected: int = 0) -> str:
    return run("train", *TINY, f"--log_dir={folder}", f"--xpid={xpid}", *args, expected=expected)


def train_here(folder: Path, *args: str, xpid: str = "run") -> None:
    """The same in this process, which saves the start of an interpreter."""
    status = main([*TINY, f"--log_dir={folder}", f"--xpid={xpid}", *args])
    assert status == 0


def rows(directory: Path) -> list[dict[str, str]]:
    """Logged rows without what depends on the clock."""
    timed = ("_time", "sps", "real_sps")
    return [{k: v for k, v in row.items() if k not in timed} for row in read_log(directory / "logs.csv")]


def ticks(directory: Path) -> list[int]:
    return [int(row["_tick"]) for row in rows(directory)]


def read_until(process: subprocess.Popen[str], text: str) -> list[str]:
    """Lines of output up to the first that holds this text."""
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return lines
    raise AssertionError(f"{text!r} was not printed:\n{''.join(lines)}")
