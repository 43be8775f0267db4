"""From measurements to the charts behind the sliders: means over seeds with intervals, and nothing that was not run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

from normkit.claims.experiment import UNDEFINED, Condition, Measurement
from normkit.lab.statistics import interval

AXES = ("batch", "depth", "lr", "scale")
SERIES_OF = {"lr": "learning_rates", "scale": "scales"}  # axes along which one measurement has many values
NAMES = {
    "none": "no norm",
    "batch": "BatchNorm",
    "layer": "LayerNorm",
    "rms": "RMSNorm",
    "group": "GroupNorm",
    "instance": "InstanceNorm",
    "batch_renorm": "BatchRenorm",
    "filter_response": "FRN",
}
TUNED_BY = "val_nll_of_"  # with a seed: its validation loss at each learning rate by which an arm was tuned
MOST_NATS = 10.0  # guessing one of ten digits has 2.3
CHANCE = 90.0  # per cent wrong, by guessing one of ten digits

BY_NORM: Mapping[str, Mapping[str, Condition]] = {norm: {"norm": norm} for norm in NAMES}
DIGITS: Mapping[str, Condition] = {"task": "digits"}
RECURRENT: Mapping[str, Mapping[str, Condition]] = {
    "none": {"norm": "none", "weight": 1.0},
    "batch": {"norm": "batch_separate", "weight": 0.1},
    "layer": {"norm": "layer_sum", "weight": 1.0},
    "rms": {"norm": "rms_sum", "weight": 1.0},
}

Place = tuple[Any, ...]  # a norm, then a value of each axis, None where there is none


@dataclass(frozen=True)
class ChartSpec:
    """Which measurements a chart shows.

    Attributes:
        words: the metric, for people.
        where: conditions that a measurement must have. One with conditions beside these, its norm and the axes stays
            out: it is of another design.
        arms: norm -> the conditions by which the experiment's measurements with it are told.
        metric: the name of a metric; of a series where the chart has axes ``along``.
        of_tuning: whether the runs shown are those by which learning rates were chosen, of seeds of their own.
        along: axes along which that series runs, the last one fastest.
        diverged_as: what a run that diverged counts as; None: the point is left out, and the divergence told.
        limits: between which the metric lies, so that no interval is drawn beyond.
    """

    id: str
    title: str
    experiment: str
    metric: str
    words: str
    note: str
    where: Mapping[str, Condition]
    arms: Mapping[str, Mapping[str, Condition]] = field(default_factory=lambda: BY_NORM)
    along: tuple[str, ...] = ()
    of_tuning: bool = False
    diverged_as: float | None = None
    log: bool = False
    limits: tuple[float | None, float | None] = (0.0, None)

    def norm_of(self, arm: Mapping[str, Condition]) -> str:
        """The norm as which the chart shows measurements under these conditions; "" for none."""
        for norm, told_by in self.arms.items():
            wanted = {**self.where, **told_by}
            if arm.items() >= wanted.items() and arm.keys() <= {*wanted, *AXES}:
                return norm
        return ""


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
        "cnn",
        "CNN",
        "E06",
        "test_nll",
        "test loss in nats",
        "A residual convolutional network on 8 × 8 digits, each norm at the learning rate tuned for it at that batch "
        "size.",
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
        DIGITS,
        arms=RECURRENT,
        log=True,
    ),
    *(
        ChartSpec(
            f"rates-{of}",
            f"Learning rate, {name}",
            experiment,
            "val_nll",
            "validation loss in nats",
            f"{what} at every learning rate by which each norm was tuned, on seeds of their own. A loss above "
            f"{MOST_NATS:g} nats, which is far worse than guessing, is drawn at the edge. A mean is of the runs that "
            "did not diverge, and those that did are told beside it; the tuning took no rate at which any did.",
            where,
            arms=arms,
            along=("lr",),
            of_tuning=True,
            log=True,
            limits=(0.0, MOST_NATS),
        )
        for of, name, experiment, what, where, arms in (
            ("mlp", "MLP", "E05", "The multilayer perceptron of two layers", {"design": "batch"}, BY_NORM),
            ("cnn", "CNN", "E06", "The residual convolutional network", {"design": "batch"}, BY_NORM),
            ("rnn", "recurrent network", "E16", "The network that reads two pixels a step", DIGITS, RECURRENT),
        )
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
        along=("lr",),
        diverged_as=CHANCE,
        limits=(0.0, 100.0),
    ),
    ChartSpec(
        "usable-cnn",
        "Usable learning rates, CNN",
        "E10",
        "val_error",
        "validation error in per cent",
        "A residual convolutional network on 8 × 8 digits at every learning rate of the grid, nothing tuned. A run "
        "that diverged counts as guessing: 90 %.",
        {"network": "residual"},
        along=("lr",),
        diverged_as=CHANCE,
        limits=(0.0, 100.0),
    ),
    ChartSpec(
        "sigmoid",
        "Sigmoid layers",
        "E14",
        "test_error",
        "test error in per cent",
        "Multilayer perceptrons of sigmoid layers on 8 × 8 digits, trained by SGD, each norm at the learning rate "
        "tuned for it at that depth.",
        {"what": "training", "activation": "sigmoid", "optimizer": "sgd"},
        limits=(0.0, 100.0),
    ),
    ChartSpec(
        "map",
        "What trains at all",
        "E28",
        "error",
        "validation error in per cent",
        "A multilayer perceptron of four ReLU layers on 8 × 8 digits, at every learning rate and every scale of its "
        "hidden layers' initial weights, nothing tuned. A loss that was not finite counts as 100 %.",
        {},
        along=("scale", "lr"),
        limits=(0.0, 100.0),
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
    if spec.of_tuning:
        measurements = _tuning_runs(measurements)
    shown = [(norm, one) for one in measurements if (norm := spec.norm_of(dict(one.conditions)))]
    values: dict[Place, list[float]] = defaultdict(list)
    diverged: dict[Place, int] = defaultdict(int)
    seen: set[Place] = set()
    for norm, one in shown:
        arm = dict(one.conditions)
        if (norm, arm.get("batch"), arm.get("depth"), one.seed) in seen:
            raise ValueError(f"chart {spec.id}: seed {one.seed} is there twice for {norm} in {arm}")
        seen.add((norm, arm.get("batch"), arm.get("depth"), one.seed))
        for where, value in _observed(spec, one):
            at = {**arm, **where}
            key = (norm, *(at.get(axis) for axis in AXES))
            if value is None:
                diverged[key] += 1
                value = spec.diverged_as
            if value is not None:
                values[key].append(value)
    points = [_point(key, values[key], diverged[key]) for key in sorted({*values, *diverged}, key=str)]
    return {
        "id": spec.id,
        "title": spec.title,
        "metric": spec.words,
        "note": spec.note,
        "log": spec.log,
        "limits": spec.limits,
        "map": len(spec.along) > 1,
        "survivors": spec.diverged_as is None,
        "norms": [norm for norm in NAMES if any(point["norm"] == norm for point in points)],
        "points": points,
    }


def _tuning_runs(measurements: Iterable[Measurement]) -> Iterator[Measurement]:
    """The runs that tuned each arm, a measurement a seed; every measurement of the arm has them all."""
    for one in {one.conditions: one for one in measurements if "learning_rates" in one.series}.values():
        for name, losses in one.series.items():
            if name.startswith(TUNED_BY):
                series = {"learning_rates": one.series["learning_rates"], "val_nll": losses}
                yield replace(one, seed=int(name.removeprefix(TUNED_BY)), series=series)


def _observed(spec: ChartSpec, one: Measurement) -> Iterator[tuple[dict[str, float], float | None]]:
    """(where along the axes of its series, value) of a measurement; no value where the run diverged."""
    if not spec.along:
        yield {}, _finite(one.metrics.get(spec.metric)) if one.status == "done" else None
        return
    places = product(*(one.series.get(SERIES_OF[axis], ()) for axis in spec.along))
    for place, value in zip(places, one.series.get(spec.metric, ()), strict=True):
        yield dict(zip(spec.along, place, strict=True)), _finite(value)


def _finite(value: float | None) -> float | None:
    return value if value is not None and abs(value) < UNDEFINED else None


def _point(key: Place, values: Sequence[float], diverged: int) -> dict[str, Any]:
    mean = interval(values)
    return {
        "norm": key[0],
        **dict(zip(AXES, key[1:], strict=True)),
        "mean": mean.mean if mean else None,
        "low": mean.low if mean else None,
        "high": mean.high if mean else None,
        "n": len(values) if values else diverged,
        "diverged": diverged,
    }
