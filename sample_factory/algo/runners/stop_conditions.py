"""When a run has done what it was asked to do."""

from __future__ import annotations

from collections.abc import Mapping

from sample_factory.utils.typing import Config, PolicyID


def reason_to_stop(cfg: Config, env_steps: Mapping[PolicyID, int], train_seconds: float) -> str | None:
    """Why training is complete, or None: every policy has its env steps, or the time is over."""
    if train_seconds >= cfg.train_for_seconds:
        return f"trained for {train_seconds:.1f} seconds (--train_for_seconds={cfg.train_for_seconds})"
    if len(env_steps) == cfg.num_policies and all(steps > cfg.train_for_env_steps for steps in env_steps.values()):
        return f"all policies reached --train_for_env_steps={cfg.train_for_env_steps}"
    return None
