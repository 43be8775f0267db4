"""Heat maps of experiments that go over a plane: how a network fared at each learning rate and initial scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from normkit.claims import cells
from normkit.claims.experiment import Measurement
from normkit.claims.hypothesis import Hypothesis

WIDTH, HEIGHT = 300.0, 186.0
LEFT, TOP, CELL_W, CELL_H = 34.0, 6.0, 29.0, 20.0

# Per cent of errors up to which a cell has a colour, from the palette; the darkest is where the network trains.
SHADES = ((10.0, "heat4"), (20.0, "heat3"), (40.0, "heat2"), (70.0, "heat1"), (100.0, "heat0"))


@dataclass(frozen=True)
class PlaneCell:
    x: float
    y: float
    shade: str
    words: str


@dataclass(frozen=True)
class PlaneTick:
    x: float
    y: float
    label: str


@dataclass(frozen=True)
class Plane:
    """One arm's plane in the units of its SVG.

    Attributes:
        title: the arm: "norm batch, batch 100".
        label: the same with what is shown, for who cannot see it.
    """

    title: str
    cells: tuple[PlaneCell, ...]
    ticks: tuple[PlaneTick, ...]
    label: str


def planes(hypothesis: Hypothesis, measurements: Sequence[Measurement]) -> tuple[Plane, ...]:
    """The planes of both sides of a hypothesis; () where its experiment has none."""
    chosen = [cells.select(hypothesis, side, measurements) for side in (hypothesis.these, hypothesis.those)]
    mapped = [[m for m in side if {"learning_rates", "scales", "error"} <= m.series.keys()] for side in chosen]
    return tuple(_plane(side) for side in mapped) if all(mapped) else ()


def _plane(arm: Sequence[Measurement]) -> Plane:
    """Of each cell the mean over the seeds."""
    rates, scales = arm[0].series["learning_rates"], arm[0].series["scales"]
    errors = [fmean(values) for values in zip(*(m.series["error"] for m in arm), strict=True)]
    found = []
    for i, error in enumerate(errors):
        row, column = divmod(i, len(rates))
        words = f"learning rate {rates[column]:g}, initial weights \u00d7 {scales[row]:g}: {error:.0f} % of errors"
        shade = next((name for most, name in SHADES if error <= most), SHADES[-1][1])
        found.append(PlaneCell(LEFT + column * CELL_W, TOP + (len(scales) - 1 - row) * CELL_H, shade, words))
    bottom = TOP + len(scales) * CELL_H
    ticks = [PlaneTick(LEFT + (i + 0.5) * CELL_W, bottom + 14, f"{rate:g}") for i, rate in enumerate(rates)][::2]
    ticks += [
        PlaneTick(LEFT - 5, TOP + (len(scales) - 0.5 - i) * CELL_H + 4, f"{scale:g}") for i, scale in enumerate(scales)
    ][::3]
    title = ", ".join(f"{name} {value}" for name, value in reversed(arm[0].conditions))
    trains = sum(error <= SHADES[0][0] for error in errors)
    return Plane(
        title=title,
        cells=tuple(found),
        ticks=tuple(ticks),
        label=f"{title}: at {trains} of {len(errors)} learning rates and initial scales the mean error is 10 % or less",
    )
