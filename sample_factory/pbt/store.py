"""Files of a population: parameters and reward shaping of every policy, and the progress of the schedule.

All writes are atomic. A crash leaves the previous file, never a half-written one.
"""

from __future__ import annotations

import json
import time
from os.path import join
from typing import Any

from sample_factory.utils.checkpoint_files import RUN_STATE_KEY, by_progress, list_checkpoints, peek
from sample_factory.utils.durable_files import FailureLog, write_atomically
from sample_factory.utils.typing import Config, PolicyID
from sample_factory.utils.utils import experiment_dir

PBT_STATE_VERSION = 1
RETRY_SEC = 10.0


def policy_cfg_file(cfg: Config, policy_id: PolicyID) -> str:
    """Path of the tuned hyperparameters of one policy."""
    return join(experiment_dir(cfg), f"policy_{policy_id:02d}_cfg.json")


def policy_reward_shaping_file(cfg: Config, policy_id: PolicyID) -> str:
    """Path of the reward shaping scheme of one policy (`null` if the environment has none)."""
    return join(experiment_dir(cfg), f"policy_{policy_id:02d}_reward_shaping.json")


def pbt_state_file(cfg: Config) -> str:
    """Path of the schedule: env steps of the last update of every policy and the state of the random stream."""
    return join(experiment_dir(cfg), "pbt_state.json")


class JsonFiles:
    """Writes files of the population. What a full disk or a lost folder does not take is tried again later."""

    def __init__(self) -> None:
        self._pending: dict[str, bytes] = {}
        self._failures = FailureLog("Files of the population")
        self._retry_at = 0.0

    def write(self, path: str, content: Any) -> None:
        """Replace `path` in one step: readers see the old or the new content, whatever happens in between.

        OSError is not raised: the newest content is written as soon as possible.
        """
        self._pending[path] = _to_bytes(content)
        self._write_pending()

    def retry(self) -> None:
        """Call it now and then."""
        if self._pending and time.monotonic() >= self._retry_at:
            self._write_pending()

    def _write_pending(self) -> None:
        try:
            for path in list(self._pending):
                write_atomically(path, self._pending[path])
                del self._pending[path]
        except OSError as exc:
            self._failures.failed(exc)
            self._retry_at = time.monotonic() + RETRY_SEC
        else:
            self._failures.succeeded()


def hyperparams_in_checkpoint(cfg: Config, policy_id: PolicyID) -> dict[str, Any] | None:
    """Copy of the tuned hyperparameters in the newest checkpoint of the policy; None if there is none."""
    folder = join(experiment_dir(cfg, mkdir=False), f"checkpoint_p{policy_id}")
    for path in by_progress(list_checkpoints(folder))[::-1]:
        run_state = (peek(path) or {}).get(RUN_STATE_KEY) or {}
        if run_state.get("hyperparams"):
            return dict(run_state["hyperparams"])
    return None


def _to_bytes(content: Any) -> bytes:
    return json.dumps(content, default=_plain_number).encode()


def read_json(path: str) -> Any:
    """Content of a file written by :class:`JsonFiles` (or by the original).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged.
    """
    with open(path, encoding="utf-8") as file:
        try:
            return json.load(file)
        except ValueError as exc:
            raise ValueError(
                f"The PBT file {path} is damaged ({exc}); restore it, or delete it to start this policy's "
                "parameters from the configuration again"
            ) from exc


def read_json_dict(path: str) -> dict[str, Any]:
    """As :func:`read_json`, for files that must hold an object."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(
            f"The PBT file {path} holds {type(content).__name__} instead of an object; restore or delete it"
        )
    return content


def _plain_number(value: Any) -> Any:
    """NumPy scalars appear in reward schemes; JSON knows only Python numbers."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{value!r} cannot be stored as JSON")
