"""Output that is full, closed at the other end, or ASCII only: no traceback, the right exit code, nothing lost."""

from __future__ import annotations

import importlib
import io
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from normkit.cli import main
from normkit.cli.streams import Forgiving
from report.example import example_comparison

needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")


@pytest.fixture(autouse=True)
def _answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty folder, with the example for an answer and one snapshot on the way."""
    comparison = example_comparison()
    done = tuple(cell for cell in comparison.cells if all(score.status != "failed" for score in cell.scores))

    def compare(*_: object, on_progress: Any, **__: object) -> Any:
        from normkit.lab import Progress

        on_progress(Progress(1, 2, 1, ("x · y",), {}, 1.0, None))
        on_progress(Progress(2, 2, 1, (), {}, 1.0, None, "tuning"))
        return replace(comparison, cells=done)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importlib.import_module("normkit.lab.compare"), "compare", compare)


def compare(*options: str) -> int:
    return main(["compare", *options])


@needs_full
@pytest.mark.parametrize("options", [["--no-progress"], ["--no-progress", "--json"]], ids=["text", "json"])
def test_a_full_output_is_one_line_and_1_and_the_report_is_written(
    options: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert compare(*options) == 1
    assert capsys.readouterr().err == (
        "normkit: standard output could not be written (No space left on device); run the same command again.\n"
    )
    assert Path("out/report.html").exists()


@needs_full
def test_a_full_output_leaves_nothing_for_python_to_complain_about_at_the_end() -> None:
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", "normkit", "compare", "--budget", "0", "--no-progress"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "normkit: standard output could not be written (No space left on device); run the same command again."
    ]


def test_a_reader_that_is_gone_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w", encoding="utf-8") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert compare("--no-progress") == 0
    assert capsys.readouterr().err == ""
    assert Path("out/report.html").exists()


@needs_full
def test_a_full_standard_error_does_not_matter(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stderr", full)
        assert compare() == 0
    assert "Report  out/report.html" in capsys.readouterr().out


def test_closed_streams_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert compare() == 0
    assert Path("out/report.html").exists()


def test_ascii_gets_signs_that_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    written = {name: io.BytesIO() for name in ("stdout", "stderr")}
    for name, file in written.items():
        monkeypatch.setattr(sys, name, io.TextIOWrapper(file, encoding="ascii"))
    assert compare() == 0
    out, err = (file.getvalue().decode("ascii") for file in written.values())
    assert "~0.0" in out
    assert "2 of 2 runs (1 found finished) - tuning\n" in err


def test_a_forgiving_stream_is_in_all_else_the_stream() -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    assert (Forgiving(file).encoding, Forgiving(file).isatty()) == ("ascii", False)
