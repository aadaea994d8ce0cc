"""``result.json``: how a run ended, for scripts and schedulers."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from sample_factory.utils.typing import PolicyID, StatusCode

if TYPE_CHECKING:
    from sample_factory.algo.runners.runner import Runner

RESULT_FILE = "result.json"


@dataclass(frozen=True)
class RunResult:
    """``cause`` says in words why the run ended; ``env_steps`` are the learners' counters at that time."""

    exit_code: StatusCode
    cause: str
    env_steps: dict[PolicyID, int]
    reward: dict[PolicyID, float | None]

    @classmethod
    def of(cls, runner: Runner) -> RunResult:
        policies = range(runner.cfg.num_policies)
        reward = {policy_id: runner.metrics.mean("reward", policy_id) for policy_id in policies}
        return cls(runner.status, runner.stop_cause, dict(runner.env_steps), reward)

    def write(self, directory: str) -> None:
        temporary = os.path.join(directory, f".{RESULT_FILE}.tmp")
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(asdict(self), file, indent=2)
        os.replace(temporary, os.path.join(directory, RESULT_FILE))
