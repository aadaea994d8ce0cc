"""Writing a file so that a crash, a full disk or a lost folder leaves the old content or the new one, never a part."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time

from sample_factory.utils.logging import log

_TEMP_NAME = re.compile(r"\..+\.\d+\.tmp")


def temporary_name(name: str) -> str:
    """Hidden name beside the file, outside every pattern that readers look for."""
    return f".{name}.{os.getpid()}.tmp"


def is_temporary_name(name: str) -> bool:
    return _TEMP_NAME.fullmatch(name) is not None


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Put ``data`` at ``path``: afterwards the file is complete and on the disk, or (OSError) nothing has changed.

    The data is read back from the file before it takes its name.
    """
    directory, name = os.path.split(os.path.abspath(path))
    temp_path = os.path.join(directory, temporary_name(name))
    try:
        with open(temp_path, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        with open(temp_path, "rb") as file:
            if file.read() != data:
                raise OSError(errno.EIO, "read back differs from what was written", str(path))
        os.replace(temp_path, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(temp_path)
        raise
    sync_directory(directory)


def sync_directory(directory: str | os.PathLike[str]) -> None:
    """Make a rename durable. Some file systems cannot sync folders; the data itself is safe already."""
    with contextlib.suppress(OSError):
        fd = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def set_aside(path: str | os.PathLike[str], suffix: str) -> str | None:
    """Append ``suffix`` (and a number if that is taken) to the name of a file. The new path, None if it failed."""
    path = os.fspath(path)
    target, attempt = path + suffix, 0
    while os.path.exists(target):
        attempt += 1
        target = f"{path}{suffix}{attempt}"
    try:
        os.rename(path, target)
    except OSError as exc:
        log.warning(f"Could not rename {path} to {os.path.basename(target)}: {exc}")
        return None
    log.warning(f"Renamed {path} to {os.path.basename(target)}")
    return target


class FailureLog:
    """One warning when writing begins to fail, one line when it works again, and how long it has been failing."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.num_failures = 0
        self._since: float | None = None

    def failed(self, error: Exception) -> None:
        self.num_failures += 1
        if self._since is None:
            self._since = time.monotonic()
            log.warning(f"{self.what} cannot be written at the moment, will be tried again: {error}")
        else:
            log.debug(f"{self.what} still cannot be written ({self.num_failures} failures): {error}")

    def succeeded(self) -> None:
        if self._since is not None:
            log.info(f"{self.what} can be written again, after {self.num_failures} failures")
        self.num_failures, self._since = 0, None

    @property
    def is_failing(self) -> bool:
        return self._since is not None

    def seconds(self) -> float:
        """Since the first failure in a row; 0 while everything works."""
        return 0.0 if self._since is None else time.monotonic() - self._since
