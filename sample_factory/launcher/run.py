"""Run the experiments of a run module: ``python -m sample_factory.launcher.run --run=package.module --backend=...``.

The module defines `RUN_DESCRIPTION`. The exit code is 0 only if every experiment succeeded (or was submitted), 2 for
wrong options, 1 for everything else.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence

from sample_factory.algo.utils.misc import ExperimentStatus
from sample_factory.launcher.run_description import RunDescription
from sample_factory.launcher.run_ngc import add_ngc_args, run_ngc
from sample_factory.launcher.run_processes import add_os_parallelism_args, run
from sample_factory.launcher.run_slurm import add_slurm_args, run_slurm
from sample_factory.utils.typing import StatusCode
from sample_factory.utils.utils import log

EXIT_CODE_USAGE_ERROR: StatusCode = 2

AddArgs = Callable[[argparse.ArgumentParser], argparse.ArgumentParser]
RunBackend = Callable[[RunDescription, argparse.Namespace], StatusCode]

BACKENDS: dict[str, tuple[AddArgs, RunBackend]] = {
    "processes": (add_os_parallelism_args, run),
    "slurm": (add_slurm_args, run_slurm),
    "ngc": (add_ngc_args, run_ngc),
}


def launcher_argparser(args: Sequence[str] | None) -> argparse.ArgumentParser:
    """The parser for the backend named in `args` (default: `sys.argv[1:]`)."""
    parser = argparse.ArgumentParser(prog="python -m sample_factory.launcher.run", add_help=False)
    parser.add_argument("--train_dir", default="./train_dir", type=str, help="Directory for all experiments of the run")
    parser.add_argument(
        "--run", default=None, type=str, help="Importable Python module that defines the variable RUN_DESCRIPTION"
    )
    parser.add_argument("--backend", default="processes", choices=list(BACKENDS), help="Where to run")
    parser.add_argument("--pause_between", default=1, type=int, help="Pause in seconds between two starts")
    parser.add_argument("--experiment_suffix", default="", type=str, help="Appended to the experiment directory's name")

    partial, _ = parser.parse_known_args(args)
    parser.add_argument("-h", "--help", action="help", help="Show the options of the chosen backend")
    add_backend_args, _ = BACKENDS[partial.backend]
    add_backend_args(parser)
    return parser


def parse_args() -> argparse.Namespace:
    """Parse the command line of this process."""
    args = sys.argv[1:]
    return launcher_argparser(args).parse_args(args)


class _UsageError(Exception):
    """What the user has to change on the command line."""


def _load_run_description(module_name: str | None) -> RunDescription:
    if not module_name or module_name.startswith("."):
        raise _UsageError(
            "--run needs the name of the module that defines RUN_DESCRIPTION, e.g. --run=my_package.my_run"
        )
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as exc:
        if not _is_part_of(exc.name, module_name):
            raise  # a module that the run module imports
        raise _UsageError(
            f"--run={module_name}: there is no module {exc.name}; start in the folder it is in, or add that folder to "
            "PYTHONPATH"
        ) from exc
    if not hasattr(module, "RUN_DESCRIPTION"):
        raise _UsageError(f"--run={module_name} does not define RUN_DESCRIPTION, add this variable to the module")
    return module.RUN_DESCRIPTION


def _is_part_of(missing: str | None, module_name: str) -> bool:
    """True for the module itself and for the packages it is said to be in."""
    return missing is not None and f"{module_name}.".startswith(f"{missing}.")


def main() -> StatusCode:
    """Launch; returns the exit code."""
    args = parse_args()
    try:
        run_description = _load_run_description(args.run)
    except _UsageError as exc:
        log.error("%s", exc)
        return EXIT_CODE_USAGE_ERROR
    except ImportError:
        log.exception("Could not import the run module %s", args.run)
        return ExperimentStatus.FAILURE

    run_description.experiment_suffix = args.experiment_suffix
    _, run_backend = BACKENDS[args.backend]
    try:
        return run_backend(run_description, args)
    except ValueError as exc:  # an option of the backend
        log.error("%s", exc)
        return EXIT_CODE_USAGE_ERROR


if __name__ == "__main__":
    sys.exit(main())
