"""Training entry points: ``run_rl(cfg)``, or ``make_runner(cfg)`` for those who register observers."""

from __future__ import annotations

import sys

from sample_factory.algo.learning.checkpoints import CheckpointError
from sample_factory.algo.runners.experiment_dir import ExperimentInUseError
from sample_factory.algo.runners.resume_check import ResumeCheck
from sample_factory.algo.runners.runner import EXIT_CODE_BAD_CONFIG, Runner
from sample_factory.algo.runners.runner_parallel import ParallelRunner
from sample_factory.algo.runners.runner_serial import SerialRunner
from sample_factory.algo.utils.context import sf_global_context
from sample_factory.algo.utils.misc import ExperimentStatus
from sample_factory.cfg.arguments import maybe_load_from_checkpoint
from sample_factory.cfg.errors import ConfigError
from sample_factory.cfg.persistence import complete_cfg
from sample_factory.cfg.validation import check_cfg_before_start
from sample_factory.envs.env_resolution import UnknownEnvError, resolve_env
from sample_factory.monitoring.run_view import make_run_view
from sample_factory.pbt.population_based_training import PopulationBasedTraining
from sample_factory.utils.typing import Config, StatusCode
from sample_factory.utils.utils import log


def make_runner(cfg: Config) -> tuple[Config, Runner]:
    """Runner for this configuration, merged with the saved one when an experiment is resumed.

    Raises :class:`ConfigError` or :class:`UnknownEnvError` (both ``ValueError``) before anything is created on disk.
    """
    if cfg.restart_behavior == "resume":
        cfg = maybe_load_from_checkpoint(cfg)
    cfg = complete_cfg(cfg)
    check_cfg_before_start(cfg)
    resolve_env(cfg)
    if not cfg.get("env_module"):
        # Recorded in config.json, so that evaluation finds the environment again.
        cfg["env_module"] = sf_global_context().env_modules.get(cfg.env)

    runner = SerialRunner(cfg) if cfg.serial_mode else ParallelRunner(cfg)
    runner.view = make_run_view(cfg)
    runner.register_observer(ResumeCheck(cfg))
    if cfg.with_pbt:
        runner.register_observer(PopulationBasedTraining(runner.cfg, runner))
    return runner.cfg, runner


def run_rl(cfg: Config) -> StatusCode:
    """Train; returns the exit code of the run."""
    try:
        cfg, runner = make_runner(cfg)
    except (ConfigError, UnknownEnvError) as exc:
        print(exc, file=sys.stderr)
        return EXIT_CODE_BAD_CONFIG
    except ExperimentInUseError as exc:
        log.error(exc)
        return ExperimentStatus.FAILURE

    try:
        status = runner.init()
    except KeyboardInterrupt:
        runner.abort("interrupted before training started", ExperimentStatus.INTERRUPTED)
        return ExperimentStatus.INTERRUPTED
    except (ConfigError, CheckpointError) as exc:
        status = EXIT_CODE_BAD_CONFIG if isinstance(exc, ConfigError) else ExperimentStatus.FAILURE
        log.error(exc)
        runner.abort(str(exc).splitlines()[0], status)
        return status
    except Exception as exc:
        runner.abort(f"{type(exc).__name__}: {exc}", ExperimentStatus.FAILURE)
        raise
    return runner.run() if status == ExperimentStatus.SUCCESS else status
