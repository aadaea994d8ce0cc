"""Weights & Biases: mirrors the TensorBoard summaries. A tracker problem never stops the training."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from argparse import Namespace
from collections.abc import Callable
from datetime import datetime
from typing import Any

from sample_factory.utils.logging import log
from sample_factory.utils.paths import wandb_dir
from sample_factory.utils.retry import retry
from sample_factory.utils.typing import Config

STEP_METRIC = "train/env_steps"
METRIC_GROUPS = ("train", "perf", "len", "policy_stats", "reward", "stats")
NUM_RETRIES = 3
INIT_TIMEOUT_SEC = 30
# All attempts together, whatever the client does with its own limits.
SETUP_DEADLINE_SEC = 120.0
FINISH_DEADLINE_SEC = 60.0


def init_wandb(cfg: Config) -> None:
    """Start (or continue) the W&B run of the experiment; call before the summary writers are created.

    Does nothing without `cfg.with_wandb`. Stores the identity of the run in `cfg.wandb_unique_id`, so a resumed
    training continues the same W&B run. If the server cannot be used, the run is recorded offline (`wandb sync`
    uploads it later); if that fails or takes longer than `SETUP_DEADLINE_SEC`, the training goes on without it.
    """
    if not getattr(cfg, "with_wandb", False):
        return
    if not getattr(cfg, "wandb_unique_id", None):
        name = re.sub(r"[/\\#?%:]", "_", cfg.experiment)  # characters that a W&B run id must not contain
        cfg.wandb_unique_id = f"{name}_{datetime.now():%Y%m%d_%H%M%S_%f}"

    try:
        import wandb
    except ImportError:
        log.warning("--with_wandb=True, but wandb is not installed (pip install wandb): going on without it")
        return

    log.debug("Weights and Biases integration enabled, run id %s", cfg.wandb_unique_id)
    problem = _within(SETUP_DEADLINE_SEC, lambda: _set_up(wandb, cfg))
    if problem is not None:
        log.warning("Could not set up Weights and Biases, going on without it: %s", problem)


def _set_up(wandb: Any, cfg: Config) -> None:
    run = _start_run_with_fallback(wandb, cfg)
    if getattr(run, "offline", False):  # the client's own settings may say so
        log.info("Weights and Biases records offline in %s (upload with `wandb sync`)", cfg.wandb_dir)
    run.config.update(_config_entries(cfg), allow_val_change=True)
    run.define_metric(STEP_METRIC)
    for group in METRIC_GROUPS:
        run.define_metric(f"{group}/*", step_metric=STEP_METRIC)


def finish_wandb(cfg: Config, exit_code: int = 0) -> None:
    """Close the W&B run and upload what is left; problems are logged only. A run that failed is marked as such."""
    if not getattr(cfg, "with_wandb", False):
        return
    problem = _within(FINISH_DEADLINE_SEC, lambda: _finish(exit_code))
    if problem is not None:
        log.warning("Could not finish the Weights and Biases run: %s", problem)


def _finish(exit_code: int) -> None:
    import wandb

    if wandb.run is not None:
        wandb.run.finish(exit_code=exit_code)


def _within(seconds: float, work: Callable[[], None]) -> str | None:
    """Do it in a thread that nobody waits for longer than this; returns the problem, if there was one.

    Whatever the tracker's problem is, it must not cost the training.
    """
    problems: list[str] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as exc:
            problems.append(repr(exc))

    thread = threading.Thread(target=guarded, name="wandb_deadline", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        return f"no answer within {seconds:g} seconds"
    return problems[0] if problems else None


def _requested_mode() -> str:
    return os.environ.get("WANDB_MODE", "online")


class _UnreachableError(Exception):
    """The client has tried long enough by itself."""


def _start_run_with_fallback(wandb: Any, cfg: Config) -> Any:
    # A missing login cannot be repaired by waiting, so only problems of communication are worth another attempt, and
    # only quick ones: there must be time left to record offline.
    temporary = (wandb.errors.CommError, ConnectionError, TimeoutError)
    last_attempt_at = time.monotonic() + INIT_TIMEOUT_SEC

    def connect_to_wandb() -> Any:
        try:
            return _start_run(wandb, cfg, None)
        except temporary as exc:
            if time.monotonic() < last_attempt_at:
                raise
            raise _UnreachableError(exc) from exc

    try:
        return retry(NUM_RETRIES, temporary)(connect_to_wandb)()
    except Exception as exc:
        if _requested_mode() != "online":
            raise
        log.warning("Weights and Biases cannot be reached, recording offline (upload with `wandb sync`): %r", exc)
        return _start_run(wandb, cfg, "offline")


def _start_run(wandb: Any, cfg: Config, mode: str | None) -> Any:
    try:
        return _init(wandb, cfg, mode)
    except Exception:
        # The client's service keeps the id of a run that could not be started: it would be refused from now on.
        with contextlib.suppress(Exception):
            wandb.teardown()
        raise


def _init(wandb: Any, cfg: Config, mode: str | None) -> Any:
    return wandb.init(
        project=cfg.wandb_project,
        entity=cfg.wandb_user,
        sync_tensorboard=True,
        id=cfg.wandb_unique_id,
        name=cfg.wandb_unique_id,
        group=cfg.wandb_group or cfg.env,
        job_type=cfg.wandb_job_type,
        tags=cfg.wandb_tags,
        resume="allow",
        dir=wandb_dir(cfg),
        mode=mode,
        settings=wandb.Settings(init_timeout=INIT_TIMEOUT_SEC),
    )


def _config_entries(cfg: Config) -> dict[str, Any]:
    return dict(vars(cfg)) if isinstance(cfg, Namespace) else dict(cfg)
