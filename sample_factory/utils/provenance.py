"""Which source code a run was started from: git commit and uncommitted changes.

None of this may stop a run: without git, or outside a repository, the answers say "unknown".
"""

from __future__ import annotations

import os
import subprocess
from os.path import join
from urllib.parse import urlsplit, urlunsplit

from sample_factory.utils.logging import log

GIT_TIMEOUT_SEC = 10
UNKNOWN_HASH = "unknown"
NOT_A_REPOSITORY = "not a git repository"


def git_output(*args: str) -> str | None:
    """Standard output of a git command in the current directory, None if it cannot be had."""
    try:
        done = subprocess.run(
            ["git", *args], capture_output=True, check=True, timeout=GIT_TIMEOUT_SEC, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.SubprocessError):  # no git executable, not a repository, refused, too slow
        return None
    return done.stdout.decode("utf-8", errors="replace")


def git_root() -> str | None:
    """Top folder of the git repository around the current directory, None outside of one."""
    directory = os.getcwd()
    while not os.path.exists(join(directory, ".git")):
        parent = os.path.dirname(directory)
        if parent == directory:
            return None
        directory = parent
    return directory


def get_git_commit_hash() -> tuple[str, str]:
    """`(commit hash, repository name)` of the current directory.

    The name is the address of the remote `origin` without credentials, or the folder's name if there is no remote.
    """
    root = git_root()
    if root is None:
        return UNKNOWN_HASH, NOT_A_REPOSITORY

    commit = git_output("rev-parse", "HEAD")
    if commit is None:
        log.debug("Could not read the git revision in %s (git missing, or no commit yet)", root)
    remote = git_output("config", "--get", "remote.origin.url")
    name = _without_credentials(remote.strip()) if remote else os.path.basename(root)
    return (commit.strip() if commit else UNKNOWN_HASH), name


def _without_credentials(url: str) -> str:
    # The name is written to config.json, which gets shared; a token inside the URL must not be.
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def save_git_diff(directory: str) -> None:
    """Write the output of `git diff` to `<directory>/git.diff`; does nothing outside a git repository."""
    if git_root() is None:
        return
    diff = git_output("diff")
    if diff is None:
        log.debug("Could not save the git diff (git missing or not responding)")
        return
    with open(join(directory, "git.diff"), "w", encoding="utf-8") as file:
        file.write(diff)
