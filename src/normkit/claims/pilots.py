"""The surprises of small trials, named before any experiment was run, and what the experiments make of them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from normkit.claims.claim import ConditionRule
from normkit.claims.experiment import Measurement
from normkit.claims.findings import Finding
from normkit.claims.hypothesis import Hypothesis
from normkit.claims.judge import judge
from normkit.claims.verdicts import ConditionVerdict, EvidenceVerdict, named, over_conditions

PilotOutcome = Literal["reproduces", "refuted", "in part", "open", "not run"]
OUTCOMES: Mapping[EvidenceVerdict, PilotOutcome] = {
    "holds": "reproduces",
    "fails": "refuted",
    "depends": "in part",
    "inconclusive": "open",
    "not run": "not run",
}


@dataclass(frozen=True)
class Pilot:
    """What a small trial showed.

    Attributes:
        trial: its numbers, of two to four seeds: what to expect, no evidence.
        conditions: in which it is put to the test.
    """

    id: str
    statement: str
    trial: str
    conditions: tuple[ConditionRule, ...]


@dataclass(frozen=True)
class PilotVerdict:
    """What the experiments make of it.

    Attributes:
        condition: where it is so and where not, or why it is open; "" where nothing is to be added.
    """

    pilot: Pilot
    outcome: PilotOutcome
    condition: str
    conditions: tuple[ConditionVerdict, ...]


def put_to_test(
    pilots: Sequence[Pilot], rules: Mapping[str, Hypothesis], measurements: Sequence[Measurement]
) -> tuple[tuple[PilotVerdict, ...], dict[str, Finding]]:
    """The verdicts on pilots, and the findings behind them: their hypotheses are judged together, and with no others.

    Args:
        pilots: of :func:`normkit.claims.register.pilots`.
        rules: every hypothesis by its id.
        measurements: in any order; those of no rule do not matter.
    """
    family = named(rule for pilot in pilots for rule in pilot.conditions)
    findings = judge([rules[id_] for id_ in family if id_ in rules], measurements)
    verdicts = []
    for pilot in pilots:
        evidence, words, conditions = over_conditions(pilot.conditions, findings)
        verdicts.append(PilotVerdict(pilot, OUTCOMES[evidence], words, conditions))
    return tuple(verdicts), findings
