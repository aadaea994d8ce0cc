"""Can the checkpoints of this experiment be continued? Asked in the main process, before any worker exists.

Otherwise every learner process would find out by itself, after the whole machinery has been started.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from sample_factory.algo.learning.checkpoints import CheckpointDict, CheckpointError, CheckpointStore, load_first
from sample_factory.algo.learning.learner import Learner
from sample_factory.algo.learning.persistence import LearnerPersistence, architecture_differences
from sample_factory.algo.runners.runner import AlgoObserver
from sample_factory.algo.utils.env_info import EnvInfo
from sample_factory.cfg.errors import ConfigError
from sample_factory.cfg.flags import ALL_SECTIONS
from sample_factory.cfg.persistence import cfg_dict, config_path
from sample_factory.model.actor_critic import create_actor_critic
from sample_factory.utils.checkpoint_files import CONFIG_KEY, trusting_files
from sample_factory.utils.durable_files import write_atomically
from sample_factory.utils.typing import Config, PolicyID
from sample_factory.utils.utils import log

if TYPE_CHECKING:
    from sample_factory.algo.runners.runner import Runner

_MAX_LISTED = 12
_OTHER_MODEL_FLAGS = ("normalize_input", "normalize_input_keys", "normalize_returns")


class ResumeCheck(AlgoObserver):
    """Raises from ``Runner.init``: CheckpointError if nothing can be read, ConfigError if the model is another one."""

    def __init__(self, cfg: Config) -> None:
        self._config_path = config_path(cfg)
        self._saved_config = _read_if_exists(self._config_path)

    def on_init(self, runner: Runner) -> None:
        assert runner.env_info is not None  # the runner asks the environment before it calls observers
        try:
            check_resume(runner.cfg, runner.env_info)
        except ConfigError:
            # The runner has just stored the flags that do not fit; with them the next start would fail as well.
            if self._saved_config is not None:
                write_atomically(self._config_path, self._saved_config)
            raise


def check_resume(cfg: Config, env_info: EnvInfo) -> None:
    """Raises CheckpointError or ConfigError, see :class:`ResumeCheck`; renames damaged files to ``*.corrupt``."""
    model: torch.nn.Module | None = None
    for policy_id in range(cfg.num_policies):
        checkpoint = _newest_checkpoint(cfg, policy_id)
        # A learner that loads its state in its own way may know what to do with other tensors.
        if checkpoint is None or Learner._load_state is not LearnerPersistence._load_state:
            continue
        if model is None:
            with torch.random.fork_rng(devices=[]):
                model = create_actor_critic(cfg, env_info.obs_space, env_info.action_space)
        differences = architecture_differences(model, checkpoint["model"])
        if differences:
            raise ConfigError([_describe(cfg, policy_id, differences, checkpoint)])


def _newest_checkpoint(cfg: Config, policy_id: PolicyID) -> CheckpointDict | None:
    store = CheckpointStore(Learner.checkpoint_dir(cfg, policy_id), cfg.keep_checkpoints)
    try:
        with trusting_files(cfg.unsafe_load):
            return load_first(
                store.candidates(cfg.load_checkpoint_kind),
                lambda path: Learner.load_checkpoint([path], "cpu"),
                store.set_aside,
            )
    except CheckpointError as exc:
        if cfg.allow_fresh_start:
            return None
        raise type(exc)(
            f"policy {policy_id} cannot be resumed, {exc}\nRestore one of the files, or give --allow_fresh_start=True "
            "to start from zero; nothing was deleted"
        ) from exc


def _describe(cfg: Config, policy_id: PolicyID, differences: list[str], checkpoint: CheckpointDict) -> str:
    hidden = len(differences) - _MAX_LISTED
    lines = [*differences[:_MAX_LISTED], *([f"and {hidden} more"] if hidden > 0 else [])]
    flags = _differing_flags(cfg, checkpoint)
    hint = (
        f"Flags that differ: {', '.join(flags)}."
        if flags
        else "Use the model flags and the environment it was trained with (--use_rnn, --rnn_size, "
        "--encoder_mlp_layers, --normalize_input, --env, ...)."
    )
    return (
        f"the checkpoint of policy {policy_id} belongs to a model with another architecture:\n  "
        + "\n  ".join(lines)
        + f"\n{hint} To start a new model: another --experiment, or --restart_behavior=restart."
    )


def _differing_flags(cfg: Config, checkpoint: CheckpointDict) -> list[str]:
    """Flags that shape the model and had another value when the checkpoint was written."""
    try:
        saved = json.loads(checkpoint[CONFIG_KEY])
    except (KeyError, TypeError, ValueError):  # a checkpoint of Sample Factory 2
        return []
    sections = [section for section in ALL_SECTIONS if section.key in ("model", "environment")]
    names = ["env", *(flag.name for section in sections for flag in section.flags), *_OTHER_MODEL_FLAGS]
    now = cfg_dict(cfg)
    differing = [name for name in names if name in saved and name in now and saved[name] != now[name]]
    return [f"--{name} (checkpoint: {saved[name]}, now: {now[name]})" for name in differing]


def _read_if_exists(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError as exc:
        log.debug(f"No configuration to go back to: {exc}")
        return None
