"""What to launch: experiments, each a command line crossed with parameter combinations."""

from __future__ import annotations

import random
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from os.path import join
from typing import Any

from sample_factory.utils.paths import ensure_dir_exists
from sample_factory.utils.utils import log

Params = dict[str, Any]

MAX_NAME_LENGTH = 100
NUM_LAST_TOKEN_LETTERS = 3


class ParamGenerator:
    """Source of parameter combinations."""

    def generate_params(self, randomize: bool = True) -> Iterator[Params]:
        """Yield `{parameter: value}` dictionaries, in random order if `randomize`."""
        raise NotImplementedError


class ParamList(ParamGenerator):
    """An explicit list of parameter combinations."""

    def __init__(self, combinations: Iterable[Params]) -> None:
        self.combinations = list(combinations)

    def generate_params(self, randomize: bool = True) -> Iterator[Params]:
        yield from _shuffled(self.combinations) if randomize else self.combinations


class ParamGrid(ParamGenerator):
    """Cartesian product of `(name, values)` pairs; the first parameter varies slowest.

    A tuple of names with tuples of values assigns several parameters at once.
    """

    def __init__(self, grid_tuples: Iterable[tuple[str | Sequence[str], Iterable[Any]]]) -> None:
        self.grid = [(names, list(values)) for names, values in grid_tuples]

    def generate_params(self, randomize: bool = False) -> Iterator[Params]:
        if not self.grid:
            return
        combinations = list(product(*(values for _, values in self.grid)))
        for combination in _shuffled(combinations) if randomize else combinations:
            params: Params = {}
            for (names, _), value in zip(self.grid, combination, strict=True):
                if isinstance(names, str):
                    params[names] = value
                else:
                    params.update(zip(names, value, strict=True))
            yield params


def _shuffled(items: Sequence[Any]) -> list[Any]:
    return random.sample(items, len(items))


class Experiment:
    """A command line and the parameter combinations to run it with.

    Without combinations the command runs once. `env_vars` are set for each of its processes.
    """

    def __init__(
        self,
        name: str,
        cmd: str,
        param_generator: Iterable[Params] = (),
        env_vars: Mapping[str, str] | None = None,
    ) -> None:
        self.base_name = name
        self.cmd = cmd
        self.params = list(param_generator)
        self.env_vars = env_vars

    def generate_experiments(
        self, experiment_arg_name: str, customize_experiment_name: bool, param_prefix: str
    ) -> Iterator[tuple[str, str]]:
        """Yield `(command, experiment name)` for each combination.

        The name is `NN_<base name>`, followed by the shortened parameters if `customize_experiment_name`. Values that
        a shell would split or interpret are quoted in the command.
        """
        for idx, params in enumerate(self.params or [{}]):
            arguments = [f"{param_prefix}{param}={value}" for param, value in params.items()]
            parts = [self.base_name]
            if customize_experiment_name:
                for param, short_name in short_param_names(params).items():
                    parts += [short_name, str(params[param])]
            name = f"{idx:02d}_{_path_safe('_'.join(parts))}"
            if len(name) > MAX_NAME_LENGTH:
                log.warning("Experiment name is longer than %d characters: %s", MAX_NAME_LENGTH, name)
            arguments.append(f"{experiment_arg_name}={name}")
            yield f"{self.cmd} {' '.join(shlex.quote(argument) for argument in arguments)}", name


def short_param_names(params: Iterable[str]) -> dict[str, str]:
    """`learning_rate` -> `l.rat`: initials of all tokens but the last, of which three letters or more are kept.

    A name that is taken already gets more letters, as far as there are any.
    """
    short_names: dict[str, str] = {}
    for param in params:
        *leading, last = [token for token in re.split(r"[._-]", param) if token] or [param]
        num_letters = NUM_LAST_TOKEN_LETTERS
        while True:
            short_name = ".".join([token[0] for token in leading] + [last[:num_letters]])
            if short_name not in short_names.values() or num_letters >= len(last):
                break
            num_letters += 1
        short_names[param] = short_name
    return short_names


def _path_safe(name: str) -> str:
    # The name becomes a folder and part of command lines and job scripts. Square brackets of lists, commas, and colons
    # of environment ids are harmless there, and sweeps of Sample Factory 2 find their folders again. Its names with
    # spaces never worked; a shell would interpret the other characters, and Slurm %.
    return re.sub(r"[^\w.+=@,:\[\]-]", "_", name)


class RunDescription:
    """A named collection of experiments, the `RUN_DESCRIPTION` variable of a run module."""

    def __init__(
        self,
        run_name: str,
        experiments: Sequence[Experiment],
        experiment_arg_name: str = "--experiment",
        experiment_dir_arg_name: str = "--train_dir",
        customize_experiment_name: bool = True,
        param_prefix: str = "--",
    ) -> None:
        self.run_name = run_name
        self.experiments = experiments
        self.experiment_suffix = ""
        self.experiment_arg_name = experiment_arg_name
        self.experiment_dir_arg_name = experiment_dir_arg_name
        self.customize_experiment_name = customize_experiment_name
        self.param_prefix = param_prefix

    def generate_experiments(
        self, train_dir: str, makedirs: bool = True
    ) -> Iterator[tuple[str, str, str, Mapping[str, str] | None]]:
        """Yield `(command, experiment name, root, env_vars)`; root is the parent folder, relative to `train_dir`."""
        for experiment in self.experiments:
            root = join(self.run_name, f"{experiment.base_name}_{self.experiment_suffix}")
            directory = join(train_dir, root)
            if makedirs:
                ensure_dir_exists(directory)
            for cmd, name in experiment.generate_experiments(
                self.experiment_arg_name, self.customize_experiment_name, self.param_prefix
            ):
                dir_argument = shlex.quote(f"{self.experiment_dir_arg_name}={directory}")
                yield f"{cmd} {dir_argument}", name, root, experiment.env_vars
