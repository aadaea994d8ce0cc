"""Configuration files: lists of values per flag, as JSON. The shipped ones are part of the package."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHIPPED_DIR = Path(__file__).parent / "shipped"
_KEYS = ("args", "cmd", "xpid_prefix", "wandb_project")


@dataclass(frozen=True)
class ConfigFile:
    """Content of a configuration file.

    Attributes:
        path: where it was read.
        args: flag -> values to try; flags whose value is ``null`` are in there as None.
        command: ``train``, ``eval`` or ``evaluate``.
        xpid_prefix: put in front of run ids.
        wandb_project: project of Weights & Biases, if the file names one.
    """

    path: Path
    args: dict[str, list[Any]]
    command: str = "train"
    xpid_prefix: str | None = None
    wandb_project: str | None = None

    def single_args(self) -> dict[str, Any]:
        """The values of a file without alternatives, ValueError otherwise. ``null`` values are left out."""
        several = [flag for flag, values in self.args.items() if len(values) != 1]
        if several:
            raise ValueError(
                f"{self.path} lists {len(self.args[several[0]])} values for {several[0]}; print the commands of all "
                "combinations with python -m sample_factory.ued.make_cmd"
            )
        return {flag: values[0] for flag, values in self.args.items() if values[0] is not None}


def shipped_names() -> list[str]:
    """Names of the configurations that come with the package, such as ``maze/dr``."""
    return sorted(str(path.relative_to(SHIPPED_DIR).with_suffix("")) for path in SHIPPED_DIR.rglob("*.json"))


def find_config(name: str, directory: str | Path | None = None) -> Path:
    """File of this name (``.json`` may be left out): in ``directory``, then among the shipped ones.

    Raises ValueError with near matches if there is none.
    """
    file_name = name if name.endswith(".json") else f"{name}.json"
    folders = [Path("." if directory is None else directory).expanduser(), SHIPPED_DIR]
    for folder in folders:
        if (path := folder / file_name).is_file():
            return path
    near = difflib.get_close_matches(name, shipped_names(), n=3, cutoff=0.3)
    raise ValueError(
        f"--config={name}: no {file_name} in {folders[0]} nor among the shipped configurations; "
        f"did you mean {' or '.join(near or shipped_names())}?"
    )


def load_config(path: Path) -> ConfigFile:
    """Read and check a file; ValueError if it is not a configuration."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise ValueError(f"{path} cannot be read as JSON: {exc}") from exc
    if not isinstance(data, dict) or not isinstance(data.get("args"), dict):
        raise ValueError(f'{path}: expected an object with the key "args"')
    unknown = sorted(set(data) - set(_KEYS))
    if unknown:
        raise ValueError(f"{path}: unknown key {unknown[0]!r}; known are {', '.join(_KEYS)}")
    args = dict(data["args"])
    for flag, values in args.items():
        if not isinstance(values, list) or not values:
            raise ValueError(
                f'{path}: the values of {flag} must be a list, for example "{flag}": [{json.dumps(values)}]'
            )
    project = data.get("wandb_project")
    if "wandb_project" in args:
        project = args.pop("wandb_project")[0]
    return ConfigFile(
        path,
        args,
        command=data.get("cmd") or "train",
        xpid_prefix=data.get("xpid_prefix"),
        wandb_project=project,
    )


def as_text(value: Any) -> str:
    """A value of a file as text behind ``--flag=``; surrounding double quotes are removed."""
    text = str(value)
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text
