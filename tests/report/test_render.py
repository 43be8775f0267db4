"""The file that is written: whole, offline, safe, the same each time."""

from __future__ import annotations

import json
import math
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from normkit.errors import MissingExtraError
from normkit.lab.comparison import Comparison
from normkit.lab.export import export_records
from normkit.report import write_report
from normkit.report.page import embedded
from normkit.report.render import render
from report.example import HOSTILE_NAME, example_comparison

COMPARISON = example_comparison()


class Page(HTMLParser):
    """The elements of a page, and the text of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        in_script = self.elements and self.elements[-1][0] == "script"
        (self.scripts if in_script else self.words).append(data)


@pytest.fixture(scope="module")
def text() -> str:
    return render(COMPARISON)


@pytest.fixture(scope="module")
def parsed(text: str) -> Page:
    return Page(text)


def test_the_same_comparison_gives_the_same_text(text: str) -> None:
    assert render(example_comparison()) == text


def test_nothing_is_fetched(text: str, parsed: Page) -> None:
    for tag, attributes in parsed.elements:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            value = attributes.get(name) or ""
            assert value.startswith(("#", "data:")) or not value, f"<{tag} {name}={value!r}>"
    policy = next(a["content"] for t, a in parsed.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "http" not in policy
    assert "url(" not in re.sub(r"<script>.*?</script>", "", text, flags=re.S)
    assert "@import" not in text.partition("</style>")[0]


def test_plotly_is_there_once(text: str) -> None:
    assert text.count("plotly.js v") == 1


def test_the_answer_comes_first(text: str) -> None:
    places = [text.index(f'id="{name}"') for name in ("answer", "matrix-section", "batch-size", "learning-rate")]
    places += [text.index(f'id="{name}"') for name in ("curves", "statistics", "time", "numbers", "method", "records")]
    assert places == sorted(places)
    assert text.index("<h1>RMSNorm is best or tied for best in 7 of 12 rows.</h1>") < places[0]


def test_headings_tables_and_figures_are_marked_up(parsed: Page) -> None:
    tags = [tag for tag, _ in parsed.elements]
    assert tags.count("h1") == 1
    assert all(attributes.get("scope") for tag, attributes in parsed.elements if tag == "th")
    canvases = [attributes for _, attributes in parsed.elements if attributes.get("class") == "canvas"]
    assert canvases
    assert all(canvas["role"] == "img" and canvas["aria-label"] for canvas in canvases)
    ids = [attributes["id"] for _, attributes in parsed.elements if attributes.get("id")]
    assert len(ids) == len(set(ids))


def test_every_reference_inside_the_page_is_met(parsed: Page) -> None:
    ids = {attributes["id"] for _, attributes in parsed.elements if attributes.get("id")}
    for _, attributes in parsed.elements:
        for name in ("aria-labelledby", "aria-controls"):
            assert not attributes.get(name) or attributes[name] in ids
        target = attributes.get("href") or ""
        assert not target.startswith("#") or target[1:] in ids


def test_text_from_outside_stays_text() -> None:
    hostile = example_comparison(rename={"digits-mlp": HOSTILE_NAME})
    hostile = replace(hostile, cut=(HOSTILE_NAME,), provenance={HOSTILE_NAME: HOSTILE_NAME})
    text = render(hostile)
    found = Page(text)
    assert "img" not in [tag for tag, _ in found.elements]
    assert HOSTILE_NAME in "".join(found.words)
    assert text.count("</script>") == render(COMPARISON).count("</script>")
    assert runs_of(found)[0]["task"] == HOSTILE_NAME


def runs_of(found: Page) -> list[dict[str, Any]]:
    runs = json.loads(next(script for script in found.scripts if script.startswith('{"columns"')))
    return [dict(zip(runs["columns"], row, strict=True)) for row in runs["rows"]]


def test_the_runs_are_in_the_page_as_they_would_be_exported(parsed: Page, tmp_path: Path) -> None:
    export_records(COMPARISON.records, tmp_path / "runs.jsonl")
    lines = (tmp_path / "runs.jsonl").read_text(encoding="utf-8").splitlines()
    assert runs_of(parsed) == [json.loads(line) for line in lines]
    assert len(lines) == len(COMPARISON.records)


def test_embedded_json_cannot_end_its_element() -> None:
    value = {"</script>": ["<!--", "&", math.inf, math.nan, 0.1]}
    text = embedded(value)
    assert not set("<>&") & set(text)
    assert json.loads(text) == {"</script>": ["<!--", "&", None, None, 0.1]}


@pytest.mark.parametrize(
    "comparison",
    [
        replace(COMPARISON, records=(), cells=(), interrupted=True),
        replace(COMPARISON, tasks=COMPARISON.tasks[:1], cells=COMPARISON.cells[:1], batch_sizes=(1,)),
        replace(COMPARISON, cut=(), provenance={}),
    ],
    ids=["nothing", "one row", "no provenance"],
)
def test_less_than_a_full_comparison_is_a_page_too(comparison: Comparison) -> None:
    found = Page(render(comparison))
    assert ("Interrupted." in "".join(found.words)) == comparison.interrupted
    assert "h1" in [tag for tag, _ in found.elements]


def test_write_report_makes_the_folder_and_replaces_an_older_page(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    assert write_report(COMPARISON, path) == path
    first = path.read_bytes()
    write_report(example_comparison(interrupted=True), str(path))
    assert path.read_bytes() != first
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match=r'write_report: expected the package jinja2.*"normkit\[lab\]"'):
        write_report(COMPARISON, tmp_path / "report.html")
    assert not list(tmp_path.iterdir())
