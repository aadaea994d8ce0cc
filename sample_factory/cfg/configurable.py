"""Mixin for objects that keep the configuration."""

from __future__ import annotations

from sample_factory.utils.typing import Config


class Configurable:
    """Stores the configuration as ``self.cfg``."""

    def __init__(self, cfg: Config) -> None:
        self.cfg: Config = cfg
