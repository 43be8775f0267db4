"""Charts are means of what was measured, with its intervals; what was not run is not drawn."""

from __future__ import annotations

import math
import statistics

import pytest
from scipy.stats import t

from normkit.claims.experiment import Measurement, conditions
from normkit.study.grid import CHANCE, charts
from study.example import measurements


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
