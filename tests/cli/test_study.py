"""normkit study: one page, or an error that says why not."""

from __future__ import annotations

from pathlib import Path

import pytest

from normkit.cli import main


def test_it_writes_a_page_and_says_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "new folder" / "page.html"
    assert main(["study", "--out", str(target)]) == 0
    assert str(target) in capsys.readouterr().out
    assert "</html>" in target.read_text(encoding="utf-8")


def test_it_replaces_no_other_kind_of_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "notes.txt"
    target.write_text("mine")
    assert main(["study", "--out", str(target)]) == 2
    assert ".html" in capsys.readouterr().err
    assert target.read_text() == "mine"
