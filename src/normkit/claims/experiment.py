"""What an experiment is: it plans jobs for a tier, and measures one job at a time. Plain data on both ends.

An experiment knows no claim and judges nothing; the rules in ``rules/`` say which measurements decide what.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

Tier = Literal["instant", "quick", "full"]
TIERS: tuple[Tier, ...] = ("instant", "quick", "full")

Condition = str | int | float | bool

# The value of a metric that is not a number: a measurement holds finite numbers only.
UNDEFINED = 1e300
Status = Literal["done", "diverged", "failed"]


@dataclass(frozen=True)
class Job:
    """A piece of work of at most some seconds, all that determines its numbers, and nothing else.

    Seeds (and learning rates that are only tuned over) may be computed together, stacked along a leading axis: a job
    leaves a measurement for each seed.
    """

    experiment: str  # "E05"
    conditions: tuple[tuple[str, Condition], ...]  # sorted by name; see ``conditions`` below
    seeds: tuple[int, ...]
    steps: int = 0  # optimizer steps, where there are any

    @property
    def arm(self) -> Mapping[str, Condition]:
        """The conditions by name."""
        return MappingProxyType(dict(self.conditions))


@dataclass(frozen=True)
class Measurement:
    """What one seed of a job gave. A run that diverged is an outcome: it has no metrics and is never dropped."""

    experiment: str
    conditions: tuple[tuple[str, Condition], ...]
    seed: int
    status: Status = "done"
    metrics: Mapping[str, float] = field(default_factory=dict)  # finite numbers only
    series: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # curves for the page: a few dozen points
    message: str = ""  # why, for every status but "done"


@dataclass(frozen=True)
class Experiment:
    """One experiment card.

    Attributes:
        id: "E05".
        title: what is measured, in one line.
        question: what it decides, in one sentence that a student understands.
        jobs: tier -> the jobs, most telling first; () where the tier leaves the experiment out. A job of one tier that
            another tier has too is the same job, so that its measurements are used again.
        measure: job -> a measurement for each of its seeds. A pure function: the same job gives the same numbers,
            whatever ran before, on one thread.
        seconds: job -> about how long it takes on one core, for planning.
    """

    id: str
    title: str
    question: str
    jobs: Callable[[Tier], Sequence[Job]]
    measure: Callable[[Job], Sequence[Measurement]]
    seconds: Callable[[Job], float]


def conditions(**values: Condition) -> tuple[tuple[str, Condition], ...]:
    """Conditions in the one order that makes equal ones equal.

    Example:
        >>> conditions(norm="layer", batch=2)
        (('batch', 2), ('norm', 'layer'))
    """
    return tuple(sorted(values.items()))
