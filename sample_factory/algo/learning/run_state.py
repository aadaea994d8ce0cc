"""What a checkpoint holds beside model, optimiser and counters, so that a run continues and not only its weights.

All of it is in two keys of their own. Sample Factory 2 ignores them, and its checkpoints do without.

- ``run_state``: the random streams of the learner's process (in serial mode: of all components), the learning rate
  schedule's state if it has one, hyperparameters from population-based training.
- ``cfg``: the configuration as JSON, from which a lost ``config.json`` is rebuilt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sample_factory.algo.utils import random_streams
from sample_factory.utils.utils import log

RUN_STATE_VERSION = 1


def make_run_state(
    seed: int | None, lr_scheduler: Any, hyperparams: Mapping[str, Any] | None, schedule: str
) -> dict[str, Any]:
    """Random streams are kept for runs with a seed only: without one nothing is repeatable anyway."""
    return {
        "version": RUN_STATE_VERSION,
        "seed": seed,
        "random": None if seed is None else random_streams.get_states(),
        "lr_schedule": schedule,
        "lr_scheduler": _state_of(lr_scheduler),
        "hyperparams": None if hyperparams is None else dict(hyperparams),
    }


def restore_random_streams(run_state: Mapping[str, Any] | None, seed: int | None) -> None:
    """Continue the streams, unless a different seed was asked for since."""
    states = (run_state or {}).get("random")
    if states is None or seed is None or (run_state or {}).get("seed") != seed:
        return
    try:
        random_streams.set_states(states)
    except (KeyError, TypeError, ValueError, RuntimeError) as exc:  # written by another version of NumPy or torch
        log.warning(f"The random streams in the checkpoint cannot be continued, they start anew: {exc}")


def restore_lr_scheduler(run_state: Mapping[str, Any] | None, lr_scheduler: Any, schedule: str) -> None:
    """For schedules of other projects; the built-in ones follow from learning rate and environment steps."""
    state = (run_state or {}).get("lr_scheduler")
    load = getattr(lr_scheduler, "load_state_dict", None)
    if state and load is not None and (run_state or {}).get("lr_schedule") == schedule:
        load(state)


def _state_of(lr_scheduler: Any) -> dict[str, Any] | None:
    get = getattr(lr_scheduler, "state_dict", None)
    return None if get is None else dict(get())
