"""Launcher backend: one Slurm batch job per experiment."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from os.path import abspath, join
from pathlib import Path
from string import Template

from sample_factory.algo.utils.misc import ExperimentStatus
from sample_factory.launcher.outcomes import Outcome, env_prefix, outcome_table
from sample_factory.launcher.run_description import RunDescription
from sample_factory.utils.introspection import str2bool
from sample_factory.utils.paths import ensure_dir_exists
from sample_factory.utils.typing import StatusCode
from sample_factory.utils.utils import log

# `timeout 0` sets no limit. With a limit, the experiment is sent SIGTERM (it saves and stops) and submitted again.
SBATCH_TEMPLATE_DEFAULT = """#!/bin/bash
timeout $TIMEOUT $CMD
status=$$?
if [ $$status -eq 124 ]; then
    sbatch $PARTITION --gres=gpu:$GPU -c $CPU --parsable --output $FILENAME-slurm-%j.out $FILENAME
fi
exit $$status
"""


def add_slurm_args(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Options of the `slurm` backend."""
    parser.add_argument("--slurm_gpus_per_job", default=1, type=int, help="GPUs of each job")
    parser.add_argument("--slurm_cpus_per_gpu", default=14, type=int, help="CPU cores per GPU of the job")
    parser.add_argument(
        "--slurm_print_only", default=False, type=str2bool, help="Write the job files and print the commands only"
    )
    parser.add_argument(
        "--slurm_workdir",
        default=None,
        type=str,
        help="Folder for job files and their output; default: <train_dir>/<run name>/slurm",
    )
    parser.add_argument("--slurm_partition", default=None, type=str, help="Partition to submit to")
    parser.add_argument(
        "--slurm_sbatch_template",
        default=None,
        type=str,
        help="Job file template with $CMD, $FILENAME, $PARTITION, $GPU, $CPU and $TIMEOUT",
    )
    parser.add_argument(
        "--slurm_timeout", default="0", type=str, help="Stop and submit again after this time (see `man timeout`)"
    )
    return parser


def run_slurm(run_description: RunDescription, args: argparse.Namespace) -> StatusCode:
    """Submit every experiment; FAILURE if a submission failed (the others are submitted all the same)."""
    workdir = abspath(args.slurm_workdir or join(args.train_dir, run_description.run_name, "slurm"))
    ensure_dir_exists(workdir)
    template = _load_template(args.slurm_sbatch_template)

    job_ids: list[str] = []
    outcomes: list[Outcome] = []
    for command, name, _, env_vars in run_description.generate_experiments(args.train_dir):
        if args.slurm_sbatch_template is None:
            command = _with_this_interpreter(command)
        job_file = join(workdir, f"sbatch_{name}.sh")
        _write_job_file(job_file, template, env_prefix(env_vars) + command, args)
        submit = _sbatch_argv(job_file, args)
        log.info("%s", shlex.join(submit))
        if args.slurm_print_only:
            continue
        outcome, job_id = _submit(name, submit)
        outcomes.append(outcome)
        if job_id:
            job_ids.append(job_id)
        time.sleep(args.pause_between)

    if job_ids:
        _write_cancel_script(join(workdir, "scancel.sh"), job_ids)
    failed = [outcome for outcome in outcomes if outcome.failed]
    if failed:
        log.error("%d of %d jobs could not be submitted:\n%s", len(failed), len(outcomes), outcome_table(failed))
        return ExperimentStatus.FAILURE
    return ExperimentStatus.SUCCESS


def _load_template(path: str | None) -> Template:
    if path is None:
        return Template(SBATCH_TEMPLATE_DEFAULT)
    try:
        return Template(Path(path).read_text(encoding="utf-8"))
    except OSError as exc:
        raise ValueError(f"--slurm_sbatch_template={path!r} cannot be read ({exc}), give the path of a file") from exc


def _with_this_interpreter(command: str) -> str:
    # Jobs start with the login environment; a template of the user's own activates the environment it wants.
    first, _, rest = command.partition(" ")
    return f"{shlex.quote(sys.executable)} {rest}" if first.startswith("python") else command


def _write_job_file(job_file: str, template: Template, command: str, args: argparse.Namespace) -> None:
    text = template.safe_substitute(
        CMD=command,
        FILENAME=shlex.quote(job_file),
        PARTITION=f"-p {shlex.quote(args.slurm_partition)} " if args.slurm_partition else "",
        GPU=args.slurm_gpus_per_job,
        CPU=args.slurm_cpus_per_gpu * args.slurm_gpus_per_job,
        TIMEOUT=shlex.quote(args.slurm_timeout),
    )
    Path(job_file).write_text(text, encoding="utf-8")


def _sbatch_argv(job_file: str, args: argparse.Namespace) -> list[str]:
    partition = ["-p", args.slurm_partition] if args.slurm_partition else []
    num_cpus = args.slurm_cpus_per_gpu * args.slurm_gpus_per_job
    return [
        "sbatch",
        *partition,
        f"--gres=gpu:{args.slurm_gpus_per_job}",
        *["-c", str(num_cpus)],
        "--parsable",
        *["--output", f"{job_file}-slurm-%j.out"],
        job_file,
    ]


def _submit(name: str, submit: list[str]) -> tuple[Outcome, str]:
    """The outcome of the submission and the job id ("" if it failed)."""
    try:
        done = subprocess.run(submit, capture_output=True, text=True)
    except OSError as exc:
        return Outcome(name, None, f"sbatch could not be started: {exc}"), ""
    if done.returncode != 0:
        return Outcome(name, done.returncode, done.stderr.strip()), ""
    job_id = done.stdout.strip().split(";")[0]  # "<id>" or "<id>;<cluster>"
    log.info("Submitted %s as job %s", name, job_id)
    return Outcome(name, 0), job_id


def _write_cancel_script(path: str, job_ids: list[str]) -> None:
    Path(path).write_text(f"#!/bin/bash\nscancel {' '.join(job_ids)}\n", encoding="utf-8")
    log.info("Jobs %s submitted, cancel them with `bash %s`", job_ids, path)
