"""What a hypothesis is, as data: ``rules/E05.json`` is a list of these, one file an experiment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from normkit.claims.experiment import Condition

Kind = Literal[
    "exact",  # a largest error over a search: holds below the margin, fails with the counterexample at or above it
    "difference",  # these exceed those by more than the margin (>= 0), pair by pair of the same seed
    "equivalence",  # these and those differ by less than the margin, either way
    "slope",  # the log-log slope of the metric along ``along`` lies within the margin of ``target``
    "value",  # the mean of the metric lies within the margin of ``target``
    "trend",  # the metric rises with ``along`` (Spearman within each seed)
    "interaction",  # (these - those) exceeds (these_without - those_without) by more than the margin
    "no interaction",  # (these - those) and (these_without - those_without) differ by less than the margin, either way
]


@dataclass(frozen=True)
class Hypothesis:
    """One testable sentence.

    Attributes:
        id: "E05-H1".
        statement: the sentence, in words that stand alone: "At batch size 2 the MLP's test error with BatchNorm is at
            least 2 points above LayerNorm's."
        kind: how it is judged.
        metric: the name in a measurement's metrics; a run that diverged counts as ``diverged_as``.
        these, those: conditions that choose measurements: each given condition must match; what they leave open must
            not vary, but for ``along``. For "exact", "slope", "value" and "trend" only ``these``. A leading "-" of the
            metric turns its direction: "-test_nll" is higher where the loss is lower.
        margin: in the metric's unit; see ``kind``.
        unit: of the metric, for people: "points", "nats", "decades", "ulp", "".
        scale: "plain", or "ratio": differences of natural logarithms, and the margin a factor - 1.
        is_about_learning: whether a side that stays near chance is what the sentence speaks of. Elsewhere nothing is
            concluded from one: a set-up in which a network learns nothing says nothing of its norm.
    """

    id: str
    experiment: str
    statement: str
    kind: Kind
    metric: str
    these: Mapping[str, Condition] = field(default_factory=dict)
    those: Mapping[str, Condition] = field(default_factory=dict)
    these_without: Mapping[str, Condition] = field(default_factory=dict)
    those_without: Mapping[str, Condition] = field(default_factory=dict)
    along: str = ""
    target: float = 0.0
    margin: float = 0.0
    unit: str = ""
    scale: Literal["plain", "ratio"] = "plain"
    is_about_learning: bool = False
    diverged_as: float | None = None  # None: a hypothesis over a diverged run is judged by ranks, as the worst

    @property
    def is_likeness(self) -> bool:
        """Whether it says that two things differ by less than the margin, either way."""
        return self.kind in ("equivalence", "no interaction")
