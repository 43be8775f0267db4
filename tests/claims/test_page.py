"""The page of verdicts in a real browser: every control moved, offline, readable everywhere."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from playwright.sync_api import Browser

from browser import DIM_TEXT, MARKS, Visit, overflow, visit, wait_until
from claims.made_up import arm, arms, noise, rule
from normkit.claims import Verdicts, register
from normkit.claims.experiment import Measurement, conditions
from normkit.claims.hypothesis import Kind
from normkit.claims.judge import judge
from normkit.claims.rulebook import rulebook
from normkit.claims.run import provenance
from normkit.claims.verdicts import decide
from normkit.report.claims_page import render_claims, write_claims
from normkit.report.claims_planes import planes
from normkit.report.strips import strip

pytestmark = MARKS

HOSTILE = "</script><script>alert(1)</script>&amp;"
SHOWN = "[...document.querySelectorAll('.document details.claim:not([hidden])')].map((claim) => claim.id)"


def measurements() -> list[Measurement]:
    """Of what decides 001-03 (it fails), 001-06 (it holds) and a part of 000-05."""
    errors = {"each_feature_is_layer": 2.4, "layer_mode": 0.0, "batch_definition": 0.0, "layer_definition": 1e-16}
    return [
        Measurement(
            "E01", (), 0, metrics={name: e for name, e in errors.items() if name != "layer_mode"}, message=HOSTILE
        ),
        Measurement("E03", (), 0, metrics={"layer_mode": 0.0}),
    ]


def example() -> Verdicts:
    found = measurements()
    verdicts, findings = decide(register().values(), rulebook(), found)
    return Verdicts(
        verdicts=verdicts,
        findings=findings,
        measurements=tuple(found),
        tier="instant",
        notes=(f"A note {HOSTILE}.",),
        experiments={"E01": ("Definitions", HOSTILE)},
        provenance=provenance([], "2026-01-01T00:00:00+00:00"),
    )


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_claims(example(), tmp_path_factory.mktemp("page") / "claims.html").as_uri()


def closed(found: Visit) -> None:
    """Nothing went wrong, and nothing was asked of any network."""
    assert found.errors == []
    assert [url for url in found.requests if not url.startswith(("file:", "blob:"))] == []
    found.page.context.close()


def test_every_claim_is_there_and_opens(browser: Browser, address: str) -> None:
    found = visit(browser, address)
    assert len(found.page.evaluate(SHOWN)) == 59
    claim = found.page.locator("[id='001-03']")
    claim.locator("summary").click()
    assert "wrong." in claim.inner_text()
    assert "off by 2.4" in claim.inner_text()
    assert claim.locator("svg.strip").count() == 1
    assert "normkit claims --tier full --claim 001-03" in claim.inner_text()
    assert found.page.evaluate("location.hash") == "#001-03"
    assert HOSTILE in found.page.inner_text("body")
    closed(found)


@pytest.mark.parametrize("width", [390, 1200])
def test_a_closed_row_shows_the_three_verdicts(browser: Browser, address: str, width: int) -> None:
    found = visit(browser, address, viewport={"width": width, "height": 900})
    row = found.page.locator("[id='001-03'] summary")
    words = " ".join(row.inner_text().split())
    for verdict in ("wrong", "fails", "refuted"):
        mark = row.get_by_text(verdict, exact=False).first
        assert mark.is_visible(), words
    assert [part.strip("✕ ") for part in words.split("✕")[1:]] == ["wrong Evidence", "fails Literature", "refuted"]
    assert overflow(found.page) <= 0
    closed(found)


def test_a_trial_is_there_once_something_of_it_was_measured(browser: Browser, tmp_path: Path) -> None:
    nothing = replace(example(), measurements=())
    found = visit(browser, write_claims(nothing, tmp_path / "claims.html").as_uri())
    assert found.page.locator("details.pilot").count() == 0
    closed(found)
    sign = Measurement("E01", (), 1, metrics={"batch_of_two_is_sign": 0.0})
    with_trial = replace(example(), measurements=(sign,))
    found = visit(browser, f"{write_claims(with_trial, tmp_path / 'claims.html').as_uri()}#pilot-2")
    assert found.page.evaluate("document.getElementById('pilot-2').open")
    assert "reproduces" in found.page.inner_text("[id='pilot-2'] summary")
    assert "65.6 %" in found.page.inner_text("[id='pilot-2']")
    closed(found)


def test_filters_and_their_address(browser: Browser, address: str) -> None:
    found = visit(browser, address)
    page = found.page
    for verdict in ("holds", "not run"):
        page.click(f"button[data-evidence='{verdict}']")
    assert "evidence=fails" in page.evaluate("location.search")
    shown = page.evaluate(SHOWN)
    assert "001-03" in shown
    assert "001-06" not in shown
    assert page.inner_text("#shown") == f"{len(shown)} of 59 claims"
    page.select_option("#document", "glossary")
    assert {id_[:3] for id_ in page.evaluate(SHOWN)} == {"001"}
    page.fill("#search", "feature along")
    assert page.evaluate(SHOWN) == ["001-03", "001-05"] or page.evaluate(SHOWN) == ["001-05"]
    kept, shown = page.evaluate("location.search"), page.evaluate(SHOWN)
    closed(found)
    again = visit(browser, address + kept)
    assert again.page.evaluate(SHOWN) == shown
    closed(again)


def test_an_address_of_a_claim_shows_it_open_whatever_is_filtered(browser: Browser, address: str) -> None:
    found = visit(browser, f"{address}?document=notes#001-03")
    assert found.page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "auto"
    assert found.page.evaluate("document.getElementById('001-03').open")
    assert found.page.locator("[id='001-03']").is_visible()
    found.page.click("[id='001-03'] a[href='#001-12']")
    wait_until(found.page, "document.getElementById('001-12').open")
    closed(found)


def test_the_keyboard_is_enough(browser: Browser, address: str) -> None:
    found = visit(browser, address)
    page = found.page
    page.focus("[id='000-02'] summary")
    page.keyboard.press("Enter")
    assert page.evaluate("document.getElementById('000-02').open")
    page.focus("#all")
    page.keyboard.press("Space")
    assert page.evaluate("[...document.querySelectorAll('details.claim')].every((claim) => claim.open)")
    page.keyboard.press("Space")
    assert not page.evaluate("[...document.querySelectorAll('details.claim')].some((claim) => claim.open)")
    closed(found)


def test_records_are_downloaded(browser: Browser, address: str, tmp_path: Path) -> None:
    found = visit(browser, f"{address}#001-03", accept_downloads=True)
    with found.page.expect_download() as download:
        found.page.click("[id='001-03'] [data-download]")
    assert download.value.suggested_filename == "normkit-claims-E01.csv"
    download.value.save_as(tmp_path / "records.csv")
    with (tmp_path / "records.csv").open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["experiment"], row["metric.each_feature_is_layer"], row["message"]) == ("E01", "2.4", HOSTILE)
    assert "metric.layer_mode" not in row
    closed(found)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_can_be_read_in_any_light_and_on_a_phone(browser: Browser, address: str, scheme: str, width: int) -> None:
    found = visit(browser, address, color_scheme=scheme, viewport={"width": width, "height": 900})
    found.page.click("#all")
    assert overflow(found.page) <= 0
    assert found.page.evaluate(DIM_TEXT) == []
    closed(found)


def test_the_same_verdicts_give_the_same_page() -> None:
    assert render_claims(example()) == render_claims(example())


def test_a_strip_shows_the_seeds_the_interval_and_the_margin_where_they_are() -> None:
    hypothesis = rule(margin=2.0, unit="points")
    values = [5.0 + x for x in noise(0, 12)]
    finding = judge([hypothesis], arms(values, [0.0] * 12))["E05-H1"]
    drawn = strip(hypothesis, finding)
    assert drawn is not None
    assert len(drawn.seeds) == 12
    assert drawn.bar is not None
    assert drawn.bar[0] < drawn.dot < drawn.bar[1]
    ((zone, end),) = drawn.zones
    assert zone < drawn.bar[0]  # it holds: the interval lies in the tinted part
    assert end > max(drawn.seeds)
    ticks = {tick.label: tick.x for tick in drawn.ticks}
    assert ticks["2"] == pytest.approx(zone, abs=0.2)
    assert drawn.label.endswith("12 seeds; it holds above 2 points")


def test_how_hypotheses_make_up_a_condition_is_told_where_not_all_are_to_hold() -> None:
    page = render_claims(example())
    for expression in ("E03-H11 and not E03-H12", "E20-H1 or E20-H2", "not E18-H25"):
        assert f"Judged by <code>{expression}" in page
    assert "Judged by <code>E03-H2 and E03-H4" not in page


@pytest.mark.parametrize("place", [-9.0, -1.0, 0.5, 1.0, 9.0])
@pytest.mark.parametrize("kind", [kind for kind in get_args(Kind) if kind not in ("exact", "slope", "trend")])
def test_the_tinted_part_of_a_strip_is_where_the_judge_says_that_it_holds(kind: Kind, place: float) -> None:
    means = {("batch", True): place, ("layer", True): 0.0, ("batch", False): 0.0, ("layer", False): 0.0}
    found = [
        measurement
        for n, ((norm, small), mean) in enumerate(means.items())
        for measurement in arm([mean + x / 50 for x in noise(n, 12)], norm=norm, small=small)
    ]
    names = ("these", "those", "these_without", "those_without")
    sides = {name: {"norm": norm, "small": small} for name, (norm, small) in zip(names, means, strict=True)}
    hypothesis = rule(kind=kind, margin=2.0, unit="points", **sides)
    finding = judge([hypothesis], found)["E05-H1"]
    drawn = strip(hypothesis, finding)
    assert drawn is not None
    ((low, high),) = drawn.zones
    assert finding.outcome == ("holds" if low <= drawn.dot <= high else "fails")


def test_an_exact_strip_is_on_a_scale_of_decades() -> None:
    hypothesis = rule(kind="exact", metric="gap", these={}, margin=1e-6)
    fails = strip(hypothesis, judge([hypothesis], arm([0.5], "gap"))["E05-H1"])
    holds = strip(hypothesis, judge([hypothesis], arm([0.0], "gap"))["E05-H1"])
    assert fails is not None
    assert holds is not None
    assert holds.dot < holds.zones[0][1] < fails.dot


def test_a_plane_has_a_cell_for_each_learning_rate_and_scale() -> None:
    hypothesis = rulebook()["E28-H1"]
    series = {"learning_rates": (0.1, 1.0), "scales": (0.1, 1.0, 10.0), "error": (5.0, 90.0, 15.0, 90.0, 30.0, 60.0)}
    runs = [
        Measurement("E28", conditions(norm=norm, batch=100), seed, metrics={"area": 0.2}, series=series)
        for norm in ("batch", "none")
        for seed in range(3)
    ]
    these, those = planes(hypothesis, runs)
    assert (these.title, those.title) == ("norm batch, batch 100", "norm none, batch 100")
    assert [cell.shade for cell in these.cells] == ["heat4", "heat0", "heat3", "heat0", "heat2", "heat1"]
    assert these.cells[0].y > these.cells[2].y > these.cells[4].y  # small scales below
    assert these.cells[0].words == "learning rate 0.1, initial weights × 0.1: 5 % of errors"
    assert "at 1 of 6" in these.label
    assert planes(rulebook()["E05-H1"], runs) == ()


def test_a_number_that_nobody_verified_is_not_printed() -> None:
    claim = register()["002-18"]
    invented = replace(claim.citations[0], confidence="U", number="99.9 % of a number")
    verdicts = example()
    changed = tuple(
        replace(v, claim=replace(v.claim, citations=(invented,))) if v.claim.id == claim.id else v
        for v in verdicts.verdicts
    )
    page = render_claims(replace(verdicts, verdicts=changed))
    assert "99.9 % of a number" not in page
    assert "recalled, not sure" in page
