"""Weights & Biases: the rows of ``logs.csv``. Imported only if there is a key; its problems never stop a run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sample_factory.ued.config.nested import Config
from sample_factory.ued.runs.meta import masked
from sample_factory.utils.logging import log


class WandbLog:
    """Sends rows; does nothing without ``--wandb_api_key``."""

    def __init__(self, config: Config, directory: Path) -> None:
        self._run: Any = None
        if config.wandb_args.api_key is None:
            return
        try:
            self._run = _start(config, directory)
        except Exception as exc:  # whatever the tracker's problem is, it must not cost the training
            log.warning("Could not set up Weights and Biases, going on without it: %r", exc)

    def write(self, tick: int, row: Mapping[str, Any]) -> None:
        if self._run is None:
            return
        try:
            self._run.log({name: value for name, value in row.items() if value is not None}, step=tick)
        except Exception as exc:
            log.warning("Weights and Biases does not take rows any more, going on without it: %r", exc)
            self._run = None

    def close(self) -> None:
        if self._run is None:
            return
        try:
            self._run.finish()
        except Exception as exc:
            log.warning("Could not finish the Weights and Biases run: %r", exc)


def _start(config: Config, directory: Path) -> Any:
    import wandb

    args = config.wandb_args
    wandb.login(key=args.api_key, host=args.base_url)
    return wandb.init(
        id=re.sub(r"[/\\#?%:]", "_", config.xpid) if config.from_last_checkpoint else None,
        resume="allow" if config.from_last_checkpoint else None,
        name=config.xpid,
        group=args.group,
        project=args.project,
        entity=args.entity,
        config=masked(config),
        dir=str(directory),
    )
