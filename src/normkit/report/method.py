"""How a comparison was made, as short facts: where it ran, how long, what was left out, what stays open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from normkit.lab.comparison import Comparison
from normkit.report import wording


@dataclass(frozen=True)
class Fact:
    label: str
    value: str


@dataclass(frozen=True)
class MethodView:
    facts: tuple[Fact, ...]
    protocol: tuple[str, ...]  # sentences
    cut: tuple[str, ...]
    untuned: tuple[str, ...]  # "digits-mlp, batch 1: none at learning rate 0.03"


def method(comparison: Comparison) -> MethodView:
    """The facts in the order of the provenance, the counts of runs first."""
    provenance = dict(comparison.provenance)
    protocol = provenance.pop("protocol", ())
    if not isinstance(protocol, (list, tuple)):
        protocol = (protocol,)
    runs = f"{comparison.n_computed} computed"
    if comparison.n_resumed:
        runs += f", {comparison.n_resumed} found finished from earlier"
    counted = [Fact("Runs", runs), Fact("Time", wording.duration(comparison.wall_s))]
    told = [Fact(_label(name), _value(value)) for name, value in provenance.items()]
    return MethodView(
        facts=(*counted, *told),
        protocol=tuple(_value(sentence) for sentence in protocol),
        cut=comparison.cut,
        untuned=_untuned(comparison),
    )


def _untuned(comparison: Comparison) -> tuple[str, ...]:
    return tuple(
        f"{cell.task}, batch {cell.batch_size}: {score.norm} at learning rate {wording.rate(score.learning_rate)}"
        for cell in comparison.cells
        for score in cell.scores
        if not score.tuning_complete
    )


def _label(name: str) -> str:
    words = name.replace("_", " ")
    return words[:1].upper() + words[1:]


def _value(value: Any) -> str:
    """Nested plain data in one line: "python 3.11.2, torch 2.13.0"."""
    if isinstance(value, Mapping):
        return "; ".join(f"{name} {_value(part)}" for name, part in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_value(part) for part in value)
    return str(value)
