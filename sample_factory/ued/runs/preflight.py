"""Wrong flags that only registries, environments or the machine can tell: found before anything is announced."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from sample_factory.cfg.errors import ConfigError
from sample_factory.ued.config.lists import split_names
from sample_factory.ued.config.nested import Config
from sample_factory.ued.envs.registration import registered_ued_envs, suggest
from sample_factory.ued.runs.assembly import device_of


@contextmanager
def as_wrong_flags() -> Iterator[None]:
    """For code that builds what flags describe: its ValueErrors are about flags and become ConfigErrors."""
    try:
        yield
    except ConfigError:
        raise
    except ValueError as exc:
        raise ConfigError([str(exc)]) from exc


def check_run(config: Config) -> None:
    """ConfigError with all names of environments that nobody registered, and a device this machine does not have."""
    module = config.env_module
    hint = f"--env_module={module} registers no other ones" if module else "--env_module imports those of your own"
    named = [("--env_name", config.env_name)]
    named += [("--test_env_names", name) for name in split_names(config.eval_args.env_names)]
    problems = unknown_environments(named, hint)
    try:
        device_of(config)
    except ConfigError as exc:
        problems += exc.problems
    if problems:
        raise ConfigError(problems)


def unknown_environments(named: Iterable[tuple[str, str]], hint: str) -> list[str]:
    """A problem for every pair of flag and name whose name is not registered. ``hint``: where others come from."""
    known = registered_ued_envs()
    return [
        f"{flag}={name}: there is no such environment; {suggest(name, known)} ({hint})"
        for flag, name in named
        if name not in known
    ]
