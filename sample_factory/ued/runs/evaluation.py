"""Evaluating the checkpoints of runs, and what is printed and written about it."""

from __future__ import annotations

import argparse
import csv
import inspect
import io
import math
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Generator

from sample_factory.cfg.errors import ConfigError
from sample_factory.ued.config.flag import parse_bool
from sample_factory.ued.config.lists import split_names, student_indices
from sample_factory.ued.config.nested import Config
from sample_factory.ued.config.train_args import import_module
from sample_factory.ued.curricula.cvar import WorstCaseSettings, check_knows_solvable_levels, evaluate_worst_case
from sample_factory.ued.curricula.evaluation import Evaluator, make_test_env
from sample_factory.ued.envs.interfaces import UedEnv
from sample_factory.ued.envs.pictures import require_renderable, save_gif
from sample_factory.ued.envs.registration import env_options, make_ued_env
from sample_factory.ued.ppo.agent import PPOAgent
from sample_factory.ued.runs import checkpoint, console, meta
from sample_factory.ued.runs.assembly import check_students_can_act, device_of, make_env, make_student, student_ppo
from sample_factory.ued.runs.episode_pictures import episode_frames
from sample_factory.ued.runs.launch import use_threads
from sample_factory.ued.runs.preflight import as_wrong_flags, unknown_environments
from sample_factory.ued.runs.run_directory import expand
from sample_factory.utils.durable_files import write_atomically

_TRIAL = re.compile(r".*_[0-9]*$")
_XPID = "xpid"

Results = dict[str, float]


class StoredRun:
    """A run directory: its configuration, environment and trained students."""

    def __init__(self, directory: Path, checkpoint_name: str, device: torch.device) -> None:
        self.xpid = directory.name
        self.config = stored_config(directory)
        self.config.device = str(device)
        path = directory / f"{checkpoint_name}{checkpoint.SUFFIX}"
        stored = checkpoint.load(path)["agents"]["students"]
        self.env = make_env(self.config, device)
        self.students: list[PPOAgent] = []
        for index, student in enumerate(stored):
            model = make_student(self.config, self.env)
            checkpoint.check_weights(path, f"student {index}", student["model"], model.state_dict())
            model.load_state_dict(student["model"])
            self.students.append(PPOAgent(model.to(device).eval(), student_ppo(self.config)))

    def test_env(self, name: str) -> UedEnv[Any, Any]:
        """An environment with the evaluation options of the run; ValueError if the students cannot act in it."""
        return check_students_can_act(self.env, name, make_test_env(name, self.config))

    def random_env(self, name: str | None, options: Mapping[str, str]) -> UedEnv[Any, Any]:
        """The environment of random levels: that of the training, or another one, with some options changed.

        Another one has its own sizes and limits.
        """
        name = self.config.env_name if name is None else name
        known = env_options(name)
        of_training = self.config.env_args if name == self.config.env_name else {}
        args = {**of_training, **self.config.eval_env_args}
        values = {key: value for key, value in args.items() if key in known}
        values |= {key: option_value(key, text, known) for key, text in options.items()}
        values |= {"device": self.config.device} if "device" in known else {}
        values |= {"compat": self.config.ued_compat} if "compat" in known else {}
        return check_students_can_act(self.env, name, make_ued_env(name, **values))


def stored_config(directory: Path) -> Config:
    """The configuration of a run; the module that registers its environments is imported. ValueError if that, or its
    description, is broken.
    """
    config = Config.of(meta.read_meta(directory)["config"])
    if config.env_module:
        try:
            import_module(config.env_module)
        except ConfigError as exc:  # a flag of the training, not of this command
            raise ValueError(f"{directory} was trained with {exc}; add its folder to PYTHONPATH") from exc
    return config


def evaluate_runs(args: argparse.Namespace) -> int:
    """Evaluate all chosen runs, print a summary and write the table; returns the exit code. ConfigError for flags that
    do not fit the runs or this machine.
    """
    device = device_of(Config(device=args.device, n_devices=1))
    use_threads(Config(n_threads=0, n_devices=1))
    directories = list(_complete_runs(args))
    if not directories:
        print("There is no run to evaluate; see --log_dir, --xpid and --xpid_prefix")
        return 1
    _check_names(directories, args)
    _make_results_folder(args)
    results: dict[str, Results] = {}
    for directory in directories:
        run = StoredRun(directory, args.checkpoint_name, device)
        results[run.xpid] = evaluate_run(run, args)
    print(console.box(summary(list(results.values()))))
    if args.results_fname is not None:
        path = results_file(args)
        write_results(path, results)
        print(f"Results were written to {path}")
    return 0


def chosen_runs(args: argparse.Namespace) -> list[Path]:
    """Run directories, sorted by name."""
    folder = expand(args.log_dir)
    if args.xpid_prefix is None:
        return [folder / args.xpid]
    found = folder.iterdir() if folder.is_dir() else iter(())
    matching = (p for p in found if p.is_dir() and p.name.startswith(args.xpid_prefix) and _TRIAL.fullmatch(p.name))
    return sorted(matching)


def _complete_runs(args: argparse.Namespace) -> Iterator[Path]:
    """Those of the chosen runs that can be loaded; it is said what the others lack."""
    for directory in chosen_runs(args):
        needed = (directory / meta.FILE_NAME, directory / f"{args.checkpoint_name}{checkpoint.SUFFIX}")
        missing = next((path for path in needed if not path.is_file()), None)
        if missing is None:
            yield directory
        else:
            print(f"Skipping {directory.name}: there is no {missing}")


def _check_names(directories: Sequence[Path], args: argparse.Namespace) -> None:
    """ConfigError if an environment of the flags is unknown, also to the modules of the runs."""
    for directory in directories:
        stored_config(directory)
    named = [("--env_names", name) for name in split_names(args.env_names)]
    if args.cvar and args.cvar_env_name is not None:
        named.append(("--cvar_env_name", args.cvar_env_name))
    problems = unknown_environments(named, "those of your own are there if the run had their --env_module")
    if problems:
        raise ConfigError(problems)


def _make_results_folder(args: argparse.Namespace) -> None:
    """Before anything is evaluated, whose results would be lost. ConfigError if it is impossible."""
    if args.results_fname is None and args.render_mode is None:
        return
    folder = expand(args.results_path) if args.results_fname is None else results_file(args).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigError([f"--results_path={args.results_path}: {folder} cannot be made: {exc}"]) from exc


def evaluate_run(run: StoredRun, args: argparse.Namespace) -> Results:
    """Results of one run by column; the seed counts for every run anew."""
    with as_wrong_flags():
        envs = {name: run.test_env(name) for name in split_names(args.env_names)}
        indices = student_indices(args.agent_idxs, len(run.students), "--agent_idxs")
        drawing_levels = _env_of_worst_case(run, args) if args.cvar else None
        for env in envs.values() if args.render_mode is not None else ():
            require_renderable(env)
    generator = Generator(device=run.config.device).manual_seed(args.seed)
    results: Results = {}
    if envs:
        evaluator = Evaluator(envs, args.n_episodes, args.agent_idxs)
        results |= evaluator.run(run.students, generator)
    if drawing_levels is not None:
        results |= _worst_case(run, drawing_levels, indices, args)
    if args.render_mode is not None:
        folder = expand(args.results_path)
        for name, env in envs.items():
            for index in indices:
                frames = episode_frames(env, run.students[index].model, generator)
                path = folder / f"{run.xpid}_a{index}_{name}.gif"
                save_gif(frames, path)
                print(f"An episode was written to {path}")
    return results


def _env_of_worst_case(run: StoredRun, args: argparse.Namespace) -> UedEnv[Any, Any]:
    options = dict(_option_pair(text) for text in split_names(args.cvar_env_options))
    env = run.random_env(args.cvar_env_name, options)
    check_knows_solvable_levels(env)
    return env


def _worst_case(run: StoredRun, env: UedEnv[Any, Any], indices: Sequence[int], args: argparse.Namespace) -> Results:
    settings = WorstCaseSettings(args.cvar_n_levels, args.cvar_n_episodes, args.cvar_fractions)
    results: Results = {}
    for index in indices:
        # Levels depend on the seed alone, so that all students and runs get the same.
        found = evaluate_worst_case(
            env,
            run.students[index].model,
            settings,
            level_seed=args.seed,
            choosing_seed=args.seed + 1,
            reporting_seed=args.seed + 2,
        )
        results |= found.columns(index, args.cvar_env_name or run.config.env_name)
    return results


def _option_pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--cvar_env_options: {text!r} must be name=value, for example n_walls=60")
    return name.strip(), value.strip()


def option_value(name: str, text: str, known: Mapping[str, Any]) -> Any:
    """Text as the kind of value the option has by default."""
    if name not in known:
        raise ValueError(f"--cvar_env_options: no option {name!r}; there are {', '.join(known)}")
    kind = _kind_of(known[name])
    try:
        return parse_bool(text) if kind is bool else kind(text)
    except (KeyError, ValueError):
        raise ValueError(f"--cvar_env_options: {name}={text} must be of type {kind.__name__}") from None


def _kind_of(option: inspect.Parameter) -> type:
    """What its text becomes. Where the default does not tell, the annotation does."""
    kinds = (bool, int, float)
    if option.default in (None, inspect.Parameter.empty):
        words = re.findall(r"\w+", str(option.annotation))
        return next((kind for kind in kinds if kind.__name__ in words), str)
    return next((kind for kind in kinds if type(option.default) is kind), str)


def summary(results: Sequence[Results]) -> list[tuple[str, str]]:
    """Per column the mean over runs with its standard error, and the smallest value."""
    rows: list[tuple[str, str]] = []
    for name in columns_of(results):
        values = [result[name] for result in results if name in result]
        rows.append((name, f"{statistics.fmean(values):.2g} +/- {standard_error(values):.2g}"))
        rows.append((f"min:{name}", f"{min(values):.2g}"))
    return rows


def standard_error(values: Sequence[float]) -> float:
    """Standard deviation (population) over the square root of the number of values; 0 for a single one."""
    return statistics.pstdev(values) / math.sqrt(len(values))


def columns_of(results: Sequence[Results]) -> list[str]:
    """All columns, in the order in which they first appear."""
    return list(dict.fromkeys(name for result in results for name in result))


def results_file(args: argparse.Namespace) -> Path:
    name = args.results_fname
    if name == "*":
        name = args.xpid_prefix or args.xpid
    return expand(args.results_path) / f"{name}.csv"


def write_results(path: Path, results: Mapping[str, Results]) -> None:
    """One row per run; the first column is its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = columns_of(list(results.values()))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([_XPID, *names])
    for xpid, result in results.items():
        writer.writerow([xpid, *(result.get(name, "") for name in names)])
    write_atomically(path, buffer.getvalue().encode())
