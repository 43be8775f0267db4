"""The runs on the learning page: what is drawn is what was measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from browser import DIM_TEXT, MARKS, Visit, overflow, visit
from normkit.claims import shipped
from normkit.study import write_study
from study.example import example_verdicts

pytestmark = MARKS


def test_runs_are_the_measurements(page: Page) -> None:
    from normkit.study.grid import charts

    chart = charts(example_verdicts().measurements)[0]
    page.locator("#run-batch").fill("2")  # the third of three batch sizes
    for norm in chart["norms"]:
        point = next(p for p in chart["points"] if p["norm"] == norm and p["batch"] == 32)
        shown = page.locator(f".readout tr[data-norm={norm}] td").first.get_attribute("data-exact")
        assert float(shown or "nan") == pytest.approx(point["mean"])
    page.locator("#runs-view .legend-row [data-norm=batch]").click()
    assert page.locator(".readout tr[data-norm=batch]").count() == 0


@pytest.mark.parametrize(("low", "high"), [(0.4, 1.2), (0.08, 1.5), (0.12, 0.14), (0.001, 10), (5, 90)])
def test_a_log_axis_has_ticks_within_it(scripts: Page, low: float, high: float) -> None:
    found = scripts.evaluate("([low, high]) => ticks(low, high, true)", [low, high])
    assert 3 <= len(found) <= 12
    assert low * 0.99 <= min(found) < max(found) <= high * 1.01


def test_runs_can_be_seen_along_each_axis(page: Page, desk: Visit) -> None:
    page.get_by_role("radio", name="Learning rate and depth").click()
    for axis in ("batch size", "learning rate", "depth"):
        page.get_by_role("radio", name=f"by {axis}").click()
        assert page.locator("#runs-view svg.chart .wire").count() == 4
        assert page.locator("#runs-view .axis").first.text_content() == axis
    assert desk.errors == []


def test_the_slider_of_norms_brings_each_to_the_front_with_its_numbers(page: Page) -> None:
    slider = page.locator("#run-norm")
    page.locator("#runs-view .legend-row [data-norm=rms]").click()
    assert page.locator("#runs-view svg.chart .wire").count() == 3
    for place, name in enumerate(("no norm", "BatchNorm", "LayerNorm", "RMSNorm")):  # the last one comes back
        slider.fill(str(place))
        assert slider.get_attribute("aria-valuetext") == name
        assert page.locator(".front-number").inner_text().startswith(name)
        row = page.locator("#runs-view tr.front")
        shown = page.locator(".front-number strong").get_attribute("data-exact")
        assert row.get_attribute("data-norm") == ("none", "batch", "layer", "rms")[place]
        assert row.locator("td").first.get_attribute("data-exact") == shown
        assert page.locator("#runs-view svg.chart .strong").count() == 1
    assert page.locator("#runs-view svg.chart .wire").count() == 4


def test_one_norm_stays_drawn(page: Page, desk: Visit) -> None:
    for norm in ("none", "batch", "layer", "rms"):
        page.locator(f"#runs-view .legend-row [data-norm={norm}]").click(force=True)
    assert page.locator("#runs-view svg.chart .wire").count() == 1
    assert page.locator("#runs-view .legend-row [data-norm=rms]").get_attribute("aria-disabled") == "true"
    assert desk.errors == []


def test_a_map_shows_the_runs_and_leads_to_their_numbers(page: Page, desk: Visit) -> None:
    from normkit.study.grid import charts

    chart = next(chart for chart in charts(example_verdicts().measurements) if chart["id"] == "map")
    page.get_by_role("radio", name="What trains at all").click()
    page.locator("#run-batch").fill("1")
    maps = page.locator(".maps figure")
    assert maps.count() == 3
    assert [figure.locator("rect:not(.frame)").count() for figure in maps.all()] == [6, 6, 6]
    maps.nth(1).locator("rect").first.click()  # the smallest scale and rate
    assert page.locator("#run-lr").input_value() == page.locator("#run-scale").input_value() == "0"
    point = next(p for p in chart["points"] if (p["norm"], p["batch"], p["lr"], p["scale"]) == ("batch", 100, 0.1, 0.5))
    shown = page.locator("#runs-view tr[data-norm=batch] td").first.get_attribute("data-exact")
    assert float(shown or "nan") == pytest.approx(point["mean"])
    page.locator("#run-batch").fill("0")
    assert "not run here" in page.locator(".maps figure").nth(2).inner_text()
    assert "not run here" in page.locator("#runs-view tr[data-norm=layer]").inner_text()
    page.get_by_role("radio", name="by initial scale").click()
    assert page.locator("#runs-view svg.chart .axis").first.text_content() == "initial scale"
    assert desk.errors == []


@pytest.mark.parametrize(
    ("experiment", "sliders"),
    [
        ("MLP", ["run-batch", "run-norm"]),
        ("Learning rate and depth", ["run-batch", "run-lr", "run-depth", "run-norm"]),
        ("What trains at all", ["run-batch", "run-lr", "run-scale", "run-norm"]),
    ],
)
def test_there_is_a_slider_for_what_varies_and_for_nothing_else(
    page: Page, experiment: str, sliders: list[str]
) -> None:
    page.get_by_role("radio", name=experiment, exact=True).click()
    assert [one.get_attribute("id") for one in page.locator("#runs-view input[type=range]").all()] == sliders


def test_every_control_of_the_page_of_shipped_runs_can_be_moved_to_both_ends(tmp_path: Path, browser: Browser) -> None:
    found = visit(browser, write_study(shipped(), tmp_path / "study.html").as_uri())
    # One call of the browser for all: thousands of its own would take minutes.
    moved, broken = found.page.evaluate(MOVE_ALL)
    assert moved >= 100
    assert broken == []
    found.page.set_viewport_size({"width": 375, "height": 812})
    for experiment in found.page.locator("#runs-view [aria-label=Experiment] button").all():
        experiment.click()
        assert overflow(found.page) <= 0
    assert found.page.evaluate(DIM_TEXT) == []
    assert found.errors == []
    found.page.context.close()


# Every slider to both ends and every button pressed, for each choice that brings others; what is shown then and wrong.


MOVE_ALL = """() => {
  const broken = [];
  let moved = 0;
  const look = (part, what) => {
    moved += 1;
    const all = part.innerHTML; // what is written, and where what is drawn lies
    for (const bad of ["NaN", "undefined", "Infinity", "null"]) if (all.includes(bad)) broken.push(`${what}: ${bad}`);
  };
  const slide = (part, where) => {
    for (const id of [...part.querySelectorAll("input[type=range]")].map((e) => e.id)) {
      for (const end of ["min", "max"]) {
        const input = document.getElementById(id);
        if (input.min === input.max) broken.push(`${where}: ${id} is dead`);
        input.value = input[end];
        input.dispatchEvent(new Event("input", { bubbles: true }));
        look(part, `${where}, ${id} ${end}`);
      }
    }
  };
  const groups = (part, label) => [...part.querySelectorAll(`[aria-label="${label}"] button`)].filter((e) => !e.hidden);
  const [tensor, running, runs] = ["tensor", "running", "runs"].map((id) => document.getElementById(`${id}-view`));
  for (const shape of groups(tensor, "Shape of the tensor")) {
    shape.click();
    for (const norm of [...groups(tensor, "Norm"), ...groups(tensor, "Wrong readings")]) {
      norm.click();
      for (const shown of groups(tensor, "Numbers shown")) {
        shown.click();
        look(tensor, `${shape.textContent} ${norm.textContent}, ${shown.textContent}`);
      }
      slide(tensor, `${shape.textContent} ${norm.textContent}`);
      for (const act of tensor.querySelectorAll(".acts button")) {
        act.click();
        look(tensor, act.textContent);
      }
    }
  }
  slide(running, "running");
  for (const experiment of groups(runs, "Experiment")) {
    experiment.click();
    const ways = groups(runs, "Along the bottom");
    for (const way of ways.length ? ways : [experiment]) {
      way.click();
      slide(runs, `${experiment.textContent} ${way.textContent}`);
      for (const button of runs.querySelectorAll(".legend-row button")) {
        button.click();
        look(runs, `${experiment.textContent} without ${button.textContent}`);
      }
      for (const button of runs.querySelectorAll(".legend-row button[aria-pressed=false]")) button.click();
    }
  }
  return [moved, broken];
}"""


def test_runs_at_one_batch_size_are_drawn_without_a_slider_for_it(tmp_path: Path, browser: Browser) -> None:
    made = example_verdicts()
    few = tuple(m for m in made.measurements if m.experiment == "E05" and dict(m.conditions)["batch"] == 8)
    found = visit(browser, write_study(replace(made, measurements=few), tmp_path / "study.html").as_uri())
    sliders = found.page.locator("#runs-view input[type=range]")
    assert [one.get_attribute("id") for one in sliders.all()] == ["run-norm"]
    assert found.page.locator(".place").inner_text() == "At batch size 8"
    assert found.errors == []
    found.page.context.close()


def test_a_page_without_runs_leaves_them_out(tmp_path: Path, browser: Browser) -> None:
    written = write_study(replace(example_verdicts(), measurements=()), tmp_path / "study.html")
    found = visit(browser, written.as_uri())
    assert found.page.locator("#runs").count() == 0
    assert found.errors == []
    found.page.context.close()
