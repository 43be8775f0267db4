"""The README says what was measured: its comparison is drawn from the stored result, its commands exist."""

from __future__ import annotations

import json
import re
from pathlib import Path

from normkit.report.markdown import answer_table

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def between(marker: str) -> str:
    found = re.search(f"<!-- {marker}:start -->\n(.*?)<!-- {marker}:end -->", README, re.DOTALL)
    assert found is not None, f"README.md has no part marked {marker}"
    return found[1].strip()


def test_the_comparison_is_the_stored_one() -> None:
    result = json.loads((ROOT / "benchmarks" / "comparison.json").read_text(encoding="utf-8"))
    assert between("comparison") == answer_table(result)


def test_the_two_commands_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"^make (\w+)", README, re.MULTILINE)) == {"compare", "test"} <= targets


def test_linked_files_exist() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
