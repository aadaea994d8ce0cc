"""One real training on the command line, watched from outside: what it printed, what it left behind.

A run gets a session, a working folder and a temporary folder of its own, so that everything it starts and writes can be
found. Nothing here waits without a deadline.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import psutil

REPOSITORY = Path(__file__).resolve().parents[2]
SHARED_MEMORY = Path("/dev/shm")
EXPERIMENT = "test"
DEADLINE_SEC = 90.0
POLL_SEC = 0.05
GONE_WITHIN_SEC = 5.0
NUM_TAIL_LINES = 60

# A policy so small that a run trains within a second of its start.
TINY = (
    "--device=cpu",
    "--num_workers=2",
    "--num_envs_per_worker=4",
    "--worker_num_splits=2",
    "--rollout=8",
    "--batch_size=64",
    "--encoder_mlp_layers=16",
    "--use_rnn=False",
    "--decorrelate_envs_on_one_worker=False",
    "--seed=1",
    "--ui=plain",
)
SYNC = ("--async_rl=False", "--num_batches_per_epoch=1")
SERIAL = ("--serial_mode=True",)
ENDLESS = ("--train_for_env_steps=1000000000", "--train_for_seconds=1000")
FAULT_ENV = ("--env=fault_env", "--env_module=tests.faults.fault_env")

_PID_OF_LOG_LINE = re.compile(r"^\[[^]]*\]\[(\d+)\] ")

_NUM_FRAMES = re.compile(r"Total num frames: (\d+)")


def shared_memory_names() -> set[str]:
    return {path.name for path in SHARED_MEMORY.iterdir()} if SHARED_MEMORY.is_dir() else set()


class FaultRun:
    """``folder`` gets ``train`` (the train dir), ``cwd`` and ``tmp``. Later flags win over earlier ones.

    ``variables``: additional environment variables, ``fault``: value of FAULT. ``sigint``: disposition the process
    starts with, whatever that of the test runner is. ``prefix``: a command to start the run with, such as ``unshare``.
    """

    def __init__(
        self,
        folder: Path,
        *flags: str,
        fault: str = "",
        variables: dict[str, str] | None = None,
        sigint: Any = signal.SIG_DFL,
        prefix: Iterable[str] = (),
        module: str = "sf_examples.train_gym_env",
        preexec: Callable[[], None] | None = None,
    ) -> None:
        self.folder, self.train_dir = folder, folder / "train"
        for name in ("cwd", "tmp"):
            (folder / name).mkdir(exist_ok=True)
        self.files_before = self.files()
        self.shared_memory_before = shared_memory_names()
        self.argv = [*prefix, sys.executable, "-m", module, *FAULT_ENV, *TINY, *ENDLESS]
        self.argv += [f"--train_dir={self.train_dir}", f"--experiment={EXPERIMENT}", *flags]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(REPOSITORY)}
        environment |= {"TMPDIR": str(folder / "tmp"), "FAULT": fault, **(variables or {})}
        self.lines: list[str] = []
        self.pids: set[int] = set()
        self._more = threading.Condition()

        def before_exec() -> None:
            signal.signal(signal.SIGINT, sigint)
            if preexec is not None:
                preexec()

        self.process = subprocess.Popen(
            self.argv,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            cwd=folder / "cwd",
            env=environment,
            start_new_session=True,
            preexec_fn=before_exec,
        )
        self.pids.add(self.process.pid)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    # --- watching ---

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def experiment(self) -> Path:
        return self.train_dir / EXPERIMENT

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def result(self) -> dict[str, Any]:
        return json.loads((self.experiment / "result.json").read_text())

    def log_file(self) -> str:
        return (self.experiment / "sf_log.txt").read_text()

    def checkpoints(self, policy_id: int = 0, prefix: str = "checkpoint") -> list[Path]:
        return sorted((self.experiment / f"checkpoint_p{policy_id}").glob(f"{prefix}_*.pth"))

    def saved_env_steps(self) -> int:
        """Progress of the newest checkpoint, from its name."""
        return int(self.checkpoints()[-1].stem.split("_")[-1])

    def wait_for(self, pattern: str, timeout_sec: float = DEADLINE_SEC, start: int = 0) -> str:
        """First output line (from line number ``start`` on) that the regular expression is found in."""
        deadline, looked_at = time.monotonic() + timeout_sec, start
        regex = re.compile(pattern)
        while True:
            with self._more:
                for line in self.lines[looked_at:]:
                    if regex.search(line):
                        return line
                looked_at = max(start, len(self.lines))
                if not self._reader.is_alive() or time.monotonic() > deadline:
                    why = "the output ended" if not self._reader.is_alive() else f"{timeout_sec} seconds are over"
                    raise AssertionError(f"{pattern!r} is not in the output, {why}:\n{self.tail()}")
                self._more.wait(POLL_SEC)

    def wait_until(self, condition: Callable[[], Any], what: str, timeout_sec: float = DEADLINE_SEC) -> Any:
        """First true value of ``condition()``; fails when the run has ended without it."""
        deadline = time.monotonic() + timeout_sec
        while not (value := condition()):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"never came: {what} (exit code {self.process.poll()})\n{self.tail()}")
            time.sleep(POLL_SEC)
        return value

    def wait_for_a_moment(self, seconds: float) -> None:
        """Let time go by, less of it if the run ends."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=seconds)

    def wait_for_training(self) -> None:
        """Until the learner has trained on something in this run."""
        self.wait_for(r"Total num frames: [1-9]")

    def wait_for_more_frames(self) -> None:
        """Until the learner has trained on something new."""
        before = self._num_frames()
        self.wait_until(lambda: self._num_frames() > before, "more frames")

    def _num_frames(self) -> int:
        found = _NUM_FRAMES.findall(self.output)
        return int(found[-1]) if found else 0

    def pid_of(self, pattern: str, last: bool = False) -> int:
        """Process that wrote the first (or last) log line with the pattern."""
        line = self.wait_for(pattern)
        if last:
            line = [line for line in list(self.lines) if re.search(pattern, line)][-1]
        match = _PID_OF_LOG_LINE.match(line)
        assert match is not None
        return int(match[1])

    def tail(self) -> str:
        return "".join(self.lines[-NUM_TAIL_LINES:])

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            match = _PID_OF_LOG_LINE.match(line)
            with self._more:
                self.lines.append(line)
                if match is not None:
                    self.pids.add(int(match[1]))
                self._more.notify_all()

    # --- acting ---

    def send(self, sig: signal.Signals) -> None:
        self.process.send_signal(sig)

    def send_to_group(self, sig: signal.Signals) -> None:
        os.killpg(self.process.pid, sig)

    def processes(self) -> list[psutil.Process]:
        """Every living process of the session the run was started in."""
        found = []
        for process in psutil.process_iter():
            try:
                if os.getsid(process.pid) == self.pid and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (ProcessLookupError, PermissionError, psutil.Error):
                continue
        self.pids.update(process.pid for process in found)
        return found

    def workers(self) -> list[psutil.Process]:
        return [process for process in self.processes() if process.pid != self.pid]

    def finish(self, timeout_sec: float = DEADLINE_SEC) -> int:
        """Wait for the end; returns the exit code."""
        deadline = time.monotonic() + timeout_sec
        while self.process.poll() is None:
            self.processes()  # whoever starts late is known as well when its shared memory is looked for
            if time.monotonic() > deadline:
                raise AssertionError(f"still running after {timeout_sec} seconds:\n{self.tail()}")
            try:
                self.process.wait(timeout=4 * POLL_SEC)
            except subprocess.TimeoutExpired:
                continue
        self.assert_no_process_left()
        self._reader.join(timeout=GONE_WITHIN_SEC)
        return self.process.returncode

    def kill_everything(self) -> None:
        """For the end of a test that failed half-way."""
        for process in self.processes():
            process.kill()
        self.process.wait()
        self._reader.join(timeout=GONE_WITHIN_SEC)
        if self.process.stdout is not None:
            self.process.stdout.close()

    # --- what every end has to keep ---

    def assert_no_process_left(self) -> None:
        """P2: at most 5 seconds after the main process."""
        _, alive = psutil.wait_procs(self.processes(), timeout=GONE_WITHIN_SEC)
        left = [(process.pid, process.cmdline()) for process in self.processes()] if alive else []
        assert not left, f"processes outlive the run: {left}\n{self.tail()}"

    def shared_memory(self) -> list[str]:
        """New names in shared memory that carry the pid of a process of this run."""
        pids = {str(pid) for pid in self.pids}
        new = shared_memory_names() - self.shared_memory_before
        return sorted(name for name in new if pids & set(re.split(r"[^0-9]+", name)))

    def files(self) -> set[str]:
        """Files and folders below ``folder``, relative to it."""
        return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*")}

    def assert_clean_end(
        self, exit_code: int, cause: str | None, *, last_line: str | None = None, may_leave_temporary: bool = False
    ) -> None:
        """The end as promised: exit code, cause (a regular expression) in ``result.json`` and in the last log line, and
        nothing left in shared memory or outside the experiment folder.

        ``cause=None``: the run ended before it had a folder, or was killed.
        """
        assert self.process.returncode == exit_code, self.tail()
        assert self.shared_memory() == [], self.tail()
        self.assert_nothing_outside(may_leave_temporary)
        if cause is None:
            return
        result = self.result()
        assert result["exit_code"] == exit_code, result
        assert re.search(cause, result["cause"]), result
        ends = [line for line in self.lines if "Run ended with exit code" in line]
        assert len(ends) == 1, self.tail()
        before, _, said = ends[0].strip().partition(f"Run ended with exit code {exit_code}: ")
        assert before and re.search(last_line or cause, said), ends[0]

    def assert_nothing_outside(self, may_leave_temporary: bool = False) -> None:
        """P5: new files are in the experiment folder only."""
        inside = (f"train/{EXPERIMENT}", "train")
        new = [name for name in self.files() - self.files_before if name not in inside]
        outside = [name for name in new if not name.startswith(f"train/{EXPERIMENT}/")]
        if may_leave_temporary:
            outside = [name for name in outside if not name.startswith("tmp/")]
        assert outside == [], outside
