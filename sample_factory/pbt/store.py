"""Files of a population: parameters and reward shaping of every policy, and the progress of the schedule.

All writes are atomic. A crash leaves the previous file, never a half-written one.
"""

from __future__ import annotations

import json
import os
from os.path import basename, dirname, isfile, join
from typing import Any

from sample_factory.utils.typing import Config, PolicyID
from sample_factory.utils.utils import experiment_dir

PBT_STATE_VERSION = 1


def policy_cfg_file(cfg: Config, policy_id: PolicyID) -> str:
    """Path of the tuned hyperparameters of one policy."""
    return join(experiment_dir(cfg), f"policy_{policy_id:02d}_cfg.json")


def policy_reward_shaping_file(cfg: Config, policy_id: PolicyID) -> str:
    """Path of the reward shaping scheme of one policy (`null` if the environment has none)."""
    return join(experiment_dir(cfg), f"policy_{policy_id:02d}_reward_shaping.json")


def pbt_state_file(cfg: Config) -> str:
    """Path of the schedule: env steps of the last update of every policy and the state of the random stream."""
    return join(experiment_dir(cfg), "pbt_state.json")


def write_json(path: str, content: Any) -> None:
    """Replace `path` in one step: readers see the old or the new content, whatever happens in between."""
    # The leading dot keeps an orphan of a crash outside the pattern `policy_*`.
    temp_path = join(dirname(path), f".{basename(path)}.{os.getpid()}.tmp")
    try:
        with open(temp_path, "w", encoding="utf-8") as file:
            json.dump(content, file, default=_plain_number)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temp_path, path)
    finally:
        if isfile(temp_path):
            os.remove(temp_path)


def read_json(path: str) -> Any:
    """Content of a file written by :func:`write_json` (or by the original).

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
