"""One measured run of a training program: frames, CPU time, memory, policy lag and reward from its console lines."""

from __future__ import annotations

import argparse
import fcntl
import os
import re
import statistics
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import IO, Any

import psutil

from benchmarks.process_tree import unwind_on_sigterm

# A run begins with the first report of frames, and its first quarter does not count.
SKIPPED_SHARE = 0.25
START_UP_TIMEOUT_SEC = 180.0

# Reports come every five seconds: one that is due at the very end of a run still counts.
_GRACE_SEC = 0.5

_LEAST_SEC = 15.0

_FRAMES = re.compile(r"Total num frames: (\d+)\..*lag: \(min: (-?[\d.]+|nan), avg: (-?[\d.]+|nan), max")
_REWARD = re.compile(r"Avg episode rewards?: (.*)$", re.MULTILINE)
_NUMBER = re.compile(r"-?\d+\.\d+")


def run_length(text: str) -> float:
    """Type of ``--seconds``: an error where every run would end without a result."""
    seconds = float(text)
    if seconds < _LEAST_SEC:
        raise argparse.ArgumentTypeError(f"{text} is too short: programs report every five seconds; give 20 or more")
    return seconds


@dataclass(frozen=True)
class Report:
    """One progress line of a program: seconds since its start, frames so far, policy lag; CPU seconds, PSS in MiB."""

    time_sec: float
    frames: int
    lag: float
    cpu_sec: float
    pss_mib: float


@dataclass(frozen=True)
class Measurement:
    """Steady state of one run. Policy lag in SGD steps and reward are as the program prints them."""

    frames_per_sec: float
    cpu_sec_per_million: float
    peak_pss_mib: float
    policy_lag: float | None
    reward: float | None
    cores_busy: float
    num_reports: int
    num_frames: int

    def as_dict(self) -> dict[str, Any]:
        return {key: round(value, 3) if isinstance(value, float) else value for key, value in asdict(self).items()}


class TooFewReports(RuntimeError):
    """The program died or printed too little; the message holds the end of its output."""


def parse_frames(line: str) -> tuple[int, float] | None:
    """(total frames, average policy lag) of a progress line, None for any other line. The lag may be nan."""
    found = _FRAMES.search(line)
    return (int(found[1]), float(found[3])) if found else None


def parse_reward(line: str) -> float | None:
    """Mean over the policies of a reward line, None for any other line.

    >>> parse_reward("Avg episode reward: [(0, '23.500'), (1, '24.500')]")
    24.0
    """
    found = _REWARD.search(line)
    numbers = [float(number) for number in _NUMBER.findall(found[1])] if found else []
    return statistics.mean(numbers) if numbers else None


def evaluate(reports: Sequence[Report], run_sec: float, reward: float | None) -> Measurement | None:
    """Steady state from the reports of a run of this length; None if fewer than two of them belong to it.

    Time is counted from the first report of any frames: start-up is another question.
    """
    reports = [report for report in reports if report.frames > 0]
    steady = [report for report in reports if report.time_sec - reports[0].time_sec >= SKIPPED_SHARE * run_sec]
    if len(steady) < 2:
        return None
    first, last = steady[0], steady[-1]
    frames, seconds, cpu_sec = last.frames - first.frames, last.time_sec - first.time_sec, last.cpu_sec - first.cpu_sec
    if frames <= 0:
        return None
    lags = [report.lag for report in steady if report.lag >= 0]
    return Measurement(
        frames_per_sec=frames / seconds,
        cpu_sec_per_million=cpu_sec / frames * 1e6,
        peak_pss_mib=max(report.pss_mib for report in reports),
        policy_lag=statistics.mean(lags) if lags else None,
        reward=reward,
        cores_busy=cpu_sec / seconds,
        num_reports=len(steady),
        num_frames=frames,
    )


@dataclass
class ProcessTree:
    """All processes of a session: what they cost, and their end."""

    session: int
    _cpu_sec: dict[int, float] = field(default_factory=dict)

    def cpu_sec(self) -> float:
        """User and system seconds of every process that was ever seen here, ended ones as last seen."""
        for process in self._processes():
            try:
                times = process.cpu_times()
            except psutil.Error:
                continue
            self._cpu_sec[process.pid] = times.user + times.system
        return sum(self._cpu_sec.values())

    def pss_mib(self) -> float:
        """Memory with shared pages divided among their users, summed over the processes."""
        return sum(_pss_kib(process.pid) for process in self._processes()) / 1024

    def kill(self) -> None:
        """Nothing is saved and nothing survives: the original would leave its workers behind after SIGTERM."""
        while processes := [process for process in self._processes() if _is_running(process)]:
            for process in processes:
                try:
                    process.kill()
                except psutil.Error:
                    continue
            psutil.wait_procs(processes, timeout=1)

    def _processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if os.getsid(process.pid) == self.session:
                    found.append(process)
            except (ProcessLookupError, PermissionError):
                continue
        return found


def _is_running(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _pss_kib(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            return next((int(line.split()[1]) for line in file if line.startswith("Pss:")), 0)
    except (OSError, ProcessLookupError):
        return 0


class MachineLock:
    """A file lock for machines that several people measure on; does nothing without a path.

    It is kept between uses for a few minutes, so that runs that belong together are not torn apart by a long queue.
    """

    KEEP_SEC = 200.0

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._file: IO[str] | None = None
        self._since = 0.0

    def __enter__(self) -> None:
        if self._path is None or self._file is not None:
            return
        self._file = open(self._path, "a")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self._since = time.monotonic()

    def __exit__(self, *args: object) -> None:
        if self._file is not None and time.monotonic() - self._since > self.KEEP_SEC:
            self._file.close()
            self._file = None


LOCK_HELP = "hold this file locked while something runs, for machines that several people measure on"


def _kill_after(seconds: float, tree: ProcessTree) -> threading.Timer:
    timer = threading.Timer(seconds, tree.kill)
    timer.daemon = True
    timer.start()
    return timer


def measure(command: Sequence[str], seconds: float, cwd: str, env: Mapping[str, str]) -> Measurement:
    """Run a training program for this long after its first report of frames, kill it and evaluate its reports.

    :raises TooFewReports: the program did not start in time, ended early, or was too slow for this length.
    """
    unwind_on_sigterm()
    start = time.monotonic()
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=cwd,
        env={**env, "PYTHONUNBUFFERED": "1"},
        start_new_session=True,
    )
    tree = ProcessTree(process.pid)
    stopper = _kill_after(START_UP_TIMEOUT_SEC, tree)
    reports: list[Report] = []
    reward: float | None = None
    tail: list[str] = []
    assert process.stdout is not None
    try:
        for line in process.stdout:
            tail = [*tail[-40:], line]
            reward = new_reward if (new_reward := parse_reward(line)) is not None else reward
            if found := parse_frames(line):
                now = time.monotonic() - start
                if found[0] > 0 and not any(report.frames for report in reports):
                    stopper.cancel()
                    stopper = _kill_after(seconds + _GRACE_SEC, tree)
                reports.append(Report(now, *found, tree.cpu_sec(), tree.pss_mib()))
    finally:
        stopper.cancel()
        tree.kill()
        process.wait()
    measurement = evaluate(reports, seconds, reward)
    if measurement is None:
        raise TooFewReports(f"{len(reports)} reports in {seconds:g} seconds are too few:\n{''.join(tail)}")
    return measurement
