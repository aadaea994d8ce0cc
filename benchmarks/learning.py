"""Does it learn? Trains every task of `learning_tasks` by several seeds through the command line and evaluates it.

    python -m benchmarks.learning                        everything that has no result yet
    python -m benchmarks.learning --only cartpole_async  one task (repeat --only for more)
    python -m benchmarks.learning --quick                the first seed of each task
    python -m benchmarks.learning --original PYTHON      also the compared tasks with the original (see original_gym.py)

Every (task, seed) is one file in benchmarks/results/learning, written when it is finished, so the work can be done in
pieces; --force repeats what is there. docs/benchmarks/learning.md is rewritten from all files at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.learning_report import write_report
from benchmarks.learning_tasks import TASKS, Task

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS_DIR = REPOSITORY / "benchmarks" / "results" / "learning"
REPORT_FILE = REPOSITORY / "docs" / "benchmarks" / "learning.md"

NUM_EVALUATION_EPISODES = 100
TRAIN_TIMEOUT_SEC = 1800
EVALUATION_TIMEOUT_SEC = 900

_REWARD = re.compile(r"average reward (\S+)")


class Implementation:
    """How one implementation is started: ours, or the original with the Python that has it installed."""

    def __init__(self, name: str, python: str) -> None:
        self.name = name
        self.python = python

    def train_command(self, task: Task) -> list[str]:
        if self.name == "original":
            return [self.python, str(REPOSITORY / "benchmarks" / "original_gym.py"), "train"]
        return [self.python, "-m", task.train_module]

    def evaluate_command(self) -> list[str]:
        if self.name == "original":
            return [self.python, str(REPOSITORY / "benchmarks" / "original_gym.py"), "evaluate"]
        return [self.python, "-m", "sample_factory.enjoy"]


def main(argv: list[str] | None = None) -> int:
    args = _parse_args(argv)
    implementations = [Implementation("ours", sys.executable)]
    if args.original:
        implementations.append(Implementation("original", args.original))
    tasks = [TASKS[name] for name in args.only or TASKS]
    for implementation, task, seed in _runs(implementations, tasks, args.quick):
        path = result_file(implementation, task, seed)
        if args.force or not path.exists():
            _run_and_store(implementation, task, seed, path)

    is_complete = write_report(read_results(), REPORT_FILE)
    print(f"Wrote {REPORT_FILE}")
    return 0 if is_complete or args.only or args.quick else 1


def _parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=sorted(TASKS), help="run this task; may be repeated")
    parser.add_argument("--quick", action="store_true", help="only the first seed of each task")
    parser.add_argument("--force", action="store_true", help="repeat runs that have a result already")
    parser.add_argument("--original", metavar="PYTHON", help="Python with sample-factory 2.1.1, to compare with")
    return parser.parse_args(argv)


def _runs(
    implementations: list[Implementation], tasks: list[Task], quick: bool
) -> Iterator[tuple[Implementation, Task, int]]:
    """Implementations interleaved: what else happens on the machine hits both alike."""
    for task in tasks:
        for seed in task.seeds[:1] if quick else task.seeds:
            for implementation in implementations:
                if implementation.name == "ours" or task.is_compared:
                    yield implementation, task, seed


def result_file(implementation: Implementation, task: Task, seed: int) -> Path:
    suffix = "" if implementation.name == "ours" else f"__{implementation.name}"
    return RESULTS_DIR / f"{task.name}__seed{seed}{suffix}.json"


def read_results() -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(RESULTS_DIR.glob("*.json"))]


def _run_and_store(implementation: Implementation, task: Task, seed: int, path: Path) -> None:
    print(f"{implementation.name}: {task.name}, seed {seed} ...", flush=True)
    with tempfile.TemporaryDirectory(prefix="sf_learning_") as train_dir:
        result = _run(implementation, task, seed, train_dir)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=2) + "\n")
    temporary.replace(path)
    verdict = "solved" if result["is_solved"] else "NOT SOLVED"
    print(f"  {verdict}: reward {result['reward']:.2f} after {result['train_sec']:.0f} s of training", flush=True)


def _run(implementation: Implementation, task: Task, seed: int, train_dir: str) -> dict[str, Any]:
    place = [f"--env={task.env}", f"--experiment={task.name}", f"--train_dir={train_dir}"]
    train_args = [*place, f"--seed={seed}", *_as_arguments(task.flags)]
    train_sec, _ = _execute([*implementation.train_command(task), *train_args], train_dir, TRAIN_TIMEOUT_SEC)

    evaluate_args = [*place, "--device=cpu", "--no_render", f"--max_num_episodes={NUM_EVALUATION_EPISODES}"]
    if implementation.name == "ours":  # the original has no seeded evaluation
        evaluate_args.append(f"--seed={1000 + seed}")
    command = [*implementation.evaluate_command(), *evaluate_args]
    evaluate_sec, output = _execute(command, train_dir, EVALUATION_TIMEOUT_SEC)
    rewards = _REWARD.findall(output)
    if not rewards:
        raise SystemExit(f"No result in the output of {' '.join(command)}:\n{output[-3000:]}")
    reward = float(rewards[-1])
    return {
        "task": task.name,
        "implementation": implementation.name,
        "seed": seed,
        "flags": task.flags,
        "reward": reward,
        "is_solved": task.is_solved(reward),
        "num_episodes": NUM_EVALUATION_EPISODES,
        "train_sec": round(train_sec, 1),
        "evaluate_sec": round(evaluate_sec, 1),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}",
        "commit": _commit(),
    }


def _as_arguments(flags: dict[str, str]) -> list[str]:
    """`--name=value`, and `--name value value` for lists."""
    arguments: list[str] = []
    for name, value in flags.items():
        arguments += [f"--{name}", *value.split()] if " " in value else [f"--{name}={value}"]
    return arguments


def _execute(command: list[str], folder: str, timeout_sec: float) -> tuple[float, str]:
    """Run a command in a folder without packages; its duration in seconds and its output."""
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    if command[0] == sys.executable:
        env["PYTHONPATH"] = str(REPOSITORY)
    start = time.monotonic()
    done = subprocess.run(
        command, cwd=folder, env=env, timeout=timeout_sec, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.returncode != 0:
        raise SystemExit(f"Exit code {done.returncode} of {' '.join(command)}:\n{done.stdout[-5000:]}")
    return time.monotonic() - start, done.stdout


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
