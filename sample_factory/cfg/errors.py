"""The error of a configuration that cannot be used."""

from __future__ import annotations

from collections.abc import Sequence


class ConfigError(ValueError):
    """One or more configuration values cannot be used; ``problems`` names each with its repair."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems: list[str] = list(problems)

    def __reduce__(self) -> tuple[type[ConfigError], tuple[list[str]]]:
        # The default would hand the joined message back as the list of problems.
        return type(self), (self.problems,)
