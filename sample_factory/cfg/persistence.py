"""config.json: reading, writing, and merging a saved configuration with a new command line."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sample_factory.cfg.errors import ConfigError
from sample_factory.cfg.experiment_path import experiment_problems
from sample_factory.cfg.flags import FLAGS, training_defaults
from sample_factory.cfg.shadowing import EXTENSIONS, SHADOWED_KEY
from sample_factory.utils.attr_dict import AttrDict
from sample_factory.utils.durable_files import set_aside, write_atomically
from sample_factory.utils.paths import CONFIG_FILE_NAME
from sample_factory.utils.typing import Config
from sample_factory.utils.utils import cfg_file, cfg_file_old, experiment_dir, log

# Facts about one start of the program. They describe the newest start, whatever an older file says.
PROVENANCE_KEYS = ("command_line", "cli_args", "git_hash", "git_repo_name")

# Names of the flags whose value in this configuration is nothing but the default of this machine.
MACHINE_DEFAULTS_KEY = "machine_defaults"

MACHINE_DEPENDENT_FLAGS = tuple(name for name, flag in FLAGS.items() if flag.machine_dependent)
PER_RUN_FLAGS = tuple(name for name, flag in FLAGS.items() if flag.per_run)
LOCATION_FLAGS = ("train_dir", "experiment")


def cfg_dict(cfg: Config) -> AttrDict:
    """The configuration as a new ``AttrDict``."""
    return AttrDict(cfg) if isinstance(cfg, dict) else AttrDict(vars(cfg))


def config_path(cfg: Config) -> Path:
    """Where the configuration of this experiment is stored; creates nothing.

    Raises:
        ConfigError: the experiment name leads outside the train dir.
    """
    problems = experiment_problems(cfg.train_dir, cfg.experiment)
    if problems:
        raise ConfigError(problems)
    return Path(cfg_file(cfg, mkdir=False))


def find_config(cfg: Config) -> Path | None:
    """Path of the saved configuration, or None if there is none. A file with the legacy name is renamed."""
    path = config_path(cfg)
    legacy = Path(cfg_file_old(cfg, mkdir=False))
    if not path.is_file() and legacy.is_file():
        log.warning(f"Renaming configuration file {legacy} to {path}")
        legacy.rename(path)
    return path if path.is_file() else None


def read_or_rebuild_config(cfg: Config) -> AttrDict | None:
    """The saved configuration of an experiment; None if there is none.

    A missing or broken file is rebuilt from the copy inside the newest checkpoint that has one. The broken one is kept
    as ``config.json.corrupt``.

    Raises:
        ConfigError: the file is broken and there is no copy, or the experiment name leads outside the train dir.
    """
    path = find_config(cfg)
    error: ConfigError | None = None
    if path is not None:
        try:
            return read_config(path)
        except ConfigError as exc:
            error = exc
    # Not at the top: it loads torch, which parsing a command line must not.
    from sample_factory.utils.checkpoint_files import saved_configuration

    found = saved_configuration(experiment_dir(cfg, mkdir=False))
    if found is None:
        if error is not None:
            raise error
        return None
    saved, checkpoint = AttrDict(found[0]), found[1]
    log.warning(f"{config_path(cfg)} is {'broken' if error else 'missing'}: rebuilt from the copy in {checkpoint}")
    _repair(config_path(cfg), saved)
    return saved


def require_saved_config(cfg: Config) -> AttrDict:
    """As :func:`read_or_rebuild_config`.

    Raises:
        FileNotFoundError: there is no saved configuration.
    """
    saved = read_or_rebuild_config(cfg)
    if saved is None:
        near = difflib.get_close_matches(cfg.experiment, _experiments_in(Path(cfg.train_dir)), n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else "."
        raise FileNotFoundError(
            f"Could not find the configuration of experiment {cfg.experiment} in {config_path(cfg)}. "
            f"Check --experiment={cfg.experiment} and --train_dir={cfg.train_dir}{hint}"
        )
    return saved


def _experiments_in(train_dir: Path) -> list[str]:
    """Names of the experiments directly in a train dir."""
    return [path.parent.name for path in train_dir.glob(f"*/{CONFIG_FILE_NAME}")]


def _repair(path: Path, saved: AttrDict) -> None:
    try:
        if path.exists():
            set_aside(path, ".corrupt")
        save_config(saved, path)
    except OSError as exc:
        log.warning(f"The rebuilt {path} could not be written, the configuration is used nevertheless: {exc}")


def read_config(path: str | os.PathLike[str]) -> AttrDict:
    """Read a configuration file.

    Raises:
        ConfigError: the file is no JSON object, for example because it was cut off.
    """
    repair = (
        "Repair the file, or replace it by a backup; or delete it and start training with the full command line of "
        "the first run: the checkpoints are still there and training goes on from the newest one."
    )
    try:
        saved = json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError([f"Configuration file {path} is broken ({error}). {repair}"]) from error
    if not isinstance(saved, dict):
        raise ConfigError([f"Configuration file {path} holds no JSON object but a {type(saved).__name__}. {repair}"])
    return AttrDict(saved)


def save_config(cfg: Config, path: str | os.PathLike[str]) -> None:
    """Write the configuration as JSON so that a crash at any moment leaves the old file or the new one.

    Raises:
        ConfigError: a value cannot be stored as JSON.
        OSError: the file cannot be written; an existing one is unchanged.
    """
    text = config_to_json(cfg)
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, text.encode())
    for left_over in target.parent.glob(f".{target.name}.*.tmp"):  # of processes that were killed
        left_over.unlink(missing_ok=True)


def complete_cfg(cfg: Config) -> AttrDict:
    """A copy of the configuration in which missing training flags have their default.

    For configurations that were put together by hand or loaded from a file of Sample Factory 2.
    """
    return AttrDict({**cfg_dict(cfg), **{k: v for k, v in training_defaults().items() if k not in cfg_dict(cfg)}})


def merge_saved(cfg: Config, saved: AttrDict) -> AttrDict:
    """Combine a saved configuration with a new one.

    Command-line values of the new one win over saved values, saved values over new defaults. Facts about one start of
    the program, the place where the file was found, and defaults that depend on the machine come from the new one.
    Flags that the saved file does not know get the value of the new configuration, else their default. Options of the
    script that are called like flags of ours keep their saved value, also if the new program does not know them.
    """
    new = cfg_dict(cfg)
    merged = AttrDict(saved)
    given = new.get("cli_args") or {}
    for key, value in given.items():
        if key in merged and merged[key] != value:
            log.debug(f"Overriding saved {key} {merged[key]} by {value} from the command line")
            merged[key] = value
    shadowed = _merged_shadowed(saved, new)
    if shadowed or SHADOWED_KEY in merged:
        merged[SHADOWED_KEY] = shadowed
    _take_per_run_values(merged, new, shadowed)
    _take_location(merged, new)
    _take_machine_defaults(merged, saved, new, given)
    added = {key: value for key, value in {**training_defaults(), **new}.items() if key not in merged}
    if added:
        pairs = ", ".join(f"{key}={value}" for key, value in added.items())
        log.debug(f"Adding what the saved configuration does not have: {pairs}")
    merged.update(added)
    return merged


def flags_of_script(saved: Mapping[str, Any]) -> set[str]:
    """Entries of a saved configuration that are called like flags of ours, but belong to the script that wrote it.

    Files of Sample Factory 2 do not list them: it has none of these flags, so whatever is called like one is an option
    of a script.
    """
    is_foreign = MACHINE_DEFAULTS_KEY not in saved
    return set(saved.get(SHADOWED_KEY, ())) | {name for name in EXTENSIONS if is_foreign and name in saved}


def _merged_shadowed(saved: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """A flag that the new command line gives to a parser that has it is ours again."""
    given = new.get("cli_args") or {}
    return sorted((flags_of_script(saved) - set(given)) | set(new.get(SHADOWED_KEY, ())))


def _take_per_run_values(merged: AttrDict, new: AttrDict, shadowed: list[str]) -> None:
    for key in PROVENANCE_KEYS:
        if key in new:
            merged[key] = new[key]
    for key in PER_RUN_FLAGS:
        if key in merged and key not in shadowed:
            merged[key] = new.get(key, FLAGS[key].default_value())


def _take_location(merged: AttrDict, new: AttrDict) -> None:
    """Point to the folder where the file was found: the saved one is wrong after a copy or from another folder."""
    if _same_folder(merged, new):
        return
    for key in LOCATION_FLAGS:
        if merged.get(key) != new[key]:
            log.debug(f"The experiment is in {key}={new[key]}, not in {merged.get(key)}")
            merged[key] = new[key]


def _same_folder(a: AttrDict, b: AttrDict) -> bool:
    if not all(isinstance(cfg.get(key), str) for cfg in (a, b) for key in LOCATION_FLAGS):
        return False
    folders = [os.path.realpath(os.path.join(cfg["train_dir"], cfg["experiment"])) for cfg in (a, b)]
    return folders[0] == folders[1]


def _take_machine_defaults(merged: AttrDict, saved: AttrDict, new: AttrDict, given: dict[str, Any]) -> None:
    """A number of CPU cores or a working folder of another time is no choice the user made."""
    frozen = saved.get(MACHINE_DEFAULTS_KEY)
    if frozen is None:
        # Files of Sample Factory 2 do not say; what was not on their command line was a default.
        first_args = saved.get("cli_args") or {}
        frozen = [key for key in MACHINE_DEPENDENT_FLAGS if key not in first_args]
    still_default = [key for key in MACHINE_DEPENDENT_FLAGS if key in frozen and key not in given]
    for key in still_default:
        if key in new:
            merged[key] = new[key]
    merged[MACHINE_DEFAULTS_KEY] = still_default


def config_to_json(cfg: Config) -> str:
    """Text of ``config.json``.

    Raises:
        ConfigError: a value cannot be stored as JSON.
    """
    values = cfg_dict(cfg)
    problems = []
    for key, value in values.items():
        try:
            json.dumps(value, default=_plain_number)
        except (TypeError, ValueError) as error:
            problems.append(
                f"{key}={value!r}: cannot be stored as JSON ({error}); "
                "use numbers, strings, lists and dictionaries, or take it out of the configuration"
            )
    if problems:
        raise ConfigError(problems)
    return json.dumps(dict(values), indent=2, default=_plain_number)


def _plain_number(value: Any) -> Any:
    """numpy scalars as Python numbers, paths as strings."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        return value.item()
    raise TypeError(f"{type(value).__name__} is not JSON")
