"""docs/benchmarks/learning.md from the result files of the learning benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.learning_tasks import TASKS, Task

_HEADER = """# Learning

Written by `python -m benchmarks.learning`; do not edit. One run is a training through the ordinary command line
followed by an evaluation of the saved policy with `python -m sample_factory.enjoy` over {num_episodes} episodes with
sampled actions. Rewards are means over these episodes.

| task | criterion | solved | reward by seed | training time, mean |
|---|---|---|---|---|
"""

Result = dict[str, Any]


def write_report(results: Sequence[Result], path: Path) -> bool:
    """Write the page; returns whether every task has all its seeds and all of them are solved."""
    ours = {name: _of_task(results, name, "ours") for name in TASKS}
    original = {name: _of_task(results, name, "original") for name in TASKS}
    num_episodes = results[0]["num_episodes"] if results else 100
    lines = [_HEADER.format(num_episodes=num_episodes)]
    lines += [_row(task, ours[name]) for name, task in TASKS.items() if ours[name]]
    lines += _comparison(ours, original)
    lines += ["\n## Flags\n"]
    lines += [_flags(task) for task in TASKS.values()]
    if results:
        machines = sorted({result["machine"] for result in results})
        dates = sorted({result["date"] for result in results})
        lines.append(f"\nMachine: {'; '.join(machines)}, shared with other work. Measured {dates[0]} to {dates[-1]}.\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines))
    return all(
        len(ours[name]) == len(task.seeds) and all(result["is_solved"] for result in ours[name])
        for name, task in TASKS.items()
    )


def _of_task(results: Sequence[Result], task_name: str, implementation: str) -> list[Result]:
    found = [r for r in results if r["task"] == task_name and r["implementation"] == implementation]
    return sorted(found, key=lambda result: result["seed"])


def _row(task: Task, results: list[Result]) -> str:
    num_solved = sum(result["is_solved"] for result in results)
    return (
        f"| {task.description} | {task.criterion} | {num_solved} of {len(results)} | {_rewards(results)} "
        f"| {mean(result['train_sec'] for result in results):.0f} s |\n"
    )


def _comparison(ours: dict[str, list[Result]], original: dict[str, list[Result]]) -> list[str]:
    rows = [
        f"| {TASKS[name].description} | {_rewards(ours[name])} | {_rewards(original[name])} |\n"
        for name in TASKS
        if ours[name] and original[name]
    ]
    if not rows:
        return []
    title = "\n## With the original, same flags\n\n"
    header = "| task | reward by seed, here | reward by seed, original 2.1.1 |\n|---|---|---|\n"
    return [title, header, *rows]


def _rewards(results: list[Result]) -> str:
    return ", ".join(f"{result['seed']}: {result['reward']:.1f}" for result in results)


def _flags(task: Task) -> str:
    flags = " ".join(f"--{name} {value}" if " " in value else f"--{name}={value}" for name, value in task.flags.items())
    return f"\n`{task.name}`: `python -m {task.train_module} --env={task.env} {flags}`\n"
