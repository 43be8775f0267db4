"""The figure that decides a hypothesis: a strip with its interval, its seeds and the place where it would turn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from normkit.claims import Finding
from normkit.claims.hypothesis import Hypothesis
from normkit.report import wording

WIDTH, HEIGHT = 560.0, 58.0
LEFT, RIGHT = 14.0, 546.0
LINE_Y, SCALE_Y = 20.0, 44.0

# Errors of exact checks, on a scale of decades from below the rounding of float64.
LEAST_DECADE, MOST_DECADE = -18, 2


@dataclass(frozen=True)
class Tick:
    x: float
    label: str
    anchor: str = "middle"


@dataclass(frozen=True)
class Strip:
    """A strip in the units of its SVG.

    Attributes:
        zones: (from, to) where the hypothesis holds.
        bar: (from, to) of the 95 % interval.
        dot: the effect.
        seeds: one for each.
        ticks: on the scale.
        label: the same in words, for who cannot see it.
    """

    zones: tuple[tuple[float, float], ...]
    bar: tuple[float, float] | None
    dot: float
    seeds: tuple[float, ...]
    ticks: tuple[Tick, ...]
    label: str


def strip(hypothesis: Hypothesis, finding: Finding) -> Strip | None:
    """The strip of a finding; None where there is no number to show."""
    if finding.effect is None:
        return None
    return _exact(hypothesis, finding) if hypothesis.kind == "exact" else _judged(hypothesis, finding)


def _exact(hypothesis: Hypothesis, finding: Finding) -> Strip:
    assert finding.effect is not None
    margin = max(hypothesis.margin, 1e-18)

    def place(value: float) -> float:
        decade = math.log10(value) if value > 0 else LEAST_DECADE
        return _between((decade - LEAST_DECADE) / (MOST_DECADE - LEAST_DECADE))

    # "0" stands at the end where the logarithm has no place for it.
    ticks = [
        Tick(LEFT, "0", "start"),
        *(Tick(place(10.0**d), f"1e{d}".replace("-", "−")) for d in (-15, -12, -9, -6, -3, 0)),
    ]
    return Strip(
        zones=((LEFT, place(margin)),),
        bar=None,
        dot=place(finding.effect),
        seeds=(),
        ticks=tuple(ticks),
        label=f"largest error {finding.effect:.2g}; it holds below {hypothesis.margin:g}",
    )


def _judged(hypothesis: Hypothesis, finding: Finding) -> Strip:
    assert finding.effect is not None
    bounds = _turning_points(hypothesis)
    shown = [finding.effect, *bounds, *finding.values, *(v for v in (finding.low, finding.high) if v is not None)]
    if hypothesis.kind not in ("value", "slope"):
        shown.append(0.0)
    low, high = min(shown), max(shown)
    room = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    low, high = low - room, high + room

    def place(value: float) -> float:
        return _between((value - low) / (high - low))

    zone = (place(bounds[0]), RIGHT if len(bounds) == 1 else place(bounds[1]))
    return Strip(
        zones=(zone,),
        bar=None if finding.low is None or finding.high is None else (place(finding.low), place(finding.high)),
        dot=place(finding.effect),
        seeds=tuple(place(value) for value in finding.values),
        ticks=tuple(Tick(place(value), _short(value)) for value in _round_values(low, high)),
        label=f"{in_words(hypothesis, finding)}; it holds {where_it_holds(hypothesis)}",
    )


def _turning_points(hypothesis: Hypothesis) -> tuple[float, ...]:
    """From where on, or between which, it holds."""
    margin = hypothesis.margin
    if hypothesis.kind in ("value", "slope"):
        return hypothesis.target - margin, hypothesis.target + margin
    if hypothesis.is_likeness:
        return (math.expm1(-math.log1p(margin)), margin) if hypothesis.scale == "ratio" else (-margin, margin)
    return (0.0 if hypothesis.kind == "trend" else margin,)


def where_it_holds(hypothesis: Hypothesis) -> str:
    """The rule, in words: "above 2 points"."""
    points = [_short(point) for point in _turning_points(hypothesis)]
    unit = f" {hypothesis.unit}" if hypothesis.unit else ""
    if hypothesis.kind == "exact":
        return f"below {hypothesis.margin:g}{unit}"
    return f"above {points[0]}{unit}" if len(points) == 1 else f"between {points[0]} and {points[1]}{unit}"


def in_words(hypothesis: Hypothesis, finding: Finding) -> str:
    """Effect and interval: "31.2 points, 95 % interval 28.9 to 33.5, 12 seeds"."""
    if finding.effect is None:
        return ""
    unit = f" {hypothesis.unit}" if hypothesis.unit else ""
    if hypothesis.kind == "exact":
        return f"largest error {finding.effect:.2g}{unit}"
    words = f"{_short(finding.effect)}{unit}"
    if finding.low is not None and finding.high is not None:
        words += f", 95 % interval {_short(finding.low)} to {_short(finding.high)}"
    return f"{words}, {wording.count(finding.n, 'seed')}"


def _between(part: float) -> float:
    return round(LEFT + min(max(part, 0.0), 1.0) * (RIGHT - LEFT), 1)


def _round_values(low: float, high: float) -> Sequence[float]:
    """Round numbers, about five of them."""
    raw = (high - low) / 5
    decade = 10.0 ** math.floor(math.log10(raw))
    step = next(digit * decade for digit in (1, 2, 5, 10) if digit * decade >= raw)
    first = math.ceil(low / step)
    return [place * step for place in range(first, math.floor(high / step) + 1)]


def _short(value: float) -> str:
    text = f"{value:.3g}" if value else "0"
    return text.replace("-", "−")
