"""The parsed configuration: nested dictionaries with attribute access."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Config(dict[str, Any]):
    """``config.eval_args.n_episodes`` is ``config["eval_args"]["n_episodes"]``; what is missing is None."""

    @classmethod
    def of(cls, mapping: Mapping[str, Any]) -> Config:
        """A deep copy of nested mappings."""
        return cls({k: cls.of(v) if isinstance(v, Mapping) else v for k, v in mapping.items()})

    def plain(self) -> dict[str, Any]:
        """A deep copy made of ordinary dictionaries, for files."""
        return {k: v.plain() if isinstance(v, Config) else v for k, v in self.items()}

    def group(self, name: str) -> Config:
        """The group of this name, created empty if it is missing."""
        found = self.setdefault(name, Config())
        assert isinstance(found, Config)
        return found

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # copy and pickle ask for special methods
            raise AttributeError(name)
        return self.get(name)

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value
