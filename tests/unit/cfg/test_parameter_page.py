"""The committed parameter reference is the generated one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import sample_factory
from sample_factory.cfg.flags import FLAGS
from sample_factory.cfg.flags.docs import PAGE, flags_markdown, main

ROOT = Path(sample_factory.__file__).parent.parent


def test_committed_page_is_up_to_date() -> None:
    committed = (ROOT / PAGE).read_text(encoding="utf-8")
    assert committed == flags_markdown(), "run: python -m sample_factory.cfg.flags.docs --write"


def test_every_flag_has_one_row() -> None:
    rows = [line for line in flags_markdown().splitlines() if line.startswith("| `--")]
    assert [row.split("`")[1] for row in rows] == [f"--{name}" for name in FLAGS]
    assert all(row.replace("\\|", "").count("|") == 6 for row in rows)


def test_page_does_not_depend_on_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = flags_markdown()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "cpu_count", lambda: 4711)
    assert flags_markdown() == before


def test_command_writes_and_prints(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--write"]) == 0
    assert (tmp_path / PAGE).read_text(encoding="utf-8") == flags_markdown()
    assert main([]) == 0
    assert capsys.readouterr().out == flags_markdown()
