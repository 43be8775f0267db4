"""The learning page as a whole: by keyboard, by link, on every screen, its questions and references."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from browser import DIM_TEXT, MARKS, Visit, overflow, visit
from normkit.claims.register import register
from normkit.study import content
from study.reading import tensor

pytestmark = MARKS


def test_arrow_keys_walk_over_the_tensor(page: Page) -> None:
    page.locator(".cell").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert page.locator(".cell[aria-pressed=true]").get_attribute("data-at") == "7"
    assert page.evaluate("document.activeElement.dataset.at") == "7"


def test_every_slider_moves_by_keyboard_and_says_its_value(page: Page) -> None:
    sliders = page.locator("input[type=range]")
    assert sliders.count() >= 6
    for place in range(sliders.count()):
        slider = sliders.nth(place)
        before = slider.get_attribute("aria-valuetext")
        slider.focus()
        page.keyboard.press("ArrowRight")
        if slider.get_attribute("aria-valuetext") == before:
            page.keyboard.press("ArrowLeft")
        assert slider.get_attribute("aria-valuetext") != before


def test_what_the_reader_set_is_in_the_address(page: Page, address: str) -> None:
    tensor(page).get_by_role("radio", name="(N, C, H, W)", exact=True).click()
    tensor(page).get_by_role("radio", name="InstanceNorm", exact=True).click()
    page.locator(".cell[data-at='30']").click()  # the picture has another order than memory
    page.locator("#replace-example").click()
    page.locator("#slider-batch").focus()
    page.keyboard.press("ArrowRight")
    link = page.url
    shown = page.locator(".tensor").inner_text(), page.locator(".arithmetic").inner_text()
    page.goto("about:blank")
    page.goto(link)
    assert (page.locator(".tensor").inner_text(), page.locator(".arithmetic").inner_text()) == shown
    assert page.locator(".cell[aria-pressed=true]").get_attribute("data-at") == "30"
    assert page.locator("#slider-batch").get_attribute("aria-valuetext") == "16"


@pytest.mark.parametrize(
    "bad", ["shape=cube&norm=1", "cell=999", "gamma=nan&beta=1e99", "changes=0:x,5", "run=../x&off=<b>"]
)
def test_a_broken_address_opens_the_page_as_it_is(page: Page, desk: Visit, address: str, bad: str) -> None:
    page.goto("about:blank")
    page.goto(f"{address}#{bad}")
    assert page.locator(".cell").count() in (24, 72)
    assert "NaN" not in page.locator("main").inner_text()
    assert desk.errors == []


@pytest.mark.parametrize("question", content.QUESTIONS, ids=lambda question: question.id)
def test_an_answer_opens_once_a_prediction_is_made(page: Page, question: content.Question) -> None:
    form = page.locator(f"#question-{question.id}")
    form.get_by_role("button").click()
    assert form.locator(".answer").is_hidden()
    assert form.locator(".hint").is_visible()
    wrong = (question.right + 1) % len(question.options)
    form.get_by_role("radio").nth(wrong).check()
    form.get_by_role("button").click()
    assert form.locator(".answer").is_visible()
    assert "Not so." in form.locator(".answer").inner_text()
    assert "0 of 1" in page.locator("#score").inner_text()


def test_every_cell_of_the_comparison_says_what_was_measured_for_it(page: Page) -> None:
    cells = page.locator(".sides tbody td")
    said = [said for row in content.TABLE for said in (row.batch, row.layer)]
    assert cells.count() == len(said)
    for cell, one in zip(cells.all(), said, strict=True):
        assert [code.text_content() for code in cell.locator(".measured code").all()] == [id_ for id_, _ in one.expects]
    details = cells.first.locator("details")
    details.locator("summary").focus()
    page.keyboard.press("Enter")
    assert details.evaluate("e => e.open")
    link = details.locator("a.ref").first
    link.focus()
    page.keyboard.press("Enter")
    assert page.locator(link.get_attribute("href") or "").evaluate("e => e.open && e === document.activeElement")


def test_references_lead_to_claims(page: Page) -> None:
    link = page.locator(".sides a.ref").first
    claim = page.locator((link.get_attribute("href") or "").replace("#", "#"))
    link.click()
    assert claim.evaluate("e => e.open")
    assert page.locator(".claim").count() == 59


def test_wide_and_narrow_screens_have_no_sideways_scrolling_and_all_text_can_be_read(
    browser: Browser, address: str
) -> None:
    phone = {"width": 375, "height": 812}
    looks: list[dict[str, Any]] = [
        {"viewport": {"width": 1280, "height": 900}},
        {"viewport": phone, "color_scheme": "dark"},
        {"viewport": phone, "color_scheme": "light", "has_touch": True, "is_mobile": True},
    ]
    for look in looks:
        found = visit(browser, address, **look)
        for shape in ("(N, T, C)", "(N, C, H, W)", "(N, C)"):
            tensor(found.page).get_by_role("radio", name=shape, exact=True).click()
            assert overflow(found.page) <= 0
            assert found.page.evaluate(CUT_CELLS) == []
        assert found.page.evaluate("document.querySelector('.scroll').scrollWidth - innerWidth") <= 0
        for form in found.page.locator("form.question").all():
            form.get_by_role("radio").first.check()
            form.get_by_role("button").click()
        for claim in found.page.locator("details.claim").all()[:3]:
            claim.locator("summary").click()
        assert overflow(found.page) <= 0
        assert found.page.evaluate(DIM_TEXT) == []
        assert found.errors == []
        assert [url for url in found.requests if not url.startswith(("file:", "data:"))] == []
        found.page.context.close()


# Numbers that are wider than their cell, or broken into two lines.


CUT_CELLS = """() => [...document.querySelectorAll(".cell")].filter((cell) => {
  const text = document.createRange();
  text.selectNodeContents(cell);
  const [own, all] = [cell.getBoundingClientRect(), text.getBoundingClientRect()];
  return all.left < own.left || all.right > own.right || text.getClientRects().length > 1;
}).map((cell) => cell.textContent)"""


NAMELESS = """() => [
  ...document.querySelectorAll("a, button, input, select, summary, svg"),
  ...document.querySelectorAll("[role=radiogroup], [role=group], [role=region]"),
].filter((e) => {
  if (e.closest("[hidden], [aria-hidden=true]")) return false;
  const named = (id) => document.getElementById(id)?.textContent;
  const name = e.getAttribute("aria-label") || named(e.getAttribute("aria-labelledby")) || e.labels?.[0]?.textContent
    || (e.matches("a, button, summary") ? e.textContent : "");
  return !name?.trim();
}).map((e) => e.outerHTML.slice(0, 120))"""


def test_whatever_can_be_reached_has_a_name_and_headings_have_an_order(page: Page) -> None:
    assert page.evaluate(NAMELESS) == []
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].map((e) => Number(e.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert page.locator("html").get_attribute("lang") == "en"
    assert page.locator("main").count() == page.locator("nav[aria-label]").count() == 1
    for chart in page.locator("svg.chart").all():
        assert chart.get_attribute("role") == "img"


def tab_stops(page: Page, within: str) -> list[str]:
    """What the tab key stops at in a part of the page, from its first stop to the last."""
    page.evaluate("(within) => { const e = document.querySelector(within); e.tabIndex = -1; e.focus(); }", within)
    stops = []
    for _ in range(100):
        page.keyboard.press("Tab")
        stop = page.evaluate(
            """(within) => {
              const e = document.activeElement;
              if (!document.querySelector(within).contains(e)) return null;
              const group = e.closest("[role=radiogroup]");
              return group ? group.getAttribute("aria-label") : e.id || e.dataset.at || e.dataset.norm || e.textContent;
            }""",
            within,
        )
        if stop is None:
            return stops
        stops.append(stop)
    raise AssertionError(f"the tab key does not leave {within}")


def test_the_tab_key_stops_at_every_control_whatever_is_chosen(page: Page) -> None:
    groups = ["Shape of the tensor", "Norm", "Wrong readings", "Numbers shown"]
    rest = ["0", "cell-value", "slider-gamma", "slider-beta", "undo-norm", "replace-example", "reset-tensor"]
    for name in ("LayerNorm", "InstanceNorm"):
        tensor(page).get_by_role("radio", name="(N, C, H, W)", exact=True).click()
        tensor(page).get_by_role("radio", name=name, exact=True).click()
        assert sorted(tab_stops(page, "#tensor-view")) == sorted(groups + rest)
    page.locator("#tensor-view [aria-label='Wrong readings'] button:not([hidden])").first.click()
    (verdict,) = set(tab_stops(page, "#tensor-view")) - {*groups, *rest}
    assert verdict.startswith("Claim 00")  # of the reading, beside its arithmetic
    assert {*groups, *rest} <= set(tab_stops(page, "#tensor-view"))
    assert tab_stops(page, "#running-view") == ["slider-batch", "slider-momentum", "slider-step"]
    page.get_by_role("radio", name="Learning rate and depth").click()
    wanted = [
        "Experiment",
        "Along the bottom",
        "run-batch",
        "run-lr",
        "run-depth",
        "run-norm",
        "none",
        "batch",
        "layer",
        "rms",
    ]
    assert tab_stops(page, "#runs-view") == wanted


def test_arrow_keys_move_within_a_group_and_wrong_readings_can_be_chosen_by_keyboard(page: Page) -> None:
    page.locator("#tensor-view [aria-label='Norm'] [aria-checked=true]").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    chosen = page.locator("#tensor-view [aria-label='Wrong readings'] [aria-checked=true]")
    assert chosen.count() == 1
    first = chosen.inner_text()
    page.keyboard.press("ArrowRight")
    assert chosen.inner_text() != first
    assert page.locator("#tensor-view [aria-label='Norm'] [aria-checked=true]").count() == 0
    assert "Not what the norm does." in page.locator(".arithmetic").inner_text()


def test_a_question_and_a_claim_can_be_opened_by_keyboard_alone(page: Page) -> None:
    form = page.locator("form.question").first
    form.get_by_role("radio").first.focus()
    page.keyboard.press("Space")
    page.keyboard.press("Enter")
    assert form.locator(".answer").is_visible()
    assert form.locator(".answer").evaluate("e => e === document.activeElement")
    claim = page.locator("details.claim").first
    claim.locator("summary").focus()
    page.keyboard.press("Enter")
    assert claim.evaluate("e => e.open")


def test_a_link_opened_where_the_page_is_open_shows_what_it_says(page: Page, address: str) -> None:
    with page.expect_navigation(wait_until="load"):
        page.evaluate("(link) => { location.href = link; }", f"{address}#norm=rms&cell=8&run=deep&off=none")
        page.wait_for_event("load")
    checked = page.locator("#tensor-view [aria-label='Norm'] [aria-checked=true]")
    assert checked.inner_text() == "RMSNorm"
    assert page.locator(".cell[aria-pressed=true]").get_attribute("data-at") == "8"
    assert page.locator(".readout tr[data-norm=none]").count() == 0
    assert page.locator(".readout tr[data-norm=batch]").count() == 1


def test_a_link_to_a_claim_jumps_there_at_once(page: Page, address: str) -> None:
    page.goto("about:blank")
    page.goto(f"{address}#claim-002-20")
    assert page.evaluate(IN_SIGHT, "claim-002-20")
    page.evaluate("location.hash = 'claim-000-07'")  # in a page that is open
    assert page.locator("#claim-000-07").evaluate("e => e.open")
    assert page.evaluate(IN_SIGHT, "claim-000-07")


def test_the_claim_of_a_wrong_reading_opens_and_the_address_keeps_what_was_set(page: Page) -> None:
    tensor(page).get_by_role("radio", name="one distribution for all neurons").click()
    page.locator(".arithmetic a").click()
    assert page.locator("#claim-001-04").evaluate("e => e.open")
    assert page.evaluate(IN_SIGHT, "claim-001-04")
    assert "norm=read-alike" in page.url


IN_SIGHT = """(id) => {
  const { top } = document.getElementById(id).getBoundingClientRect();
  return top >= 0 && top < innerHeight;
}"""


def test_what_was_recalled_is_said_to_be_and_leads_to_its_source(page: Page) -> None:
    for claim in register().values():
        items = page.locator(f"#claim-{claim.id} .citations li").all()
        assert len(items) == len(claim.citations)
        for item, citation in zip(items, claim.citations, strict=True):
            words = item.text_content() or ""
            assert ("recalled" in words) == (citation.confidence != "V")
            assert item.locator("a").get_attribute("href") == citation.source.url


def test_dark_and_light_differ_and_follow_the_reader_s_system(browser: Browser, address: str) -> None:
    papers = set()
    for scheme in ("light", "dark"):
        found = visit(browser, address, color_scheme=scheme)
        papers.add(found.page.evaluate("getComputedStyle(document.body).backgroundColor"))
        found.page.emulate_media(color_scheme="light")
        papers.add(found.page.evaluate("getComputedStyle(document.body).backgroundColor"))
        found.page.context.close()
    assert len(papers) == 2
