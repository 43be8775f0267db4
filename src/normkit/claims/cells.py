"""Which measurements a hypothesis is about: a number for each seed, or that it diverged there."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from typing import Final

from normkit.claims.experiment import UNDEFINED, Condition, Measurement
from normkit.claims.hypothesis import Hypothesis

# Words in a metric's name that tell on which side of all numbers a run that diverged belongs.
_HIGH_IS_WORSE: Final = frozenset(
    {"nll", "loss", "error", "mse", "excess", "gap", "steps", "time", "seconds", "ms", "diverged"}
)
_LOW_IS_WORSE: Final = frozenset({"accuracy", "acc", "improvement", "agreement", "lr"})


class UnclearError(Exception):
    """A hypothesis cannot be judged by these measurements, and why."""


def select(
    hypothesis: Hypothesis, side: Mapping[str, Condition], measurements: Iterable[Measurement]
) -> list[Measurement]:
    """The measurements of a hypothesis' experiment that meet these conditions. Failed ones are none."""
    return [m for m in Arms(measurements).of(hypothesis, [side]) if m.status != "failed"]


def missing(
    hypothesis: Hypothesis, side: Mapping[str, Condition], measurements: Iterable[Measurement]
) -> list[Measurement]:
    """What should meet these conditions too, and was not measured or failed."""
    return [m for m in Arms(measurements).of(hypothesis, [side]) if m.status == "failed"]


class Arms:
    """Measurements by what they share: asked for once for all seeds."""

    def __init__(self, measurements: Iterable[Measurement]) -> None:
        self._of: dict[str, dict[Hashable, list[Measurement]]] = {}
        for m in measurements:
            key = m.conditions, tuple(isinstance(value, bool) for _, value in m.conditions)  # true is not 1
            self._of.setdefault(m.experiment, {}).setdefault(key, []).append(m)

    def of(self, hypothesis: Hypothesis, sides: Collection[Mapping[str, Condition]]) -> list[Measurement]:
        """Those of a hypothesis' experiment that meet the conditions of any of these sides, failed or not."""
        arms = self._of.get(hypothesis.experiment, {}).values()
        return [m for arm in arms if any(_meets(dict(arm[0].conditions), side) for side in sides) for m in arm]


def by_seed(
    hypothesis: Hypothesis, side: Mapping[str, Condition], measurements: Iterable[Measurement]
) -> dict[int, float]:
    """Seed -> value, infinite on the worse side for a run that diverged or whose metric is undefined.

    Raises:
        UnclearError: several measurements of one seed meet the conditions; a run diverged and nobody says as what that
            counts; a metric is missing.
    """
    found: dict[int, float] = {}
    for m in select(hypothesis, side, measurements):
        if m.seed in found:
            raise UnclearError(f"the conditions {describe(side)} leave open what varies: seed {m.seed} is there twice")
        found[m.seed] = value(hypothesis, m)
    return found


def curves(
    hypothesis: Hypothesis, side: Mapping[str, Condition], measurements: Iterable[Measurement]
) -> dict[int, list[tuple[float, float]]]:
    """Seed -> (along, value) in rising order, of the seeds that have every place that any has or failed at.

    Raises:
        UnclearError: as :func:`by_seed`; ``along`` is no number; no seed has every place.
    """
    measurements = list(measurements)
    found: dict[int, dict[float, float]] = {}
    for m in select(hypothesis, side, measurements):
        place = dict(m.conditions).get(hypothesis.along)
        if isinstance(place, (str, bool)) or place is None:
            raise UnclearError(f"{hypothesis.along} is no number in {describe(dict(m.conditions))}")
        line = found.setdefault(m.seed, {})
        if place in line:
            raise UnclearError(f"the conditions {describe(side)} leave open what varies: seed {m.seed} is there twice")
        line[float(place)] = value(hypothesis, m)
    places = {place for line in found.values() for place in line}
    planned = (dict(m.conditions).get(hypothesis.along) for m in missing(hypothesis, side, measurements))
    places |= {float(place) for place in planned if isinstance(place, (int, float))}
    whole = {seed: sorted(line.items()) for seed, line in found.items() if set(line) == places}
    if not whole:
        raise UnclearError(f"no seed was measured at every {hypothesis.along}: {', '.join(map(str, sorted(places)))}")
    return whole


def value(hypothesis: Hypothesis, measurement: Measurement) -> float:
    """The metric of a measurement, turned if the hypothesis says so."""
    turned = hypothesis.metric.startswith("-")
    name = hypothesis.metric.removeprefix("-")
    sign = -1.0 if turned else 1.0
    if measurement.status == "diverged":
        if hypothesis.diverged_as is not None:
            return sign * hypothesis.diverged_as
        return sign * _worst(name)
    if name not in measurement.metrics:
        known = ", ".join(sorted(measurement.metrics))
        raise UnclearError(f"the metric {name} is not among those measured: {known}")
    plain = measurement.metrics[name]
    if not abs(plain) < UNDEFINED:  # the store keeps no others; whoever judges others' numbers is no safer
        if hypothesis.diverged_as is not None:
            return sign * hypothesis.diverged_as
        return sign * _worst(name)
    return sign * plain


def has_no_value(hypothesis: Hypothesis, measurement: Measurement) -> bool:
    """Whether a run diverged or its metric is undefined: it then ranks as the worst."""
    plain = measurement.metrics.get(hypothesis.metric.removeprefix("-"), 0.0)
    return measurement.status == "diverged" or not abs(plain) < UNDEFINED


def untuned(measurements: Iterable[Measurement]) -> bool:
    """Whether the best learning rate of any of these lies at the edge of those tried: it may do better than shown."""
    return any(m.metrics.get("tuning_incomplete", 0.0) > 0 for m in measurements)


def never_learned(measurements: Sequence[Measurement]) -> bool:
    """Whether most of these stayed near chance, at the best learning rate that was found."""
    return sum(m.metrics.get("not_learned", 0.0) for m in measurements) > len(measurements) / 2


def is_worse_where_higher(metric: str) -> bool | None:
    """Whether a high value of a metric is a bad one; None where its name does not say."""
    try:
        return (_worst(metric.removeprefix("-")) > 0) != metric.startswith("-")
    except UnclearError:
        return None


def _worst(name: str) -> float:
    words = set(name.split("_"))
    if words & _HIGH_IS_WORSE and not words & _LOW_IS_WORSE:
        return math.inf
    if words & _LOW_IS_WORSE and not words & _HIGH_IS_WORSE:
        return -math.inf
    raise UnclearError(f"a run diverged, and the rule does not say what that counts as in {name}")


def describe(conditions: Mapping[str, Condition]) -> str:
    """Conditions in words: "batch=2, norm=layer"."""
    return ", ".join(f"{name}={wanted}" for name, wanted in conditions.items()) or "(none)"


def _meets(actual: Mapping[str, Condition], wanted: Mapping[str, Condition]) -> bool:
    # A plain loop: every side of every hypothesis asks this of every arm.
    for name, condition in wanted.items():  # noqa: SIM110
        if name not in actual or not _same(actual[name], condition):
            return False
    return True


def _same(one: Condition, other: Condition) -> bool:
    """1, 1.0 and True are equal in Python; a condition that is true is not one that is 1."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def paired(these: Mapping[int, float], those: Mapping[int, float]) -> tuple[Sequence[float], Sequence[float]]:
    """The values of the seeds that both have, in the order of the seeds."""
    seeds = sorted(these.keys() & those.keys())
    return [these[seed] for seed in seeds], [those[seed] for seed in seeds]
