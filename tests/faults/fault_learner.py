"""A learner that breaks on request: ``LEARNER_FAULT=kind:n``, kind ``raise`` or ``nan``, from its n-th update on.

Train on it with ``--env=fault_learner --env_module=tests.faults.fault_learner``: every process that knows the
environment imports this module.
"""

from __future__ import annotations

import os
from typing import Any

from sample_factory.algo.learning.learner import Learner
from sample_factory.envs.env_utils import register_env
from tests.integration.fault_env import FaultEnv

_kind, _, _first = os.environ.get("LEARNER_FAULT", "none:0").partition(":")
_num_updates = 0
_calculate_losses = Learner._calculate_losses


def faulty_losses(self: Learner, mb: Any, num_invalids: int) -> Any:
    global _num_updates
    _num_updates += 1
    result = _calculate_losses(self, mb, num_invalids)
    if _num_updates < int(_first):
        return result
    if _kind == "raise":
        raise MemoryError("the learner broke in its update")
    distribution, policy_loss, *others = result
    return distribution, policy_loss * float("nan"), *others


if _kind != "none":
    Learner._calculate_losses = faulty_losses  # type: ignore[method-assign]


def make_env(full_env_name, cfg=None, env_config=None, render_mode=None):
    return FaultEnv(env_config)


register_env("fault_learner", make_env)
