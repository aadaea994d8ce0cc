"""The reference page is that of the tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from sample_factory.ued.config import docs
from sample_factory.ued.config.tables import BUILT_IN_GROUPS

ROOT = Path(__file__).resolve().parents[4]


def test_page_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert docs.main([]) == 0
    printed = capsys.readouterr().out
    assert (ROOT / docs.PAGE).read_text() == printed
    for group in BUILT_IN_GROUPS:
        for flag in group.flags:
            assert f"| `--{flag.name}` |" in printed


def test_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert docs.main(["--write"]) == 0
    assert docs.PAGE.read_text() == docs.flags_markdown()
