"""Records: written once, read back as they were, and plain about a file that is none."""

from __future__ import annotations

import dataclasses
import getpass
import json
import math
import os
import socket
from pathlib import Path

import pytest

from bench.example import record
from normkit.bench import records
from normkit.bench.records import decode, encode, provenance, read, write
from normkit.errors import BenchError


def test_a_record_comes_back_as_it_was() -> None:
    example = record()
    back = decode(encode(example))
    red, right = back.cells[3], example.cells[3]
    assert math.isnan(red.error_shares.pop("normkit"))
    right.error_shares.pop("normkit")
    assert dataclasses.astuple(back) == dataclasses.astuple(example)
    assert back.cells[0] == example.cells[0]


def test_a_record_is_one_json_object_a_line_the_machine_first() -> None:
    lines = [json.loads(line) for line in encode(record()).splitlines()]
    assert [line["kind"] for line in lines] == ["run", *["cell"] * 5, "overhead", *["model"] * 3, *["recurrent"] * 3]
    assert lines[0]["processor"] == "A processor"
    assert lines[1]["cell"]["workload"]["shape"] == [512, 768]


def test_a_record_is_written_under_its_time_and_never_over_another(tmp_path: Path) -> None:
    path = write(record(), tmp_path / "new")
    assert path.name == "2026-11-20-235958-full.jsonl"
    before = path.read_bytes()
    with pytest.raises(BenchError, match=r"expected to write the record .*free it or choose another folder"):
        write(record(), tmp_path / "new")
    assert path.read_bytes() == before
    assert read(path).overheads == record().overheads


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not json\n",
        '{"kind": "cell"}\n',
        '{"kind": "run", "format": 999}\n',
        '{"kind": "run", "format": 1}\n{"kind": "x"}\n',
    ],
)
def test_a_file_that_is_no_record_is_an_error(text: str, tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BenchError, match=r"expected a record written by `normkit bench --save`, got .*some\.jsonl"):
        read(path)


def test_a_file_that_is_not_there_is_the_same_error(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="FileNotFoundError"):
        read(tmp_path / "none.jsonl")


def test_free_huge_pages_are_counted_in_every_zone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pieces = tmp_path / "buddyinfo"
    monkeypatch.setattr(records, "FREE_PIECES", pieces)
    assert provenance({}, "", {})["free_huge_pages"] is None
    small = " ".join(["7"] * 9)  # pieces of up to 1 MiB
    pieces.write_text(f"Node 0, zone      DMA {small} 1 3\nNode 0, zone   Normal {small} 2 0\n", encoding="ascii")
    assert provenance({}, "", {})["free_huge_pages"] == 1 + 2 * 3 + 2


def test_provenance_says_what_changes_the_numbers_and_names_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "123")
    monkeypatch.setenv("SOMETHING_ELSE", "secret")
    found = provenance({"processor": "A processor"}, "2026-11-20T00:00:00+00:00", {"grid": "quick"})
    assert found["variables"]["MALLOC_TRIM_THRESHOLD_"] == "123"
    assert found["threads"] == 1
    assert found["normkit"]
    assert {"vector_extensions", "huge_pages", "load_before", "options", "started_at", "processor"} <= set(found)
    text = json.dumps(found)
    assert "secret" not in text
    assert os.getcwd() not in text
    assert socket.gethostname() not in text
    assert f'"{getpass.getuser()}"' not in text
