"""Do curricula learn more from the same number of updates? DR, robust PLR and ACCEL on held-out mazes.

    python -m benchmarks.ued_learning                     the small setting: minutes per run on one core
    python -m benchmarks.ued_learning --seeds=1 --methods dr plr
    python -m benchmarks.ued_learning --full              the shipped configurations, 30,000 updates each: days on a CPU
    python -m benchmarks.ued_learning --full --methods accel --device=cuda

All methods of the small setting draw their random levels from one generator: 9x9 tiles with so many walls that most
levels cannot be solved and most others are short. Held out are perfect mazes, which have exactly one way to the goal,
always the same ones; nothing of the training was chosen by them. Ctrl-C and SIGTERM stop after the training has saved;
started again, runs continue where they were interrupted, and what is finished is not repeated. Results:
benchmarks/results/ued/learning_small.json and learning_full.json; the latter collects the runs of all calls.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import torch
from torch import Generator

from benchmarks.results_io import REPOSITORY, write_result
from benchmarks.ued_runs import CONTINUES, RESULTS_DIR, ours, read_log, run_if_needed, wait_for
from benchmarks.ued_settings import METHOD_TITLES, training_flags
from sample_factory.ued import StoredRun
from sample_factory.ued.curricula.playing import play_episodes
from sample_factory.ued.envs.maze.env import MazeEnv
from sample_factory.ued.envs.maze.generated import PerfectMaze
from sample_factory.ued.envs.maze.generator import LevelSampler, RandomWalls
from sample_factory.ued.runs.checkpoint import latest_path
from sample_factory.ued.runs.meta import FILE_NAME as META_FILE

DEFAULT_RUNS = REPOSITORY / "train_dir" / "ued_learning"

SIDE, NUM_WALLS, EPISODE_STEPS = 9, 60, 60
# The step limit of the perfect mazes of this package grows with their area like that; see their registration.
PERFECT_STEPS = 2 * (SIDE + 2) ** 2
NUM_HELD_OUT, NUM_EPISODES, LEAST_PATH = 200, 3, 8

SMALL: Mapping[str, object] = {
    "n_parallel": 32,
    "n_rollout_steps": 64,
    "maze_height": SIDE,
    "maze_width": SIDE,
    "maze_n_walls": NUM_WALLS,
    "maze_max_episode_steps": EPISODE_STEPS,
    "student_recurrent_hidden_dim": 64,
    "lr": 1e-3,
    "discount": 0.99,
    "student_gae_lambda": 0.95,
    "student_entropy_coef": 0.005,
    "from_last_checkpoint": True,
    "checkpoint_interval": 50,
}
SMALL_REPLAY: Mapping[str, object] = {"plr_buffer_size": 256, "plr_staleness_coef": 0.1}
SMALL_METHODS: Mapping[str, Mapping[str, object]] = {
    "dr": {},
    "plr": {**SMALL_REPLAY, "plr_replay_prob": 0.5},
    "accel": {**SMALL_REPLAY, "plr_replay_prob": 0.8, "plr_n_mutations": 5},
}

# The twelve mazes over which published solved rates are means.
PANEL = (
    "Maze-SixteenRooms,Maze-SixteenRooms2,Maze-Labyrinth,Maze-Labyrinth2,Maze-StandardMaze,Maze-StandardMaze2,"
    "Maze-StandardMaze3,Maze-Crossing,Maze-FourRooms,Maze-SmallCorridor,Maze-LargeCorridor,Maze-PerfectMazeMedium"
)
FULL_METHODS = ("dr", "paired", "plr", "pplr", "accel", "paccel")
FULL_UPDATES = 30_000


@dataclass(frozen=True)
class HeldOut:
    """Fixed levels on which students are judged, with the environment they are played in."""

    env: MazeEnv
    levels: Any

    @classmethod
    def perfect_mazes(cls) -> HeldOut:
        """Perfect mazes whose only way is at least `LEAST_PATH` moves long."""
        return cls._of(PerfectMaze(SIDE, SIDE), LEAST_PATH, PERFECT_STEPS)

    @classmethod
    def random_mazes(cls) -> HeldOut:
        """Levels of the generator of the training that can be solved."""
        return cls._of(RandomWalls(SIDE, SIDE, NUM_WALLS, replace_wall_pos=True), 1, EPISODE_STEPS)

    @classmethod
    def _of(cls, sampler: LevelSampler, least_path: int, max_steps: int) -> HeldOut:
        env = MazeEnv(SIDE, SIDE, max_steps, sampler, see_agent=False)
        levels = env.sample_levels(20 * NUM_HELD_OUT, Generator().manual_seed(0))
        is_long = env.level_metrics(levels)["shortest_path_length"] >= least_path
        return cls(env, levels[is_long.nonzero().squeeze(1)[:NUM_HELD_OUT]])

    def solved_rate(self, model: Any) -> float:
        """Share of episodes that reach the goal, with sampled actions; the same random numbers for every student."""
        steps = NUM_EPISODES * self.env.max_episode_steps
        generator = Generator().manual_seed(1)
        played = play_episodes(
            self.env, self.levels, model, num_episodes=NUM_EPISODES, max_steps=steps, generator=generator
        )
        return float(played.solved_rate.mean())


def main(argv: list[str] | None = None) -> int:
    """Train what is missing, evaluate, print, save."""
    args = _parse_args(argv)
    torch.set_num_threads(1)
    args.runs = args.runs.expanduser().resolve()
    return _full(args) if args.full else _small(args)


def _parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the shipped configurations instead of the small setting")
    parser.add_argument("--methods", nargs="+", help="default: all of the setting")
    parser.add_argument("--seeds", type=int, help="seeds per method; default 3, with --full 10")
    parser.add_argument("--updates", type=int, help="instead of 300, with --full 30,000")
    parser.add_argument("--device", default="cpu", help="with --full: where networks are trained")
    parser.add_argument("--runs", type=Path, default=DEFAULT_RUNS, help="folder of the runs")
    parser.add_argument(
        "--timeout", type=float, default=3600, help="seconds that one run of the small setting may take"
    )
    args = parser.parse_args(argv)
    known = FULL_METHODS if args.full else tuple(SMALL_METHODS)
    args.methods = args.methods or list(known)
    if unknown := sorted(set(args.methods) - set(known)):
        parser.error(f"--methods: {', '.join(unknown)} must be of {', '.join(known)}")
    if args.device != "cpu" and not args.full:
        parser.error(f"--device={args.device}: the small setting is measured on the CPU; give --full, too")
    args.seeds = args.seeds if args.seeds is not None else 10 if args.full else 3
    args.updates = args.updates if args.updates is not None else FULL_UPDATES if args.full else 300
    if min(args.seeds, args.updates) < 1:
        parser.error("--seeds and --updates must be >= 1")
    return args


# --- small ---


def _small(args: argparse.Namespace) -> int:
    held_out = {"perfect": HeldOut.perfect_mazes(), "random": HeldOut.random_mazes()}
    results = []
    for seed in range(1, args.seeds + 1):  # seeds outside: an interrupted benchmark has whole rounds
        for method in args.methods:
            flags = [*training_flags(method, "small", args.updates, **small_flags(method)), f"--seed={seed}"]
            name = f"{method}-{args.updates}-{seed}"
            rows = run_if_needed(ours(), flags, args.runs, name, args.updates, args.timeout)
            student = StoredRun(args.runs / name, "checkpoint", torch.device("cpu")).students[0].model
            rates = {kind: round(levels.solved_rate(student), 4) for kind, levels in held_out.items()}
            results.append({"method": method, "seed": seed, **rates, **_amount(rows[-1])})
            print(results[-1], flush=True)
    for line in summary_lines(results):
        print(line)
    _save("small", results, args.updates, flags={name: dict(small_flags(name)) for name in args.methods})
    return 0


def small_flags(method: str) -> dict[str, object]:
    """What the small setting changes in the flags of a method."""
    return {**SMALL, **SMALL_METHODS[method]}


def _amount(row: Mapping[str, float | None]) -> dict[str, float | None]:
    return {"steps": row["steps"], "mutation_steps": row["mutation_steps"], "cycles": row["_tick"]}


def summary_lines(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Mean and deviation per method, and in how many seeds it is above DR."""
    lines = []
    kinds = [kind for kind in ("perfect", "random", "panel") if kind in results[0]]
    for method in dict.fromkeys(result["method"] for result in results):
        for kind in kinds:
            rates = {result["seed"]: result[kind] for result in results if result["method"] == method}
            base = {result["seed"]: result[kind] for result in results if result["method"] == "dr"}
            above = sum(rate > base[seed] for seed, rate in rates.items() if seed in base)
            better = f", above DR in {above} of {len(base)} seeds" if base and method != "dr" else ""
            spread = f"{fmean(rates.values()):.3f} +- {pstdev(rates.values()):.3f}"
            lines.append(f"{METHOD_TITLES.get(method, method)}, {kind}: {spread}{better}")
    return lines


# --- full ---


def _full(args: argparse.Namespace) -> int:
    """Runs of the shipped configurations; started again, it continues each from its checkpoint."""
    results = stored_runs(RESULTS_DIR / "learning_full.json", args.updates)
    for seed in range(1, args.seeds + 1):
        for method in args.methods:
            name = f"full-{method}-{seed}"
            if not is_finished(args.runs / name, args.updates):
                _call("train", full_flags(method, seed, args), f"--xpid={name}", f"--log_dir={args.runs}")
            result = {"method": method, "seed": seed, "panel": panel_rate(name, args)}
            results[method, seed] = result
            print(result, flush=True)
            _save("full", list(results.values()), args.updates)
    for line in summary_lines(list(results.values())):
        print(line)
    return 0


def stored_runs(path: Path, updates: int) -> dict[tuple[str, int], dict[str, Any]]:
    """What calls before this one have found: other methods or seeds, perhaps on another machine, as long."""
    if not path.is_file():
        return {}
    stored = json.loads(path.read_text())
    return {(run["method"], run["seed"]): run for run in stored["runs"]} if stored["updates"] == updates else {}


def is_finished(run: Path, updates: int) -> bool:
    """Whether a training has all its updates. Its log need not tell: the last cycles may be between two rows."""
    path = run / META_FILE
    if not path.is_file():
        return False
    meta = json.loads(path.read_text())
    return bool(meta["successful"]) and meta["config"]["n_total_updates"] >= updates


def full_flags(method: str, seed: int, args: argparse.Namespace) -> list[str]:
    """A shipped configuration with the given seed."""
    wanted = {"config": f"maze/{method}", "seed": seed, "n_total_updates": args.updates, "device": args.device}
    return [*(f"--{name}={value}" for name, value in wanted.items()), CONTINUES]


def panel_rate(name: str, args: argparse.Namespace) -> float:
    """Mean solved rate of student 0 over the twelve mazes, ten episodes each."""
    table = args.runs / f"{name}.csv"
    if not table.exists() or table.stat().st_mtime < latest_path(args.runs / name).stat().st_mtime:
        evaluation = {"xpid": name, "log_dir": args.runs, "env_names": PANEL, "n_episodes": 10, "agent_idxs": 0}
        where = {"results_path": args.runs, "results_fname": name, "device": args.device}
        _call("evaluate", [f"--{flag}={value}" for flag, value in {**evaluation, **where}.items()])
    row = read_log(table)[0]
    return round(fmean(value for column, value in row.items() if "solved_rate" in column and value is not None), 4)


def _call(program: str, flags: Sequence[str], *more: str) -> None:
    command = [sys.executable, "-m", f"sample_factory.ued.{program}", *flags, *more]
    status = wait_for(lambda: subprocess.Popen(command, cwd=REPOSITORY, text=True))
    if status != 0:
        raise SystemExit(f"error: {program} ended with exit status {status}; what it said stands above")


def _save(setting: str, results: Sequence[Mapping[str, Any]], updates: int, **more: Any) -> None:
    print(write_result(f"learning_{setting}", (), RESULTS_DIR, updates=updates, runs=list(results), **more))


if __name__ == "__main__":
    sys.exit(main())
