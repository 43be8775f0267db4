"""The page in a real browser: it draws, stays offline, stays safe, can be read and used everywhere."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from browser import DIM_TEXT, MARKS, Visit, overflow, visit, wait_until
from normkit.lab.comparison import Comparison
from normkit.lab.export import export_records
from normkit.report import write_report
from report.example import HOSTILE_NAME, example_comparison


def two_tasks() -> Comparison:
    """Enough for every kind of figure; fewer figures, fewer seconds."""
    whole = example_comparison(rename={"digits-mlp": HOSTILE_NAME})
    names = (HOSTILE_NAME, "digits-lstm")
    return replace(
        whole,
        tasks=tuple(task for task in whole.tasks if task.name in names),
        cells=tuple(cell for cell in whole.cells if cell.task in names),
        records=tuple(record for record in whole.records if record.spec.task in names),
    )


COMPARISON = two_tasks()

pytestmark = MARKS

# Draws what a reader who scrolls through everything and picks each task would see drawn.
VISIT = """async () => {
  const drawn = {};
  const see = async (canvas) => {
    canvas.scrollIntoView({ block: "center", behavior: "instant" });
    const svg = () => canvas.querySelector(".main-svg");
    for (let turn = 0; turn < 250 && !svg(); turn++) await new Promise((done) => setTimeout(done, 20));
    drawn[canvas.id] = svg() ? [svg().clientWidth, svg().clientHeight] : [0, 0];
  };
  for (const tab of document.querySelectorAll("#learning-rate [role=tab]")) {
    tab.click();
    for (const canvas of document.querySelectorAll(".canvas")) {
      if (canvas.offsetParent && !drawn[canvas.id]) await see(canvas);
    }
  }
  return drawn;
}"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(COMPARISON, tmp_path_factory.mktemp("report") / "report.html").as_uri()


@pytest.fixture(scope="module")
def phone(browser: Browser, address: str) -> Iterator[Visit]:
    found = visit(
        browser, address, viewport={"width": 390, "height": 844}, color_scheme="dark", reduced_motion="reduce"
    )
    yield found
    found.page.context.close()


def read_csv(path: Path) -> list[dict[str, str | float]]:
    """The rows; numbers as numbers, for 0.00001 and 1e-05 are the same."""

    def value(text: str) -> str | float:
        try:
            return float(text)
        except ValueError:
            return text

    with path.open(encoding="utf-8", newline="") as file:
        return [{name: value(text) for name, text in row.items()} for row in csv.DictReader(file)]


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


READERS: dict[str, Callable[[Path], object]] = {"csv": read_csv, "jsonl": read_jsonl}


def test_every_figure_is_drawn_without_an_error_or_a_request(desk: Visit, address: str) -> None:
    drawn = desk.page.evaluate(VISIT)
    assert len(drawn) == desk.page.locator(".canvas").count() == 19
    assert {name: size for name, size in drawn.items() if min(size) < 200} == {}
    assert desk.errors == []
    assert [url for url in desk.requests if url != address and not url.startswith(("data:", "blob:"))] == []


def test_a_hostile_name_stays_text(desk: Visit) -> None:
    page = desk.page
    assert page.locator("img").count() == 0
    assert HOSTILE_NAME in page.locator(".verdict").inner_text()
    assert page.get_by_role("tab", name=HOSTILE_NAME, exact=True).count() == 2
    labels = page.locator("#matrix .annotation-text").all_text_contents()
    assert labels[0] == HOSTILE_NAME
    assert desk.errors == []


def test_wide_screens_have_no_sideways_scrolling(desk: Visit) -> None:
    assert overflow(desk.page) <= 0


_IS_DRAWN = "document.querySelector('#score-1 .xtick text') !== null"


def _bring_into_view(page: Page) -> None:
    """A figure is drawn when it comes into view, which takes its time, and again when the scheme changes."""
    page.locator("#score-1").scroll_into_view_if_needed()
    wait_until(page, _IS_DRAWN)


def test_the_legend_hides_a_norm_in_every_figure_and_brings_it_back(desk: Visit) -> None:
    page = desk.page
    _bring_into_view(page)
    button = page.get_by_role("button", name="batch", exact=True)
    count = "() => document.getElementById('score-1').data.filter((t) => t.legendgroup === 'batch').length"
    assert page.evaluate(count) == 1
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    wait_until(page, f"({count})() === 0")
    assert page.evaluate("document.getElementById('matrix').data.length") == 3
    button.click()
    wait_until(page, f"({count})() === 1")


def test_one_pick_of_a_task_holds_for_all_sections_and_arrows_move_it(desk: Visit) -> None:
    page = desk.page
    page.locator("#learning-rate [role=tab]").nth(1).click()
    assert page.locator("#learning-rate-panel-1").is_visible()
    assert page.locator("#curves-panel-1").is_visible()
    assert not page.locator("#curves-panel-0").is_visible()
    page.keyboard.press("ArrowRight")
    assert page.locator("#curves-panel-0").is_visible()  # of two tasks, round the end
    assert page.evaluate("document.activeElement.getAttribute('aria-selected')") == "true"


def test_downloads_are_what_the_export_writes(desk: Visit, tmp_path: Path) -> None:
    for form, read in READERS.items():
        export_records(COMPARISON.records, tmp_path / f"runs.{form}")
        with desk.page.expect_download() as waiting:
            desk.page.locator(f"[data-download={form}]").click()
        assert waiting.value.suggested_filename == f"normkit-runs.{form}"
        assert read(Path(waiting.value.path())) == read(tmp_path / f"runs.{form}")


def test_a_phone_in_the_dark_draws_everything_in_its_width(phone: Visit) -> None:
    drawn = phone.page.evaluate(VISIT)
    assert {name: size for name, size in drawn.items() if min(size) < 200 or size[0] > 390} == {}
    assert overflow(phone.page) <= 0
    assert phone.errors == []


def test_the_table_is_a_list_on_a_phone_and_still_a_table_for_readers(phone: Visit) -> None:
    score = phone.page.locator(".verdict td.best").first
    box = score.bounding_box()
    assert box is not None
    assert box["width"] > 300
    assert "best" in score.inner_text()
    assert phone.page.get_by_role("columnheader", name="layer").count() >= 1


@pytest.mark.parametrize("device", ["desk", "phone"], ids=["light", "dark"])
def test_all_text_can_be_read(device: str, request: pytest.FixtureRequest) -> None:
    page: Page = request.getfixturevalue(device).page
    dim = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    assert dim == (device == "phone")
    assert page.evaluate(DIM_TEXT) == []


def test_figures_follow_a_change_of_scheme_and_of_width(desk: Visit) -> None:
    page = desk.page
    _bring_into_view(page)
    ink = "getComputedStyle(document.querySelector('#score-1 .xtick text')).fill"
    before = page.evaluate(ink)
    page.emulate_media(color_scheme="dark")
    wait_until(page, f"{_IS_DRAWN} && {ink} !== {json.dumps(before)}")
    page.set_viewport_size({"width": 800, "height": 900})
    box = "document.getElementById('score-1')"
    wait_until(page, f"{box}.querySelector('.main-svg').clientWidth <= {box}.clientWidth")
    wait_until(page, "document.documentElement.scrollWidth <= innerWidth")
    assert desk.errors == []
