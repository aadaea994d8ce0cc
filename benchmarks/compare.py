"""Throughput side by side with Sample Factory 2: same flags, same environment, interleaved runs, steady state only.

    python -m benchmarks.compare --original=/path/to/python --workload=W1 --pairs=3 --seconds=40

``--original`` is the Python of an environment that has ``sample-factory==2.1.1`` installed. Every run is a separate
process tree. Frames per second are taken between the first report after a quarter of the run and the last one; CPU
seconds are those of the whole tree. Prints one line per run and the median of the ratios of neighbouring runs.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

ORIGINAL_SCRIPT = Path(__file__).with_name("original_gym.py")
COMMON = (
    "--with_wandb=False",
    "--save_every_sec=100000",
    "--experiment_summaries_interval=10",
    "--decorrelate_experience_max_seconds=0",
    "--decorrelate_envs_on_one_worker=False",
    "--device=cpu",
    "--use_rnn=False",
    "--encoder_mlp_layers",
    "64",
    "64",
    "--rollout=32",
    "--batch_size=1024",
    "--num_epochs=1",
    "--train_for_env_steps=10000000000",
)
WORKLOADS = {
    "W1": ("--async_rl=True", "--num_workers=2", "--num_envs_per_worker=32", "--worker_num_splits=2"),
    "W1s": (
        "--serial_mode=True",
        "--async_rl=False",
        "--num_workers=1",
        "--num_envs_per_worker=64",
        "--worker_num_splits=1",
        "--num_batches_per_epoch=2",
    ),
}
_FRAMES = re.compile(r"Total num frames: (\d+)\. .*avg: (-?[\d.]+), max")


@dataclass(frozen=True)
class Measurement:
    """Steady state of one run."""

    frames_per_sec: float
    cpu_sec_per_million: float
    policy_lag: float


class CpuMeter:
    """CPU seconds of every process that was ever seen in the session of a process."""

    def __init__(self, session: int) -> None:
        self._session = session
        self._seconds: dict[int, float] = {}

    def read(self) -> float:
        for process in psutil.process_iter():
            try:
                if os.getsid(process.pid) == self._session:
                    times = process.cpu_times()
                    self._seconds[process.pid] = times.user + times.system
            except (psutil.Error, ProcessLookupError, PermissionError):
                continue
        return sum(self._seconds.values())


def kill_session(session: int) -> None:
    """Nothing is saved, nothing survives: the original would leave its workers behind after SIGTERM."""
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session:
                process.kill()
        except (psutil.Error, ProcessLookupError, PermissionError):
            continue


def measure(command: Sequence[str], seconds: float, cwd: str) -> Measurement:
    """Run the training for this long and evaluate its reports."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=cwd, env=env, start_new_session=True
    )
    meter = CpuMeter(process.pid)
    reports: list[tuple[float, int, float, float]] = []
    stopper = threading.Timer(seconds, kill_session, (process.pid,))
    stopper.start()
    tail: list[str] = []
    assert process.stdout is not None
    for line in process.stdout:
        tail = [*tail[-30:], line]
        if found := _FRAMES.search(line):
            reports.append((time.monotonic(), int(found[1]), float(found[2]), meter.read()))
    process.wait()
    stopper.cancel()
    if len(reports) < 4:
        raise RuntimeError(f"too few reports in {seconds} seconds:\n{''.join(tail)}")
    steady = reports[max(1, len(reports) // 4) :]
    (t0, f0, _, c0), (t1, f1, _, c1) = steady[0], steady[-1]
    lag = statistics.mean(report[2] for report in steady)
    return Measurement((f1 - f0) / (t1 - t0), (c1 - c0) / (f1 - f0) * 1e6, lag)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--original", required=True, help="Python that has sample-factory 2.1.1 installed")
    parser.add_argument("--workload", choices=sorted(WORKLOADS), default="W1")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=40.0, help="length of one run")
    args = parser.parse_args()

    ratios, cpu_ratios = [], []
    for pair in range(args.pairs):
        with tempfile.TemporaryDirectory() as folder:
            flags = [*COMMON, *WORKLOADS[args.workload], "--env=CartPole-v1", f"--train_dir={folder}", f"--seed={pair}"]
            original = [args.original, str(ORIGINAL_SCRIPT), "train", *flags, "--experiment=original"]
            ours = [sys.executable, "-m", "sf_examples.train_gym_env", *flags, "--experiment=ours", "--ui=plain"]
            a = measure(original, args.seconds, cwd=folder)
            b = measure(ours, args.seconds, cwd=str(Path(__file__).parents[1]))
        ratios.append(b.frames_per_sec / a.frames_per_sec)
        cpu_ratios.append(a.cpu_sec_per_million / b.cpu_sec_per_million)
        print(f"{args.workload} pair {pair}: original {a}\n{args.workload} pair {pair}: ours     {b}", flush=True)
    print(
        f"{args.workload}: {statistics.median(ratios):.2f}x frames per second "
        f"({min(ratios):.2f} to {max(ratios):.2f}), {statistics.median(cpu_ratios):.2f}x fewer CPU seconds per step "
        f"({min(cpu_ratios):.2f} to {max(cpu_ratios):.2f})"
    )


if __name__ == "__main__":
    main()
