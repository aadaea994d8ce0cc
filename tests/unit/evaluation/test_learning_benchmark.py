from __future__ import annotations

import importlib
from typing import Any

from benchmarks.learning import Implementation, _as_arguments, result_file
from benchmarks.learning_report import write_report
from benchmarks.learning_tasks import TASKS
from sample_factory.cfg.validation import collect_problems


def result(task: str, seed: int, reward: float, implementation: str = "ours") -> dict[str, Any]:
    return {
        "task": task,
        "implementation": implementation,
        "seed": seed,
        "flags": TASKS[task].flags,
        "reward": reward,
        "is_solved": TASKS[task].is_solved(reward),
        "num_episodes": 100,
        "train_sec": 20.0,
        "evaluate_sec": 5.0,
        "date": "2026-01-01",
        "machine": "2 CPU cores, x86_64",
        "commit": "abc",
    }


def test_criteria():
    assert TASKS["cartpole_async"].is_solved(475.0) and not TASKS["cartpole_async"].is_solved(474.9)
    assert TASKS["tmaze_no_rnn"].is_solved(0.1) and not TASKS["tmaze_no_rnn"].is_solved(0.9)
    assert TASKS["tmaze_gru"].criterion == ">= 0.9" and TASKS["tmaze_no_rnn"].criterion == "<= 0.4"


def test_flags_of_every_task_are_valid():
    for task in TASKS.values():
        argv = [f"--env={task.env}", *_as_arguments(task.flags)]
        script = importlib.import_module(task.train_module)
        assert collect_problems(script.parse_custom_args(argv)) == [], task.name


def test_compared_tasks_use_only_values_the_original_accepts_on_its_command_line():
    for task in TASKS.values():
        if task.is_compared:
            assert task.flags.get("lr_schedule", "constant") != "linear_decay"


def test_report_needs_all_seeds_of_all_tasks_solved(tmp_path):
    path = tmp_path / "docs" / "learning.md"
    best = {name: -0.1 if name == "two_agents" else 500.0 for name in TASKS} | {"tmaze_no_rnn": 0.0}
    results = [result(name, seed, best[name]) for name, task in TASKS.items() for seed in task.seeds]
    assert write_report(results, path)
    assert "5 of 5" in path.read_text() and "With the original" not in path.read_text()
    assert not write_report(results[:-1], path)
    assert not write_report([result("cartpole_async", 1, 20.0), *results[1:]], path)
    assert "4 of 5" in path.read_text()


def test_report_compares_with_the_original(tmp_path):
    path = tmp_path / "learning.md"
    write_report([result("acrobot", 1, -80.0), result("acrobot", 1, -82.0, "original")], path)
    assert "| Acrobot-v1 | 1: -80.0 | 1: -82.0 |" in path.read_text()


def test_results_of_implementations_are_kept_apart():
    task = TASKS["acrobot"]
    names = {result_file(Implementation(name, "python"), task, 2).name for name in ("ours", "original")}
    assert names == {"acrobot__seed2.json", "acrobot__seed2__original.json"}
