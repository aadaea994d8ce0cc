"""``python -m sample_factory.ued.evaluate``: evaluate the students of finished or running trainings."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from sample_factory.cfg.errors import ConfigError
from sample_factory.ued.config.checks import MAX_SEED, USAGE_ERROR, is_device, torch_device
from sample_factory.ued.config.flag import bool_argument
from sample_factory.ued.config.lists import split_names
from sample_factory.utils.standard_streams import survive_lost_output
from sample_factory.utils.typing import StatusCode

PROG = "sample_factory.ued.evaluate"
INTERRUPTED = 2


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {PROG}", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--seed", type=int, default=1, help="seed of the evaluation of every run")
    add("--log_dir", default="~/logs/minimax", help="folder of run directories")
    add("--xpid", default="latest", help="run to evaluate if there is no --xpid_prefix")
    add("--xpid_prefix", help="evaluate all runs whose name starts with this and ends with _<number>")
    add("--checkpoint_name", default="checkpoint", help="file name of the checkpoint without .pt")
    add("--env_names", help="environments, separated by commas; needed unless there is --cvar")
    add("--n_episodes", type=int, default=1, help="episodes per environment, student and run")
    add("--agent_idxs", default="*", help="students, separated by commas; *: all")
    add(
        "--render_mode",
        nargs="?",
        const="gif",
        choices=("gif",),
        help="write an animated picture of one episode per environment, student and run to --results_path",
    )
    add("--results_path", default="results/", help="folder of results, relative to the current one; made if needed")
    add(
        "--results_fname", help="file name of the results without .csv; *: prefix or run; without it no file is written"
    )
    add("--device", default="cpu", help="where to compute: cpu, cuda or cuda:<index>; gpu is another word for cuda")
    cvar = parser.add_argument_group("worst case over random levels (Rutherford et al. 2024)")
    add = cvar.add_argument
    add("--cvar", nargs="?", const=True, default=False, type=bool_argument, help="judge by the levels solved the least")
    add("--cvar_env_name", help="environment that draws the levels; default: that of the training")
    add(
        "--cvar_env_options",
        default="",
        help="its options other than in the training, for example n_walls=60,height=13",
    )
    add("--cvar_n_levels", type=int, default=10_000, help="random levels that can be solved")
    add("--cvar_n_episodes", type=int, default=10, help="episodes per level")
    add("--cvar_fractions", default="0.1,0.01,0.001", help="parts of the levels, separated by commas")
    return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse; exits with code 2 and one message if something is wrong."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if not split_names(args.env_names) and not args.cvar:
        parser.error("--env_names is needed, for example --env_names=Maze-SixteenRooms,Maze-Labyrinth; or give --cvar")
    for name in ("cvar_env_name", "cvar_env_options", "cvar_n_levels", "cvar_n_episodes", "cvar_fractions"):
        if not args.cvar and getattr(args, name) != parser.get_default(name):
            parser.error(f"--{name} has no effect without --cvar")
    for name in ("n_episodes", "cvar_n_levels", "cvar_n_episodes"):
        if getattr(args, name) < 1:
            parser.error(f"--{name}={getattr(args, name)}: must be >= 1")
    if not 0 <= args.seed <= MAX_SEED:
        parser.error(f"--seed={args.seed}: must be >= 0 and <= {MAX_SEED}")
    if args.results_fname == "":
        parser.error("--results_fname=: must be a file name, or * for that of the prefix or run")
    if not is_device(args.device):
        parser.error(f"--device={args.device}: must be cpu, cuda or cuda:<index>")
    args.device = torch_device(args.device)
    try:
        args.cvar_fractions = tuple(float(part) for part in args.cvar_fractions.split(","))
        if not all(0 < fraction <= 1 for fraction in args.cvar_fractions):
            raise ValueError
    except ValueError:
        parser.error(f"--cvar_fractions={args.cvar_fractions}: must be numbers above 0 and up to 1, as in 0.1,0.01")
    return args


def main(argv: Sequence[str] | None = None) -> StatusCode:
    """Exit code 1 if there was nothing to evaluate, or a run cannot be evaluated; 2 if flags are wrong or on Ctrl-C."""
    survive_lost_output()
    args = parse_args(argv)
    try:
        return _evaluate(args)
    except KeyboardInterrupt:
        print(f"{PROG}: Ctrl-C: ended before all runs were evaluated; there are no results", file=sys.stderr)
        return INTERRUPTED


def _evaluate(args: argparse.Namespace) -> StatusCode:
    # Only now, so that help and errors of flags come at once.
    from sample_factory.ued.runs.evaluation import evaluate_runs
    from sample_factory.utils.checkpoint_files import CheckpointError

    try:
        return evaluate_runs(args)
    except ConfigError as exc:
        print("\n".join(f"{PROG}: error: {problem}" for problem in exc.problems), file=sys.stderr)
        return USAGE_ERROR
    except (ValueError, CheckpointError) as exc:
        print(f"{PROG}: error: {exc}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
