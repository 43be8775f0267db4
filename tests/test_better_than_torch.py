"""Each row of the README's table: torch's own layer fails it, ours passes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import better_than_torch
import normkit
from better_than_torch import ROWS, Row


# jvp of torch's own batch norm compiles its decomposition with torch.jit.script.
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.what)
def test_torch_fails_and_ours_passes(row: Row) -> None:
    ours, theirs = row.measure(normkit.nn), row.measure(torch.nn)
    assert ours.right, f"{row.what}: expected {row.rule}, got {ours.words}"
    assert not theirs.right, f"{row.what}: torch does it too now: {theirs.words}; the README no longer holds"


def test_the_readme_has_every_row() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    start, end = (readme.index(f"<!-- better-than-torch:{edge} -->") for edge in ("start", "end"))
    shown = [line.split("|")[1].strip() for line in readme[start:end].splitlines() if line.startswith("| ")]
    assert shown == ["", *(row.what for row in better_than_torch.ROWS)]
