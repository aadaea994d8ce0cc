"""Can the checkpoints of this experiment be continued? Asked in the main process, before any worker exists.

Otherwise every learner process would find out by itself, after the whole machinery has been started.
"""

from __future__ import annotations

import json

import torch

from sample_factory.algo.learning.checkpoints import CheckpointDict, CheckpointError, CheckpointStore, load_first
from sample_factory.algo.learning.learner import Learner
from sample_factory.algo.learning.persistence import LearnerPersistence, architecture_differences
from sample_factory.algo.utils.env_info import EnvInfo
from sample_factory.cfg.errors import ConfigError
from sample_factory.cfg.flags import ALL_SECTIONS
from sample_factory.cfg.persistence import cfg_dict
from sample_factory.cfg.shadowing import flag_value
from sample_factory.model.actor_critic import create_actor_critic
from sample_factory.utils.checkpoint_files import CONFIG_KEY, trusting_files
from sample_factory.utils.typing import Config, PolicyID

_MAX_LISTED = 12
_OTHER_MODEL_FLAGS = ("normalize_input", "normalize_input_keys", "normalize_returns")


def check_resume(cfg: Config, env_info: EnvInfo) -> None:
    """Renames damaged files to ``*.corrupt``.

    :raises CheckpointError: there are checkpoints and none can be read.
    :raises ConfigError: the model is another one.
    """
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
        with trusting_files(flag_value(cfg, "unsafe_load")):
            return load_first(
                store.candidates(cfg.load_checkpoint_kind),
                lambda path: Learner.load_checkpoint([path], "cpu"),
                store.set_aside,
            )
    except CheckpointError as exc:
        if flag_value(cfg, "allow_fresh_start"):
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
