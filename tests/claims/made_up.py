"""Measurements with a known truth, for tests of what is made of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from normkit.claims.experiment import Condition, Measurement, conditions
from normkit.claims.hypothesis import Hypothesis


def rule(**changes: object) -> Hypothesis:
    """BatchNorm's error exceeds LayerNorm's by more than 2 points."""
    fields: dict[str, object] = {
        "id": "E05-H1",
        "experiment": "E05",
        "statement": "BatchNorm's error is above LayerNorm's.",
        "kind": "difference",
        "metric": "error",
        "these": {"norm": "batch"},
        "those": {"norm": "layer"},
        "margin": 2.0,
    }
    return Hypothesis(**{**fields, **changes})  # type: ignore[arg-type]


def arm(values: Sequence[float], metric: str = "error", **which: Condition) -> list[Measurement]:
    """A measurement a seed; NaN is a run that diverged."""
    return [
        Measurement("E05", conditions(**which), seed, "diverged", message="loss was nan")
        if math.isnan(value)
        else Measurement("E05", conditions(**which), seed, metrics={metric: value})
        for seed, value in enumerate(values)
    ]


def arms(batch: Sequence[float], layer: Sequence[float], metric: str = "error") -> list[Measurement]:
    return arm(batch, metric, norm="batch") + arm(layer, metric, norm="layer")


def noise(seed: int, n: int) -> list[float]:
    return np.random.default_rng(seed).standard_normal(n).tolist()
