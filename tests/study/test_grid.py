"""Charts are means of what was measured, with its intervals; what was not run is not drawn."""

from __future__ import annotations

import math
import statistics

import pytest
from scipy.stats import t

from normkit.claims import shipped
from normkit.claims.experiment import UNDEFINED, Measurement, conditions
from normkit.claims.verdicts import Verdicts
from normkit.study.grid import AXES, CHANCE, SPECS, charts
from study.example import measurements

TUNED = {spec.id for spec in SPECS if spec.of_tuning}


@pytest.fixture(scope="module")
def ours() -> Verdicts:
    """The runs that come with the package."""
    return shipped()


def points_of(chart_id: str, found: list[Measurement]) -> list[dict[str, object]]:
    return next(chart["points"] for chart in charts(found) if chart["id"] == chart_id)


def test_a_point_is_the_mean_over_the_seeds_with_its_t_interval() -> None:
    found = measurements()
    values = [
        m.metrics["test_nll"]
        for m in found
        if m.experiment == "E05" and dict(m.conditions) == {"design": "batch", "norm": "batch", "batch": 8}
    ]
    point = next(p for p in points_of("mlp", found) if p["norm"] == "batch" and p["batch"] == 8)
    half = t.ppf(0.975, 4) * statistics.stdev(values) / math.sqrt(5)
    assert point["n"] == 5
    assert point["mean"] == pytest.approx(statistics.mean(values))
    assert point["high"] == pytest.approx(statistics.mean(values) + half)


def test_a_run_that_diverged_at_a_learning_rate_counts_as_guessing() -> None:
    point = next(
        p
        for p in points_of("deep", measurements())
        if (p["norm"], p["batch"], p["depth"], p["lr"]) == ("layer", 8, 2, 1.0)
    )
    assert point["mean"] == CHANCE
    assert point["diverged"] == 5


def test_a_diverged_run_without_a_number_leaves_no_mean_and_is_told() -> None:
    arm = conditions(design="batch", norm="batch", batch=2)
    found = [Measurement("E05", arm, seed, "diverged", message="loss was not finite") for seed in range(3)]
    (point,) = points_of("mlp", found)
    assert point["mean"] is None
    assert point["diverged"] == point["n"] == 3


def test_other_designs_and_experiments_stay_out() -> None:
    ghost = Measurement("E05", conditions(design="ghost", norm="batch", batch=64), 0, metrics={"test_nll": 9.0})
    other = Measurement("E14", conditions(norm="batch"), 0, metrics={"test_nll": 9.0})
    assert charts([ghost, other]) == []


def test_each_network_of_an_experiment_has_its_chart() -> None:
    series = {"learning_rates": (0.1, 1.0), "val_error": (3.0, 4.0)}
    arm = conditions(network="residual", norm="batch", batch=32)
    made = measurements()
    cnn = [Measurement("E10", arm, seed, series=series) for seed in range(2)]
    assert [(p["lr"], p["mean"]) for p in points_of("usable-cnn", [*made, *cnn])] == [(0.1, 3.0), (1.0, 4.0)]
    assert points_of("deep", [*made, *cnn]) == points_of("deep", made)


def test_what_varies_beside_norm_and_axes_is_never_pooled() -> None:
    arm = {"task": "digits", "batch": 50, "norm": "batch_separate", "weight": 0.1}
    found = [Measurement("E16", conditions(**arm), 0, metrics={"test_nll": 1.0})]
    other = Measurement("E16", conditions(**arm, state=2), 0, metrics={"test_nll": 9.0})
    assert charts([*found, other]) == charts(found) != []
    with pytest.raises(ValueError, match="seed 0 is there twice"):
        charts([*found, *found])


def test_a_map_has_a_point_for_each_place_in_the_order_of_the_runs() -> None:
    series = {"learning_rates": (0.1, 1.0), "scales": (0.5, 1.0, 2.0), "error": (1.0, 2.0, 3.0, 4.0, 5.0, UNDEFINED)}
    found = [Measurement("E28", conditions(norm="batch", batch=100), seed, series=series) for seed in range(2)]
    points = {(p["scale"], p["lr"]): p for p in points_of("map", found)}
    assert {place: p["mean"] for place, p in points.items()} == {
        (0.5, 0.1): 1.0, (0.5, 1.0): 2.0, (1.0, 0.1): 3.0, (1.0, 1.0): 4.0, (2.0, 0.1): 5.0, (2.0, 1.0): None,
    }  # fmt: skip
    assert points[2.0, 1.0]["diverged"] == 2


def test_runs_that_tuned_are_shown_once_and_only_at_the_rates_that_were_tried() -> None:
    tuned = {"val_nll_of_1000": (0.5, 0.25, UNDEFINED), "val_nll_of_1001": (1.5, 0.75, UNDEFINED)}
    found = [
        Measurement(
            "E05", conditions(design="batch", norm=norm, batch=2), seed, series={"learning_rates": rates, **tuned}
        )
        for norm, rates in (("batch", (0.1, 0.3, 1.0)), ("layer", (0.01, 0.03, 0.1)))
        for seed in range(5)
    ]
    points = {(p["norm"], p["lr"]): (p["mean"], p["n"], p["diverged"]) for p in points_of("rates-mlp", found)}
    assert points == {
        ("batch", 0.1): (1.0, 2, 0), ("batch", 0.3): (0.5, 2, 0), ("batch", 1.0): (None, 2, 2),
        ("layer", 0.01): (1.0, 2, 0), ("layer", 0.03): (0.5, 2, 0), ("layer", 0.1): (None, 2, 2),
    }  # fmt: skip


def test_charts_of_the_shipped_runs_have_each_seed_once_and_both_norms(ours: Verdicts) -> None:
    drawn = {chart["id"]: chart for chart in charts(ours.measurements)}
    assert list(drawn) == [spec.id for spec in SPECS]
    for chart in drawn.values():
        assert {"none", "batch", "layer"} <= set(chart["norms"])
        tuned = chart["id"] in TUNED
        # Where a run that diverged counts as nothing, the rest are fewer.
        left = {p["n"] + p["diverged"] if tuned and p["mean"] is not None else p["n"] for p in chart["points"]}
        assert left == {3 if tuned else 12}


@pytest.mark.parametrize(
    ("chart_id", "axes"),
    [
        ("mlp", {"batch"}),
        ("cnn", {"batch"}),
        ("rnn", {"batch"}),
        ("deep", {"batch", "depth", "lr"}),
        ("rates-mlp", {"batch", "lr"}),
        ("rates-cnn", {"batch", "lr"}),
        ("rates-rnn", {"batch", "lr"}),
        ("usable-cnn", {"lr"}),
        ("sigmoid", {"depth"}),
        ("map", {"batch", "lr", "scale"}),
    ],
)
def test_charts_of_the_shipped_runs_vary_along_the_axes_of_their_experiments(
    ours: Verdicts, chart_id: str, axes: set[str]
) -> None:
    points = points_of(chart_id, list(ours.measurements))
    assert {axis for axis in AXES if len({point[axis] for point in points}) > 1} == axes


def test_the_recurrent_chart_shows_what_the_claims_judge(ours: Verdicts) -> None:
    mean = {
        (p["norm"], p["batch"]): p["mean"]
        for chart in charts(ours.measurements)
        if chart["id"] == "rnn"
        for p in chart["points"]
    }
    for hypothesis, batch in (("E16-H3", 4), ("E16-C1", 50)):
        effect = ours.findings[hypothesis].effect
        assert mean["batch", batch] - mean["layer", batch] == pytest.approx(effect)
