"""The tensor of the learning page: its arithmetic is the library's, every norm and value can be chosen."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from playwright.sync_api import Page

from browser import MARKS, Visit
from normkit import reference
from normkit.study.examples import SIZES
from study.reading import exact, picture, tensor

pytestmark = MARKS


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
