"""From measurements to the charts behind the sliders: means over seeds with intervals, and nothing that was not run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from normkit.claims.experiment import Condition, Measurement
from normkit.lab.statistics import interval

AXES = ("batch", "depth", "lr")
NAMES = {
    "none": "no norm",
    "batch": "BatchNorm",
    "layer": "LayerNorm",
    "rms": "RMSNorm",
    "group": "GroupNorm",
    "instance": "InstanceNorm",
}
CHANCE = 90.0  # per cent wrong, by guessing one of ten digits


def _each_norm() -> dict[str, Mapping[str, Condition]]:
    return {norm: {"norm": norm} for norm in NAMES}


@dataclass(frozen=True)
class ChartSpec:
    """Which measurements a chart shows.

    Attributes:
        where: conditions that a measurement must have.
        arms: norm -> the conditions by which the experiment's measurements with it are told.
        metric: the name of a metric; of two series where the chart runs along the learning rate.
        diverged_as: what a run that diverged counts as; None: the point is left out, and the divergence told.
    """

    id: str
    title: str
    experiment: str
    metric: str
    words: str  # the metric, for people
    note: str
    where: Mapping[str, Condition]
    arms: Mapping[str, Mapping[str, Condition]] = field(
        default_factory=lambda: {norm: {"norm": norm} for norm in NAMES}
    )
    along_learning_rates: bool = False
    diverged_as: float | None = None
    log: bool = False


SPECS = (
    ChartSpec(
        "mlp",
        "MLP",
        "E05",
        "test_nll",
        "test loss in nats",
        "A multilayer perceptron of two layers on 8 × 8 digits, each norm at the learning rate tuned for it at that "
        "batch size, on other seeds than those shown.",
        {"design": "batch"},
        log=True,
    ),
    ChartSpec(
        "deep",
        "Learning rate and depth",
        "E10",
        "val_error",
        "validation error in per cent",
        "Multilayer perceptrons on 8 × 8 digits at every learning rate of the grid, nothing tuned. A run that diverged "
        "counts as guessing: 90 %.",
        {"network": "mlp"},
        along_learning_rates=True,
        diverged_as=CHANCE,
    ),
    ChartSpec(
        "cnn",
        "CNN",
        "E06",
        "test_nll",
        "test loss in nats",
        "A residual convolutional network on 8 × 8 digits, each norm at its own tuned learning rate.",
        {"design": "batch"},
        log=True,
    ),
    ChartSpec(
        "rnn",
        "Recurrent network",
        "E16",
        "test_nll",
        "test loss in nats",
        "A recurrent network that reads the pixels of a digit in a fixed, scrambled order, two at a step. LayerNorm of "
        "the sum of input and state; BatchNorm of each apart, with statistics of each step, its weight 0.1 at first.",
        {"task": "digits"},
        arms={
            "none": {"norm": "none"},
            "batch": {"norm": "batch_separate", "weight": 0.1},
            "layer": {"norm": "layer_sum"},
        },
        log=True,
    ),
)


def charts(measurements: Iterable[Measurement], specs: Sequence[ChartSpec] = SPECS) -> list[dict[str, Any]]:
    """The charts for which there are measurements, as the page's script reads them."""
    by_experiment: dict[str, list[Measurement]] = defaultdict(list)
    for one in measurements:
        by_experiment[one.experiment].append(one)
    drawn = [_chart(spec, by_experiment[spec.experiment]) for spec in specs]
    return [chart for chart in drawn if chart["points"]]


def _chart(spec: ChartSpec, measurements: Iterable[Measurement]) -> dict[str, Any]:
    measurements = list(measurements)
    rates = sorted({rate for one in measurements for rate in one.series.get("learning_rates", ())})
    values: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    diverged: dict[tuple[Any, ...], int] = defaultdict(int)
    seen: set[tuple[Any, ...]] = set()
    for one in measurements:
        arm = dict(one.conditions)
        norm = next((norm for norm, wanted in spec.arms.items() if arm.items() >= {**spec.where, **wanted}.items()), "")
        if not norm:
            continue
        place = (norm, arm.get("batch"), arm.get("depth"))
        if (*place, one.seed) in seen:
            raise ValueError(f"chart {spec.id}: its conditions leave open what varies at {place}, seed {one.seed}")
        seen.add((*place, one.seed))
        for lr, value in _observed(spec, one, rates):
            key = (*place, lr)
            if value is None:
                diverged[key] += 1
            if value is not None or spec.diverged_as is not None:
                values[key].append(spec.diverged_as if value is None else value)  # type: ignore[arg-type]
    points = [_point(key, values[key], diverged[key]) for key in sorted({*values, *diverged}, key=str)]
    norms = [norm for norm in NAMES if any(point["norm"] == norm for point in points)]
    return {
        "id": spec.id,
        "title": spec.title,
        "metric": spec.words,
        "note": spec.note,
        "log": spec.log,
        "lower": True,
        "norms": norms,
        "names": NAMES,
        "points": [point for point in points if point["norm"] in norms],
    }


def _observed(spec: ChartSpec, one: Measurement, rates: Sequence[float]) -> Iterator[tuple[float | None, float | None]]:
    """(learning rate, value) of a measurement; no value where the run diverged."""
    if not spec.along_learning_rates:
        yield None, one.metrics.get(spec.metric) if one.status == "done" else None
        return
    found = dict(zip(one.series.get("learning_rates", ()), one.series.get(spec.metric, ()), strict=True))
    for rate in rates:
        yield rate, found.get(rate)


def _point(key: tuple[Any, ...], values: Sequence[float], diverged: int) -> dict[str, Any]:
    norm, batch, depth, lr = key
    mean = interval(values)
    return {
        "norm": norm,
        "batch": batch,
        "depth": depth,
        "lr": lr,
        "mean": mean.mean if mean else None,
        "low": mean.low if mean else None,
        "high": mean.high if mean else None,
        "n": len(values) if values else diverged,
        "diverged": diverged,
    }
