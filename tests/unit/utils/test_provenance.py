from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from sample_factory.utils.utils import get_git_commit_hash, git_root, save_git_diff


def git(*args: str) -> str:
    return subprocess.run(
        ["git", "-c", "user.name=n", "-c", "user.email=e@e", *args], check=True, capture_output=True, text=True
    ).stdout


@pytest.fixture
def repository(tmp_path: Path, monkeypatch) -> Path:
    root = tmp_path / "my_repo"
    (root / "sub").mkdir(parents=True)
    monkeypatch.chdir(root / "sub")
    git("init", "-q", str(root))
    (root / "file.txt").write_text("old\n")
    git("add", str(root / "file.txt"))
    git("commit", "-q", "-m", "first")
    return root


def test_commit_and_remote(repository: Path):
    git("remote", "add", "origin", "https://user:secret@example.com/a/b.git")
    assert get_git_commit_hash() == (git("rev-parse", "HEAD").strip(), "https://example.com/a/b.git")
    assert git_root() == str(repository)


def test_q46_a_repository_without_remote_is_named_after_its_folder(repository: Path):
    assert get_git_commit_hash() == (git("rev-parse", "HEAD").strip(), "my_repo")


def test_q46_missing_git_executable_is_no_error(repository: Path, monkeypatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path / "nothing_here"))
    assert get_git_commit_hash() == ("unknown", "my_repo")
    save_git_diff(str(tmp_path))
    assert not (tmp_path / "git.diff").exists()


def test_outside_of_a_repository(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert git_root() is None
    assert get_git_commit_hash() == ("unknown", "not a git repository")
    save_git_diff(str(tmp_path))
    assert not (tmp_path / "git.diff").exists()


def test_diff_is_saved(repository: Path, tmp_path: Path):
    (repository / "file.txt").write_text("new\n")
    save_git_diff(str(tmp_path))
    diff = (tmp_path / "git.diff").read_text()
    assert "-old" in diff and "+new" in diff
