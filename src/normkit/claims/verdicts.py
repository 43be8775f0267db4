"""From findings to verdicts: what each claim comes to, and in which condition. Pure, as the judge is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

from normkit.claims.claim import Claim, ConditionRule
from normkit.claims.experiment import Measurement, Tier
from normkit.claims.findings import Finding
from normkit.claims.hypothesis import Hypothesis
from normkit.claims.judge import judge
from normkit.claims.logic import Outcome, all_of, evaluate, names
from normkit.claims.records import JobRecord

EvidenceVerdict = Literal["holds", "fails", "depends", "inconclusive", "not run"]
EVIDENCE_VERDICTS: tuple[EvidenceVerdict, ...] = ("holds", "fails", "depends", "inconclusive", "not run")


@dataclass(frozen=True)
class ConditionVerdict:
    """What a claim comes to in one of its conditions."""

    name: str
    outcome: Outcome
    hypotheses: tuple[str, ...]
    axis: str = ""
    at: float | None = None
    expression: str = ""  # how the hypotheses make up the condition


@dataclass(frozen=True)
class Verdict:
    """The three verdicts on a claim: on its text, on the evidence, and of the literature (the last in ``claim``).

    Attributes:
        evidence: "depends" if it holds in some conditions and fails in others.
        condition: on what it depends and where it turns; why it is open; "" where nothing is to be added.
    """

    claim: Claim
    evidence: EvidenceVerdict
    condition: str
    conditions: tuple[ConditionVerdict, ...]


@dataclass(frozen=True)
class Verdicts:
    """What ``normkit.claims.run`` found.

    Attributes:
        verdicts: one for each claim asked for.
        findings: hypothesis -> finding, of all that these claims rest on.
        measurements: everything that was judged.
        tier: what was asked for.
        records: the jobs that the measurements come from.
        experiments: experiment -> its title and its question.
        is_shipped: whether they are those that come with the package.
        cut: what was left out to fit the budget, a sentence each.
        notes: what else the reader should know: rules that changed since, records of another version.
        provenance: machine and versions of the measurements, rules hash, when.
    """

    verdicts: tuple[Verdict, ...]
    findings: Mapping[str, Finding]
    measurements: tuple[Measurement, ...]
    tier: Tier
    records: tuple[JobRecord, ...] = ()
    experiments: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    is_shipped: bool = False
    cut: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()
    interrupted: bool = False
    n_computed: int = 0
    n_resumed: int = 0
    wall_s: float = 0.0
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def counts(self) -> dict[EvidenceVerdict, int]:
        """How many claims hold, fail, depend, are inconclusive, were not run; those without a test are not counted."""
        found = Counter(verdict.evidence for verdict in self.verdicts if verdict.claim.conditions)
        return {verdict: found[verdict] for verdict in EVIDENCE_VERDICTS}


def decide(
    claims: Iterable[Claim], rules: Mapping[str, Hypothesis], measurements: Sequence[Measurement]
) -> tuple[tuple[Verdict, ...], dict[str, Finding]]:
    """The verdicts on some claims, by these rules and measurements, and the findings behind them.

    The hypotheses that a document's claims speak of are judged together. A hypothesis that no rule gives is not run.

    Args:
        claims: whose evidence is asked for.
        rules: every hypothesis by its id.
        measurements: in any order; those of no rule do not matter.
    """
    wanted = list(claims)
    families = families_of(wanted)
    wanted_ids = dict.fromkeys(id_ for family in families for id_ in family)
    findings = judge([rules[id_] for id_ in wanted_ids if id_ in rules], measurements, families)
    return tuple(_verdict(claim, findings) for claim in wanted), findings


def families_of(claims: Iterable[Claim]) -> list[dict[str, None]]:
    """The hypotheses that are judged together, in their order: all that the claims of one document speak of."""
    found: dict[str, dict[str, None]] = {}
    for claim in claims:
        found.setdefault(claim.document.id, {}).update(named(claim.conditions))
    return list(found.values())


def named(rules: Iterable[ConditionRule]) -> dict[str, None]:
    """The hypotheses that conditions speak of, in their order."""
    return dict.fromkeys(id_ for rule in rules for id_ in names(rule.expression))


def _verdict(claim: Claim, findings: Mapping[str, Finding]) -> Verdict:
    if not claim.conditions:
        return Verdict(claim, "not run", "no experiment can decide it; see the literature", ())
    return Verdict(claim, *over_conditions(claim.conditions, findings))


def over_conditions(
    rules: Sequence[ConditionRule], findings: Mapping[str, Finding]
) -> tuple[EvidenceVerdict, str, tuple[ConditionVerdict, ...]]:
    """What a sentence comes to over its conditions, one at least: the verdict, where or why, and each condition's."""
    found = tuple(_in_condition(rule, findings) for rule in rules)
    came_out = [condition.outcome for condition in found]
    if {"holds", "fails"} <= set(came_out):
        return "depends", where_it_turns(found), found
    # An open condition may still turn out either way: neither "holds" nor "fails" is said before all are known.
    evidence = next((o for o in ("not run", "inconclusive") if o in came_out), all_of(came_out))
    return evidence, _remark(found, findings), found


def _in_condition(rule: ConditionRule, findings: Mapping[str, Finding]) -> ConditionVerdict:
    outcomes = {id_: finding.outcome for id_, finding in findings.items()}
    outcome = evaluate(rule.expression, outcomes)
    if outcome == "holds":  # still, if what is not a number, and so breaks a sentence, does not show its opposite
        unshown: dict[str, Outcome] = {id_: "inconclusive" for id_, finding in findings.items() if finding.is_undefined}
        outcome = evaluate(rule.expression, {**outcomes, **unshown})
    return ConditionVerdict(rule.name, outcome, names(rule.expression), rule.axis, rule.at, rule.expression)


def where_it_turns(conditions: Sequence[ConditionVerdict]) -> str:
    """In words: where it holds, where it fails, and between which values it turns.

    Names are parted by semicolons, since many have commas of their own.

    Example:
        >>> small = ConditionVerdict("batch size 4", "fails", (), "batch size", 4)
        >>> large = ConditionVerdict("batch size 50", "holds", (), "batch size", 50)
        >>> where_it_turns([small, large])
        'holds with batch size 50; fails with batch size 4; it turns at a batch size between 4 and 50'
    """
    parts = []
    for outcome in ("holds", "fails", "inconclusive", "not run"):
        places = [condition.name for condition in conditions if condition.outcome == outcome]
        if places:
            parts.append(f"{outcome} with {'; '.join(places)}")
    parts += [f"it turns at a {axis} between {low:g} and {high:g}" for axis, low, high in _turns(conditions)]
    return "; ".join(parts)


def _turns(conditions: Sequence[ConditionVerdict]) -> list[tuple[str, float, float]]:
    """Each pair of neighbours along an axis of which one holds and the other fails; what is open between is skipped."""
    turns = []
    for axis in dict.fromkeys(condition.axis for condition in conditions if condition.axis):
        places = sorted(
            (c.at, c.outcome)
            for c in conditions
            if c.axis == axis and c.at is not None and c.outcome in ("holds", "fails")
        )
        for (low, before), (high, after) in pairwise(places):
            if before != after:
                turns.append((axis, low, high))
    return turns


def _remark(conditions: Sequence[ConditionVerdict], findings: Mapping[str, Finding]) -> str:
    """Which conditions are known where not all are; else why it is open, or what contradicts it."""
    if len({condition.outcome for condition in conditions}) > 1:
        return where_it_turns(conditions)
    outcome = conditions[0].outcome
    if outcome == "holds":
        return ""
    if outcome == "not run":
        missing = sorted({id_[:3] for condition in conditions for id_ in condition.hypotheses})
        return f"not all measured: {_join(missing)}"
    reasons = dict.fromkeys(
        finding.reason
        for condition in conditions
        for id_ in condition.hypotheses
        if (finding := findings.get(id_)) is not None
        and (finding.outcome == outcome or finding.is_undefined)
        and finding.reason
    )
    return "; ".join(list(reasons)[:2])


def _join(parts: Sequence[str]) -> str:
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else "".join(parts)
