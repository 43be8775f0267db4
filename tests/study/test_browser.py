"""The learning page in a real browser: its arithmetic is the library's, every control does what it says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Locator, Page

from browser import DIM_TEXT, MARKS, Visit, chromium, overflow, visit
from normkit import reference
from normkit.claims import shipped
from normkit.claims.register import register
from normkit.study import content, write_study
from normkit.study.examples import SIZES
from study.example import example_verdicts

pytestmark = MARKS


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_study(example_verdicts(), tmp_path_factory.mktemp("study") / "study.html").as_uri()


@pytest.fixture(scope="module")
def desk(browser: Browser, address: str) -> Iterator[Visit]:
    found = visit(browser, address, viewport={"width": 1280, "height": 900})
    yield found
    found.page.context.close()


@pytest.fixture
def page(desk: Visit, address: str) -> Page:
    """The page as it opens."""
    desk.page.goto("about:blank")
    desk.page.goto(address)
    return desk.page


@pytest.fixture
def scripts(desk: Visit) -> Page:
    """The page for its functions alone, whatever it shows."""
    return desk.page


def picture(values: np.ndarray, shape: str) -> np.ndarray:
    """From the page's order (example, position, channel) to (N, C) or (N, C, positions), as the reference takes it."""
    n, p, c = SIZES[shape]
    cube = values.reshape(n, p, c)
    return cube[:, 0, :] if shape == "nc" else np.moveaxis(cube, 2, 1)


def flat(values: np.ndarray, shape: str) -> np.ndarray:
    return (values if shape == "nc" else np.moveaxis(values, 1, 2)).ravel()


def rows(values: np.ndarray, shape: str) -> tuple[np.ndarray, tuple[int, ...]]:
    """What LayerNorm gets, and its normalized shape: an example, or in a sequence a token."""
    n, p, c = SIZES[shape]
    return (values.reshape(n, p, c), (c,)) if shape == "ntc" else (values.reshape(n, p, c), (p, c))


def by_axes(*axes: int) -> Callable[[np.ndarray, str], np.ndarray]:
    """What a norm that takes mean and variance over these axes of (example, position, channel) gives."""

    def norm(x: np.ndarray, shape: str) -> np.ndarray:
        mean, variance = moments_over(x.reshape(SIZES[shape]), axes)
        return ((x.reshape(SIZES[shape]) - mean) / np.sqrt(variance + 1e-5)).ravel()

    return norm


def moments_over(cube: np.ndarray, axes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    return cube.mean(axes, keepdims=True), cube.var(axes, keepdims=True)


READINGS = {
    "read-feature": (),
    "read-whole": (0, 1, 2),
    "read-channel": (1,),
    "read-example": (1, 2),
    "read-alike": (0, 1),
}

BY_REFERENCE: dict[str, Callable[[np.ndarray, str], np.ndarray]] = {
    "batch": lambda x, shape: flat(reference.batch_norm(picture(x, shape))[0], shape),
    "layer": lambda x, shape: reference.layer_norm(*rows(x, shape))[0].ravel(),
    "rms": lambda x, shape: reference.rms_norm(*rows(x, shape), None, 1e-5)[0].ravel(),
    "group": lambda x, shape: flat(reference.group_norm(picture(x, shape), 2)[0], shape),
    # One value a statistic, which the reference refuses: all is 0.
    "instance": lambda x, shape: (
        by_axes(1)(x, shape) if shape == "nc" else flat(reference.instance_norm(picture(x, shape))[0], shape)
    ),
    "layer2d": lambda x, shape: flat(
        reference.layer_norm2d(picture(x, shape).reshape(3, 4, 2, 3), eps=1e-5)[0].reshape(3, 4, 6), shape
    ),
    **{reading: by_axes(*axes) for reading, axes in READINGS.items()},
}
OFFERED = {"layer2d": {"nchw"}, "read-channel": {"nchw"}, "read-example": {"ntc"}}
AXES = {"batch": (0, 1), "group": None, "instance": (1,), "layer2d": (2,), **READINGS}  # GroupNorm has none of its own


@pytest.mark.parametrize(("norm", "shape"), [(n, s) for n in BY_REFERENCE for s in SIZES if s in OFFERED.get(n, SIZES)])
def test_the_arithmetic_is_the_reference(scripts: Page, norm: str, shape: str) -> None:
    x = np.random.default_rng(3).normal(2, 3, np.prod(SIZES[shape]))
    found = scripts.evaluate("([norm, shape, x]) => Norms.normalize(norm, shape, x).y", [norm, shape, x.tolist()])
    # Both in float64, about 20 operations each on values of order 1.
    np.testing.assert_allclose(found, BY_REFERENCE[norm](x, shape), rtol=0, atol=64 * 2.0**-52)


def test_the_page_offers_what_is_tested(scripts: Page) -> None:
    offered = scripts.evaluate(
        "Object.keys(Norms.NORMS).map((n) => [n, Object.keys(Norms.SHAPES).filter((s) => Norms.serves(n, s))])"
    )
    assert {norm: set(shapes) for norm, shapes in offered} == {
        norm: OFFERED.get(norm, set(SIZES)) for norm in BY_REFERENCE
    }


@pytest.mark.parametrize("shape", SIZES)
def test_a_cell_s_arithmetic_is_numpy_s(page: Page, shape: str) -> None:
    found = page.evaluate(EACH_SEVENTH_CELL, shape)
    x = np.array(
        page.evaluate("(shape) => JSON.parse(document.getElementById('tensor-values').textContent)[shape]", shape)
    )
    assert set(found) == {norm for norm in BY_REFERENCE if shape in OFFERED.get(norm, SIZES)}
    for norm, cells in found.items():
        y = BY_REFERENCE[norm](x, shape)[::7]
        np.testing.assert_allclose([cell["y"] for cell in cells], y, rtol=0, atol=1e-13, err_msg=norm)
        np.testing.assert_allclose([cell["hat"] for cell in cells], y, rtol=0, atol=1e-13, err_msg=norm)
        axes = AXES.get(norm, (2,) if shape == "ntc" else (1, 2))
        if axes is None:
            continue
        mean, variance = (
            np.broadcast_to(part, SIZES[shape]).ravel()[::7] for part in moments_over(x.reshape(SIZES[shape]), axes)
        )
        if norm == "rms":
            square = [cell["square"] for cell in cells]
            np.testing.assert_allclose(square, mean**2 + variance, rtol=0, atol=1e-13)
            continue
        np.testing.assert_allclose([cell["mean"] for cell in cells], mean, rtol=0, atol=1e-13, err_msg=norm)
        np.testing.assert_allclose([cell["variance"] for cell in cells], variance, rtol=0, atol=1e-13, err_msg=norm)


# norm -> for each seventh cell, so that all channels come, the numbers that its arithmetic shows.
EACH_SEVENTH_CELL = """(shape) => {
  State.set({ shape });
  const found = {};
  for (const norm of Object.keys(Norms.NORMS).filter((one) => Norms.serves(one, shape))) {
    State.set({ norm });
    const cells = [...document.querySelectorAll(".cell")].map((_, cell) => cell).filter((cell) => cell % 7 === 0);
    found[norm] = cells.map((cell) => {
      State.set({ cell });
      const shown = [...document.querySelectorAll(".arithmetic [data-exact]")];
      return Object.fromEntries(shown.map((e) => [e.dataset.value, Number(e.dataset.exact)]));
    });
  }
  return found;
}"""


@pytest.mark.parametrize("shape", SIZES)
def test_layer_norm_s_neurons_are_not_alike(page: Page, shape: str) -> None:
    page.evaluate("(shape) => State.set({ shape, norm: 'read-alike' })", shape)
    x = np.array(
        page.evaluate("(shape) => JSON.parse(document.getElementById('tensor-values').textContent)[shape]", shape)
    )
    y = BY_REFERENCE["layer"](x, shape).reshape(-1, SIZES[shape][2])
    for name, wanted in (("mean", y.mean(0)), ("spread", y.std(0))):
        cells = page.locator(f".neurons td[data-neuron^={name}]").all()
        shown = [float(cell.get_attribute("data-exact") or "nan") for cell in cells]
        np.testing.assert_allclose(shown, wanted, rtol=0, atol=1e-13)
        assert max(shown) - min(shown) > 0.2  # the page says that they differ, and shows two digits


def test_gamma_and_beta_scale_and_shift(scripts: Page) -> None:
    x = np.random.default_rng(4).normal(size=24)
    plain, moved = scripts.evaluate(
        "(x) => [{}, {gamma: -2, beta: 0.5}].map((o) => Norms.normalize('batch', 'nc', x, o).y)", x.tolist()
    )
    np.testing.assert_allclose(moved, -2 * np.array(plain) + 0.5, atol=1e-14)


def test_the_running_average_is_the_library_s(scripts: Page) -> None:
    batches = np.random.default_rng(5).normal(5, 2, (7, 16))
    mean, var = np.zeros(1), np.ones(1)
    for batch in batches:
        new = reference.batch_norm_running_update(mean, var, 0, batch.mean()[None], batch.var()[None], 16, 0.3)
        mean, var = new.mean, new.var
    last = scripts.evaluate("(b) => Norms.running(b, 0.3).at(-1)", batches.tolist())
    assert last["mean"] == pytest.approx(mean[0], rel=1e-13)
    assert last["variance"] == pytest.approx(var[0], rel=1e-13)


def tensor(page: Page) -> Locator:
    return page.locator("#tensor-view")


def exact(page: Page, name: str) -> float:
    return float(page.locator(f"#tensor strong[data-value={name}]").get_attribute("data-exact") or "nan")


def test_a_cell_opens_its_arithmetic(page: Page) -> None:
    page.locator(".cell").nth(8).click()
    assert page.locator(".arithmetic h3").inner_text() == "Cell [1, 2]"
    values = np.array(page.evaluate("JSON.parse(document.getElementById('tensor-values').textContent).nc"))
    column = values.reshape(4, 6)[:, 2]
    assert exact(page, "mean") == pytest.approx(column.mean(), rel=1e-12)
    assert exact(page, "variance") == pytest.approx(column.var(), rel=1e-12)
    assert exact(page, "y") == pytest.approx((column[1] - column.mean()) / np.sqrt(column.var() + 1e-5), rel=1e-12)
    tensor(page).get_by_role("radio", name="LayerNorm", exact=True).click()
    assert exact(page, "mean") == pytest.approx(values.reshape(4, 6)[1].mean(), rel=1e-12)


def test_every_norm_and_reading_of_every_shape_can_be_chosen(page: Page, desk: Visit) -> None:
    seen = 0
    for shape in ("(N, C)", "(N, T, C)", "(N, C, H, W)"):
        tensor(page).get_by_role("radio", name=shape, exact=True).click()
        for button in page.locator("#tensor-view [role=radiogroup]").locator("button:not([hidden])").all():
            button.click()
            assert button.get_attribute("aria-checked") == "true"
            assert "NaN" not in page.locator("#tensor-view").inner_text()
            seen += 1
    assert seen >= 30
    assert desk.errors == []


@pytest.mark.parametrize(
    ("norm", "said"),
    [
        ("BatchNorm", "18 outputs of the other examples, 18 moved"),
        ("LayerNorm", "18 outputs of the other examples, none moved"),
        ("RMSNorm", "18 outputs of the other examples, none moved"),
    ],
)
def test_replacing_an_example_moves_its_batch_mates_under_batch_norm_only(page: Page, norm: str, said: str) -> None:
    tensor(page).get_by_role("radio", name=norm, exact=True).click()
    page.locator("#replace-example").click()
    assert said in page.locator(".moved").inner_text()


def test_a_value_can_be_typed_and_nonsense_is_refused(page: Page) -> None:
    page.locator("#cell-value").fill("7.5")
    page.locator("#cell-value").press("Enter")
    assert page.locator(".cell").first.inner_text() == "7.50"
    page.locator("#cell-value").fill("")
    page.locator("#cell-value").press("Tab")
    assert page.locator("#cell-value").input_value() == "7.5"
    page.locator("#reset-tensor").click()
    assert page.locator(".cell").first.inner_text() != "7.50"


def test_gamma_and_beta_can_undo_the_norm(page: Page) -> None:
    page.locator("#undo-norm").click()
    page.get_by_role("radio", name="output y").click()
    shown = page.locator(".cell").first.inner_text()
    page.get_by_role("radio", name="input x").click()
    assert shown == page.locator(".cell").first.inner_text()


def test_what_undoes_the_norm_may_lie_beyond_the_sliders(page: Page) -> None:
    page.locator("#cell-value").fill("100")
    page.locator("#cell-value").press("Enter")
    page.locator("#undo-norm").click()
    page.get_by_role("radio", name="output y").click()
    assert page.locator(".cell").first.inner_text() == "100.00"
    shown = [page.locator(f"#slider-{name}").get_attribute("aria-valuetext") for name in ("gamma", "beta")]
    page.goto(page.url)
    page.reload()
    assert page.locator(".cell").first.inner_text() == "100.00"
    assert [page.locator(f"#slider-{name}").get_attribute("aria-valuetext") for name in ("gamma", "beta")] == shown


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
