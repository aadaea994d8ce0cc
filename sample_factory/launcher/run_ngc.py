"""Launcher backend: jobs on NVIDIA GPU Cloud through the `ngc` client."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sample_factory.algo.utils.misc import ExperimentStatus
from sample_factory.launcher.outcomes import Outcome, env_prefix, outcome_table
from sample_factory.launcher.run_description import RunDescription
from sample_factory.utils.introspection import str2bool
from sample_factory.utils.typing import StatusCode
from sample_factory.utils.utils import log

MAX_PARALLEL_SUBMISSIONS = 10
_PLACEHOLDER = re.compile(r"\{\{\s*(name|experiment_cmd)\s*\}\}")


def add_ngc_args(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Options of the `ngc` backend."""
    parser.add_argument(
        "--ngc_job_template",
        default=None,
        type=str,
        help="File with the submission command, containing {{ name }} and {{ experiment_cmd }}",
    )
    parser.add_argument("--ngc_print_only", default=False, type=str2bool, help="Print the commands only")
    parser.set_defaults(pause_between=0)
    return parser


def run_ngc(run_description: RunDescription, args: argparse.Namespace) -> StatusCode:
    """Submit every experiment; FAILURE if a submission failed (the others are submitted all the same)."""
    template = _load_template(args.ngc_job_template)
    experiments = run_description.generate_experiments(args.train_dir, makedirs=False)
    commands = [
        (name, ngc_argv(template, name, env_prefix(env_vars) + command)) for command, name, _, env_vars in experiments
    ]
    for _, argv in commands:
        log.info("%s", shlex.join(argv))
    if args.ngc_print_only:
        return ExperimentStatus.SUCCESS

    pause_sec = args.pause_between
    with ThreadPoolExecutor(max_workers=1 if pause_sec > 0 else MAX_PARALLEL_SUBMISSIONS) as pool:
        outcomes = list(pool.map(lambda item: _submit(item[0], item[1], pause_sec), commands))
    failed = [outcome for outcome in outcomes if outcome.failed]
    if failed:
        log.error("%d of %d jobs could not be submitted:\n%s", len(failed), len(outcomes), outcome_table(failed))
        return ExperimentStatus.FAILURE
    return ExperimentStatus.SUCCESS


def _load_template(path: str | None) -> str:
    if path is None:
        raise ValueError("--ngc_job_template is missing: give a file with {{ name }} and {{ experiment_cmd }}")
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as exc:
        raise ValueError(f"--ngc_job_template={path!r} cannot be read ({exc}), give the path of a file") from exc


def ngc_argv(template: str, name: str, experiment_cmd: str) -> list[str]:
    """Arguments of the submission; no shell is involved, each placeholder stays within one argument."""
    values = {"name": name, "experiment_cmd": experiment_cmd}
    one_line = template.replace("\\\n", " ")
    # Placeholders lose their inner spaces first, so splitting cannot tear them apart whether quoted or not.
    compact = _PLACEHOLDER.sub(lambda match: "{{" + match[1] + "}}", one_line)
    return [_PLACEHOLDER.sub(lambda match: values[match[1]], argument) for argument in shlex.split(compact)]


def _submit(name: str, argv: list[str], pause_sec: float) -> Outcome:
    try:
        done = subprocess.run(argv, capture_output=True, text=True)
    except OSError as exc:
        return Outcome(name, None, f"{argv[0]} could not be started: {exc}")
    if done.returncode != 0:
        return Outcome(name, done.returncode, done.stderr.strip())
    log.info("Submitted %s: %s", name, done.stdout.strip())
    time.sleep(pause_sec)
    return Outcome(name, 0)
