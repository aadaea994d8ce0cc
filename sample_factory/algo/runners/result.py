"""``result.json``: how a run ended, for scripts and schedulers.

The file exists from the moment a run has its folder. While the run is active, ``exit_code`` is null; if the process it
names is gone and that is still so, the run was killed or the machine went down.
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sample_factory.utils.typing import PolicyID, StatusCode
from sample_factory.utils.utils import log

if TYPE_CHECKING:
    from sample_factory.algo.runners.runner import Runner

RESULT_FILE = "result.json"


@dataclass(frozen=True)
class RunResult:
    """``cause`` says in words why the run ended; ``env_steps`` are the learners' counters at that time; ``faults``
    counts what went wrong without ending the run.
    """

    exit_code: StatusCode | None
    cause: str
    env_steps: dict[PolicyID, int]
    reward: dict[PolicyID, float | None]
    faults: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, runner: Runner) -> RunResult:
        policies = range(runner.cfg.num_policies)
        reward = {policy_id: runner.metrics.mean("reward", policy_id) for policy_id in policies}
        return cls(
            runner.status, runner.stop_cause, dict(sorted(runner.env_steps.items())), reward, dict(runner.faults)
        )

    @classmethod
    def of_active_run(cls) -> RunResult:
        where = f"host {socket.gethostname()}, pid {os.getpid()}"
        return cls(None, f"running on {where}; was killed if there is no such process", {}, {})

    @classmethod
    def of_failed_start(cls, exit_code: StatusCode, cause: str) -> RunResult:
        return cls(exit_code, cause, {}, {})

    def write(self, directory: str | os.PathLike[str]) -> None:
        """A folder that cannot be written to does not change how the run ends: the log and the exit code remain."""
        temporary = os.path.join(directory, f".{RESULT_FILE}.tmp")
        try:
            with open(temporary, "w", encoding="utf-8") as file:
                json.dump(asdict(self), file, indent=2)
            os.replace(temporary, os.path.join(directory, RESULT_FILE))
        except OSError as exc:
            log.error(f"Could not write {RESULT_FILE}: {exc}")


def read_result(directory: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Content of ``result.json``; None if there is none that can be read."""
    try:
        result = json.loads(Path(directory, RESULT_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return result if isinstance(result, dict) else None
