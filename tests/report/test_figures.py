"""Figures: valid for plotly, true to the data, safe with any text."""

from __future__ import annotations

import json
import math
from typing import Any

import plotly.graph_objects as go
import pytest

from normkit.lab.comparison import Interval
from normkit.report import figures, plot, series
from normkit.report.answer import answer
from normkit.report.palette import DARK, LIGHT, looks
from normkit.report.view import page
from report.example import example_comparison

COMPARISON = example_comparison()
LOOK = looks(COMPARISON.norms)
PAGE = page(COMPARISON)
VIEWS = [
    PAGE.matrix,
    *PAGE.by_batch_size,
    *PAGE.evaluations,
    *PAGE.step_times,
    *(view for panel in (*PAGE.by_learning_rate, *PAGE.loss_curves) for view in panel.figures),
]


def coloured(value: Any, palette: dict[str, str]) -> Any:
    """The figure as the page draws it: colour names replaced by their values."""
    if isinstance(value, dict):
        return {key: coloured(part, palette) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [coloured(part, palette) for part in value]
    return palette[value[1:]] if isinstance(value, str) and value.startswith("@") else value


def trace(figure: plot.Figure, norm: str, index: int = 0) -> dict[str, Any]:
    found: list[dict[str, Any]] = [t for t in figure["data"] if t.get("legendgroup") == norm]
    return found[index]


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_plotly_accepts_every_figure_and_every_colour_has_a_value(palette: dict[str, str]) -> None:
    for view in VIEWS:
        go.Figure(coloured(view.figure, palette))  # raises for an unknown attribute or a value out of range


def test_figures_are_plain_json() -> None:
    for view in VIEWS:
        assert json.loads(json.dumps(view.figure, allow_nan=False)) == json.loads(json.dumps(view.figure))


def test_every_figure_has_an_id_of_its_own_and_says_what_it_shows() -> None:
    assert len({view.id for view in VIEWS}) == len(VIEWS)
    assert all(view.label for view in VIEWS)


def test_a_norm_has_one_colour_in_all_figures() -> None:
    for view in VIEWS[1:]:
        for drawn in view.figure["data"]:
            assert drawn["marker" if "marker" in drawn else "line"]["color"] == f"@{LOOK[drawn['legendgroup']].hue}"


def test_matrix_says_best_tie_gap_and_what_is_missing() -> None:
    words = PAGE.matrix.figure["data"][2]
    rows: dict[int, list[str]] = {}
    for y, label in zip(words["y"], words["text"], strict=True):
        rows.setdefault(y, []).append(label)
    assert rows[1] == ["+0.032", "n/a", "tie", "tie", "tie", "n/a"]
    assert rows[3][1] == "best"
    assert rows[13][0] == "diverged"
    assert rows[15][4] == "failed"
    assert rows[11][4] == "not run"


def test_matrix_colours_exactly_the_rows_that_have_a_plain_score() -> None:
    scored, grey = PAGE.matrix.figure["data"][:2]
    for row, task_row in zip((1, 2, 3), answer(COMPARISON).tasks[0].rows, strict=True):
        for place, score in enumerate(task_row.scores):
            assert (scored["z"][row][place] is not None) == (score.status == "done")
            assert (grey["z"][row][place] is not None) == (score.status != "done")
    assert scored["zmax"] >= max(z for row in scored["z"] for z in row if z is not None)


def test_score_against_batch_size_draws_means_and_intervals() -> None:
    drawn = trace(PAGE.by_batch_size[1].figure, "batch")
    cells = [cell for cell in COMPARISON.cells if cell.task == "digits-cnn"]
    scores = [cell.scores[1].nll for cell in cells]
    assert drawn["y"][0] is None  # impossible at batch size 1
    for place, score in list(enumerate(scores))[1:]:
        assert score is not None
        assert score.high is not None
        assert drawn["y"][place] == pytest.approx(score.mean, rel=1e-4)
        assert drawn["error_y"]["array"][place] == pytest.approx(score.high - score.mean, rel=1e-4)


def test_a_norm_whose_every_run_diverged_lies_in_a_lane_of_its_own() -> None:
    figure = PAGE.by_batch_size[3].figure
    crossed = [t for t in figure["data"] if t.get("yaxis") == "y2"]
    assert [t["legendgroup"] for t in crossed] == ["none"]
    assert figure["layout"]["yaxis2"]["ticktext"] == ["diverged"]
    assert "yaxis2" not in PAGE.by_batch_size[0].figure["layout"]


def test_some_diverged_runs_are_marked_by_a_cross() -> None:
    assert trace(PAGE.by_batch_size[2].figure, "none")["marker"]["symbol"] == ["circle-open", "x", "circle-open"]


def test_an_interval_below_zero_stays_on_the_logarithmic_axis() -> None:
    kinds = {"batch": {"running": ((2, Interval(0.1, -0.3, 0.5, 5)),)}}
    bars = figures.evaluation_kinds(kinds, LOOK)["data"][0]["error_y"]
    assert bars["array"] == [0.4]
    assert 0 < bars["arrayminus"][0] < 0.1


def test_the_chosen_learning_rate_has_a_ring_and_diverged_ones_a_cross() -> None:
    sweeps = series.sweeps(COMPARISON, "digits-lstm", 4)
    figure = figures.by_learning_rate(sweeps, LOOK)
    line, ring, cross = (trace(figure, "none", place) for place in range(3))
    assert line["x"] == [1e-3, 3e-3, 1e-2, 3e-2]
    assert line["y"][3] is None
    assert (ring["x"], ring["marker"]["symbol"]) == ([3e-3], "circle-open")
    assert (cross["x"], cross["marker"]["symbol"], cross["yaxis"]) == ([3e-2], "x", "y2")


def test_loss_curves_have_a_tint_a_mean_and_each_diverged_run() -> None:
    figure = figures.loss_curves(series.curves(COMPARISON, "digits-lstm", 4), LOOK)
    drawn = [t for t in figure["data"] if t["legendgroup"] == "none"]
    assert [t.get("fill") for t in drawn] == [None, "tonexty", None, None, None]
    assert [t["line"].get("dash") for t in drawn[3:]] == ["dot", "dot"]


def test_a_loss_that_is_not_finite_leaves_a_gap() -> None:
    broken = series.Curves("none", (), (), (), (), (((0, 2.3), (1, math.inf), (2, math.nan)),))
    assert figures.loss_curves([broken], LOOK)["data"][0]["y"] == [2.3, None, None]


def test_text_cannot_become_markup_or_a_colour() -> None:
    assert plot.text("<b>x</b> & y") == "&lt;b&gt;x&lt;/b&gt; &amp; y"
    assert plot.text("@ink") == "&#64;ink"
    names = example_comparison(rename={"digits-mlp": "<b>mine</b>"})
    assert "<b>mine" not in json.dumps(page(names).matrix.figure)


@pytest.mark.parametrize(
    ("low", "high"), [(0.11, 0.12), (0.1, 0.35), (0.04, 0.3), (0.1, 3.0), (1e-3, 1.0), (1e-6, 1e4), (0.2, 0.2)]
)
def test_ticks_are_round_few_and_cover_the_range(low: float, high: float) -> None:
    ticks = plot.log_ticks([low, high])
    within = [tick for tick in ticks if 0.9 * low <= tick <= 1.1 * high]
    assert 1 <= len(within) <= 12
    assert min(ticks) <= low
    assert max(ticks) >= high
    assert all(len(f"{tick:g}") <= 6 for tick in ticks)


def test_no_values_no_ticks() -> None:
    assert plot.log_ticks([]) == []
