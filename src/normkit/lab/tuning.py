"""Which learning rate to try next, and which one to take: a pure function of what was tried.

Every norm is tuned for itself at every batch size, on seeds that are used for nothing else, by the mean
validation loss over those seeds. A run that diverged has infinite loss; it is never left out. Where the best
learning rate sits at an edge of the grid, the grid grows by two points beyond that edge, at most twice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

TUNING_SEEDS_FROM = 1000  # tuning seeds are 1000, 1001, ...; evaluation seeds are below
MAX_EXTENSIONS = 2
POINTS_PER_EXTENSION = 2


@dataclass(frozen=True)
class Tuning:
    """Where tuning stands."""

    missing: tuple[float, ...]  # learning rates that still lack runs; empty once the choice is made
    chosen: float | None = None  # None once nothing is missing: every run of every learning rate diverged
    complete: bool = False  # the chosen one has worse neighbours on both sides
    tried: tuple[float, ...] = ()


def tune(grid: Sequence[float], losses: Mapping[float, Sequence[float]], n_seeds: int) -> Tuning:
    """What is left to try, or the choice.

    The answer depends on the losses alone, not on the order in which they came, so that a resumed tuning
    takes the same path.

    Args:
        grid: learning rates to start from.
        losses: learning rate -> validation losses of its finished runs, infinite where one diverged.
        n_seeds: runs that each learning rate gets.

    Example:
        >>> tune([0.001, 0.01, 0.1], {0.001: [0.5]}, n_seeds=1).missing
        (0.01, 0.1)
        >>> tune([0.001, 0.01, 0.1], {0.001: [0.5], 0.01: [0.2], 0.1: [0.3]}, n_seeds=1).chosen
        0.01
        >>> tune([0.001, 0.01, 0.1], {0.001: [0.5], 0.01: [0.3], 0.1: [0.2]}, n_seeds=1).missing
        (1.0, 10.0)
    """
    points = sorted(set(grid))
    for extension in range(MAX_EXTENSIONS + 1):
        missing = tuple(rate for rate in points if len(losses.get(rate, ())) < n_seeds)
        if missing:
            return Tuning(missing)
        best = _best(points, losses)
        beyond = _beyond(points, best)
        if not beyond or extension == MAX_EXTENSIONS:
            return Tuning((), best, complete=not beyond, tried=tuple(points))
        points = sorted({*points, *beyond})
    raise AssertionError("the last turn of the loop returns")


def mean_loss(losses: Sequence[float]) -> float:
    """The mean, infinite if any run diverged."""
    return math.fsum(losses) / len(losses) if all(map(math.isfinite, losses)) else math.inf


def _best(points: Sequence[float], losses: Mapping[float, Sequence[float]]) -> float | None:
    """The learning rate of lowest mean loss; of equals one inside the grid. None if all diverged."""
    edges = (points[0], points[-1])
    loss, _, best = min((mean_loss(losses[rate]), rate in edges, rate) for rate in points)
    return best if math.isfinite(loss) else None


def _beyond(points: Sequence[float], best: float | None) -> list[float]:
    """The points by which the grid grows: none if the best is inside, smaller ones if all diverged."""
    found = []
    if best is None or best == points[0]:
        found += _continued(points[::-1], factor=1 / math.sqrt(10))
    if best == points[-1]:
        found += _continued(points, factor=math.sqrt(10))
    return found


def _continued(points: Sequence[float], factor: float) -> list[float]:
    """The next points of a grid in its own rhythm: 1, 3, 10 goes on with 30, 100. One point has no rhythm:
    it goes on by ``factor``."""
    known = list(points)
    for _ in range(POINTS_PER_EXTENSION):
        if len(known) >= 3:
            step = known[-2] / known[-3]
        elif len(known) == 2:
            step = known[-1] / known[-2]
        else:
            step = factor
        # Six digits: 0.1 and not 0.09999999999999999, the same number whatever the way to it.
        known.append(float(f"{known[-1] * step:.6g}"))
    return known[len(points) :]
