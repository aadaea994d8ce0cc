"""Training entry points: ``run_rl(cfg)``, or ``make_runner(cfg)`` for those who register observers."""

from __future__ import annotations

import os
import traceback
from pathlib import Path

from sample_factory.algo.learning.checkpoints import CheckpointError
from sample_factory.algo.runners.experiment_dir import ExperimentInUseError, is_held_by_this_process
from sample_factory.algo.runners.resources import raise_soft_limits
from sample_factory.algo.runners.result import RunResult
from sample_factory.algo.runners.runner import EXIT_CODE_BAD_CONFIG, Runner
from sample_factory.algo.runners.runner_parallel import ParallelRunner
from sample_factory.algo.runners.runner_serial import SerialRunner
from sample_factory.algo.runners.termination import TerminationRequested, TerminationSignals
from sample_factory.algo.utils.context import sf_global_context
from sample_factory.algo.utils.misc import ExperimentStatus
from sample_factory.algo.utils.multiprocessing_utils import start_servers
from sample_factory.cfg.arguments import cfg_dict, maybe_load_from_checkpoint
from sample_factory.cfg.errors import ConfigError
from sample_factory.cfg.persistence import complete_cfg
from sample_factory.cfg.shadowing import flag_value, shadowed_flags
from sample_factory.cfg.validation import check_cfg_before_start
from sample_factory.envs.env_resolution import UnknownEnvError, resolve_env
from sample_factory.monitoring.run_view import make_run_view
from sample_factory.pbt.population_based_training import PopulationBasedTraining
from sample_factory.utils.logging import quiet_console
from sample_factory.utils.shared_memory_names import claim_semaphore_names, remove_stale_names
from sample_factory.utils.standard_streams import survive_lost_output
from sample_factory.utils.typing import Config, StatusCode
from sample_factory.utils.utils import experiment_dir, log


def make_runner(cfg: Config) -> tuple[Config, Runner]:
    """Runner for this configuration, merged with the saved one when an experiment is resumed.

    Raises :class:`ConfigError` or :class:`UnknownEnvError` (both ``ValueError``) before anything is created on disk.
    """
    if cfg.restart_behavior == "resume":
        cfg = maybe_load_from_checkpoint(cfg)
    cfg = complete_cfg(cfg)
    check_cfg_before_start(cfg)
    cfg.train_dir = os.path.abspath(cfg.train_dir)  # environments may change the working folder
    resolve_env(cfg)
    if not cfg.get("env_module") and "env_module" not in shadowed_flags(cfg):
        # Recorded in config.json, so that evaluation finds the environment again.
        cfg["env_module"] = sf_global_context().env_modules.get(cfg.env)

    runner = SerialRunner(cfg) if cfg.serial_mode else ParallelRunner(cfg)
    runner.view = make_run_view(cfg)
    if cfg.with_pbt:
        runner.register_observer(PopulationBasedTraining(runner.cfg, runner))
    return runner.cfg, runner


def run_rl(cfg: Config) -> StatusCode:
    """Train; returns the exit code of the run. Signals are obeyed from here on, whatever the run is doing."""
    survive_lost_output()
    given = cfg_dict(cfg)
    with (
        quiet_console(flag_value(given, "ui") == "none"),
        TerminationSignals(flag_value(given, "requeue_exit_code")) as signals,
    ):
        attempt = _Start(cfg, signals)
        return attempt.runner.run() if attempt.succeeded() else attempt.status


class _Start:
    """From a configuration to a runner that can run, or to an exit code and a result that names the cause."""

    def __init__(self, cfg: Config, signals: TerminationSignals) -> None:
        self._cfg = cfg
        self._signals = signals
        self._runner: Runner | None = None
        self.status: StatusCode = ExperimentStatus.SUCCESS

    @property
    def runner(self) -> Runner:
        assert self._runner is not None
        return self._runner

    def succeeded(self) -> bool:
        try:
            with self._signals.raising():
                self.status = self._prepare()
        except (ConfigError, UnknownEnvError) as exc:
            self._fail(EXIT_CODE_BAD_CONFIG, str(exc))
        except CheckpointError as exc:
            cause, _, explanation = str(exc).partition("\n")
            if explanation:
                log.error(explanation)
            self._fail(ExperimentStatus.FAILURE, cause)
        except ExperimentInUseError as exc:
            log.error(exc)
            self.status = ExperimentStatus.FAILURE  # the result in that folder is another run's
        except TerminationRequested:
            self._fail(self._signals.status(), f"{self._signals.describe()} before training started")
        except Exception as exc:
            log.error(f"The run could not be started:\n{traceback.format_exc()}")
            self._fail(ExperimentStatus.FAILURE, f"{type(exc).__name__}: {exc}")
        return self.status == ExperimentStatus.SUCCESS

    def _prepare(self) -> StatusCode:
        claim_semaphore_names()
        removed = remove_stale_names()
        if removed:
            log.info(f"Removed {len(removed)} names that killed runs left in shared memory")
        self._cfg, self._runner = make_runner(self._cfg)
        raise_soft_limits()
        start_servers()
        self._runner.use_signals(self._signals)
        status = self._runner.init()
        self._signals.warn_if_sigint_is_ignored()
        return status

    def _fail(self, status: StatusCode, cause: str) -> None:
        self.status = status
        if self._runner is not None:
            self._runner.abort(cause, status)
            return
        directory = Path(experiment_dir(self._cfg, mkdir=False))
        if is_held_by_this_process(directory):
            RunResult.of_failed_start(status, cause).write(directory)
        log.error(f"Run ended with exit code {status}: {cause}")


if __name__ == "__main__":
    raise SystemExit(
        "Nothing was trained: this module is imported by scripts such as `python -m sf_examples.train_gym_env`"
    )
