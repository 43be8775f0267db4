"""The page of verdicts as plain data: every claim with what decides it. The template only writes it down."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from normkit.claims import Claim, Finding, Verdict, Verdicts, contradictions
from normkit.claims.claim import Citation, Document
from normkit.claims.experiment import UNDEFINED, Measurement
from normkit.claims.hypothesis import Hypothesis
from normkit.claims.pilots import Pilot, put_to_test
from normkit.claims.register import pilots
from normkit.claims.rulebook import rulebook
from normkit.claims.verdicts import ConditionVerdict, EvidenceVerdict
from normkit.report import wording
from normkit.report.claims_planes import SHADES, Plane, planes
from normkit.report.strips import Strip, in_words, strip, where_it_holds

CONFIDENCE_WORDS = {
    "V": "read at the source",
    "R": "recalled, not read again",
    "U": "recalled, not sure",
}
# Verdict -> what stands on the page, its sign (nothing rests on colour alone) and its colour.
LOOKS = {
    # on the evidence
    "holds": ("holds", "✓", "green"),
    "fails": ("fails", "✕", "vermilion"),
    "depends": ("depends", "⇄", "orange"),
    "inconclusive": ("inconclusive", "?", "purple"),
    "not run": ("not run", "○", "grey"),
    # on the text
    "right": ("right", "✓", "green"),
    "incomplete": ("incomplete", "◐", "orange"),
    "garbled": ("garbled", "≈", "purple"),
    "wrong": ("wrong", "✕", "vermilion"),
    "self-contradictory": ("self-contradictory", "⇄", "vermilion"),
    # of the literature
    "supported": ("supported", "✓", "green"),
    "contested": ("contested", "⇄", "orange"),
    "refuted": ("refuted", "✕", "vermilion"),
    # of a trial, which may be refuted, too
    "reproduces": ("reproduces", "✓", "green"),
    "in part": ("in part", "⇄", "orange"),
    "open": ("open", "?", "purple"),
}


@dataclass(frozen=True)
class HypothesisView:
    """A hypothesis with its figure and its numbers."""

    id: str
    statement: str
    outcome: str
    effect: str
    rule: str
    p: str
    reason: str
    diverged: str
    strip: Strip | None
    planes: tuple[Plane, ...]


@dataclass(frozen=True)
class ConditionView:
    """What a claim comes to in a condition.

    Attributes:
        made_up_of: how the hypotheses make it up; "" where all are to hold.
    """

    name: str
    outcome: str
    made_up_of: str
    hypotheses: tuple[HypothesisView, ...]


@dataclass(frozen=True)
class CitationView:
    """A published finding; a number only where it was read at the source."""

    who: str
    title: str
    url: str
    finding: str
    number: str
    scope: str
    locator: str
    confidence: str


@dataclass(frozen=True)
class ClaimView:
    claim: Claim
    evidence: str
    condition: str
    conditions: tuple[ConditionView, ...]
    citations: tuple[CitationView, ...]
    contradicts: tuple[str, ...]
    experiments: tuple[str, ...]
    command: str
    search: str


@dataclass(frozen=True)
class PilotView:
    """What a small trial showed, and what became of it."""

    pilot: Pilot
    outcome: str
    condition: str
    conditions: tuple[ConditionView, ...]


@dataclass(frozen=True)
class ExperimentView:
    id: str
    title: str
    question: str
    n_measurements: int


@dataclass(frozen=True)
class ClaimsPage:
    headline: str
    lead: str
    counts: tuple[tuple[str, int], ...]
    total: int
    documents: tuple[Document, ...]
    claims: tuple[ClaimView, ...]
    contradictions: tuple[tuple[tuple[str, ...], str], ...]
    pilots: tuple[PilotView, ...]
    experiments: tuple[ExperimentView, ...]
    origin: tuple[tuple[str, str], ...]
    said: tuple[str, ...]
    looks: Mapping[str, tuple[str, str, str]]
    shades: tuple[tuple[float, str], ...]


def claims_page(verdicts: Verdicts) -> ClaimsPage:
    """Everything that the page shows, computed."""
    counts = verdicts.counts()
    total = sum(counts.values())
    rules = rulebook()
    views = tuple(_claim(verdict, verdicts, rules) for verdict in verdicts.verdicts)
    shown = {view.claim.id for view in views}
    return ClaimsPage(
        headline=_headline(counts),
        lead=_lead(verdicts),
        counts=tuple(counts.items()),
        total=total,
        documents=tuple(dict.fromkeys(view.claim.document for view in views)),
        claims=views,
        contradictions=tuple((c.claims, c.what) for c in contradictions() if shown & set(c.claims)),
        pilots=_pilots(verdicts, rules),
        experiments=_experiments(verdicts),
        origin=_origin(verdicts),
        said=(*verdicts.notes, *(f"Cut: {sentence}" for sentence in verdicts.cut), *verdicts.failures),
        looks=LOOKS,
        shades=SHADES,
    )


def records_table(verdicts: Verdicts) -> dict[str, Any]:
    """Every measurement as a row of a table, for the page to offer as a file."""
    conditions = sorted({name for m in verdicts.measurements for name, _ in m.conditions})
    metrics = sorted({name for m in verdicts.measurements for name in m.metrics})
    columns = ["experiment", "seed", "status", "message", *conditions, *(f"metric.{name}" for name in metrics)]
    rows = []
    for m in verdicts.measurements:
        arm = dict(m.conditions)
        values = {name: value for name, value in m.metrics.items() if abs(value) < UNDEFINED}
        rows.append([m.experiment, m.seed, m.status, m.message, *map(arm.get, conditions), *map(values.get, metrics)])
    return {"columns": columns, "rows": rows}


def _claim(verdict: Verdict, verdicts: Verdicts, rules: Mapping[str, Hypothesis]) -> ClaimView:
    claim = verdict.claim
    named = dict.fromkeys(id_ for condition in verdict.conditions for id_ in condition.hypotheses)
    needed = dict.fromkeys(rules[id_].experiment for id_ in named if id_ in rules)
    return ClaimView(
        claim=claim,
        evidence=verdict.evidence,
        condition=verdict.condition,
        conditions=_conditions(verdict.conditions, verdicts.findings, rules, verdicts.measurements),
        citations=tuple(map(_citation, claim.citations)),
        contradicts=tuple(
            other for pair in contradictions() if claim.id in pair.claims for other in pair.claims if other != claim.id
        ),
        experiments=tuple(needed),
        command=f"normkit claims --tier full --claim {claim.id}" if needed else "",
        search=f"{claim.id} {claim.statement} {claim.text_reason} {verdict.condition}".lower(),
    )


def _pilots(verdicts: Verdicts, rules: Mapping[str, Hypothesis]) -> tuple[PilotView, ...]:
    """Those of which something was measured: they are judged among themselves, from the same measurements."""
    found, findings = put_to_test(pilots(), rules, verdicts.measurements)
    return tuple(
        PilotView(
            verdict.pilot,
            verdict.outcome,
            verdict.condition,
            _conditions(verdict.conditions, findings, rules, verdicts.measurements),
        )
        for verdict in found
        if verdict.outcome != "not run"
    )


def _conditions(
    conditions: Sequence[ConditionVerdict],
    findings: Mapping[str, Finding],
    rules: Mapping[str, Hypothesis],
    measurements: Sequence[Measurement],
) -> tuple[ConditionView, ...]:
    return tuple(
        ConditionView(
            condition.name,
            condition.outcome,
            condition.expression if {"not", "or"} & set(re.findall(r"[a-z]+", condition.expression)) else "",
            tuple(
                _hypothesis(rules[id_], findings[id_], measurements) for id_ in condition.hypotheses if id_ in findings
            ),
        )
        for condition in conditions
    )


def _hypothesis(hypothesis: Hypothesis, finding: Finding, measurements: Sequence[Measurement]) -> HypothesisView:
    p = ""
    if finding.p is not None:
        p = f"p {wording.p_value(finding.p)}, adjusted {wording.p_value(finding.p_adjusted)}"
        if finding.p_sign_flip is not None:
            p += f", sign flip {wording.p_value(finding.p_sign_flip)}"
    n = finding.n_diverged
    return HypothesisView(
        id=hypothesis.id,
        statement=hypothesis.statement,
        outcome=finding.outcome,
        effect=in_words(hypothesis, finding),
        rule=where_it_holds(hypothesis),
        p=p,
        reason=finding.reason,
        diverged=f"{wording.count(n, 'run')} diverged or came to no value" if n else "",
        strip=strip(hypothesis, finding),
        planes=planes(hypothesis, measurements),
    )


def _citation(citation: Citation) -> CitationView:
    source = citation.source
    return CitationView(
        who=f"{source.authors} {source.year}",
        title=source.title,
        url=source.url,
        finding=citation.finding,
        number=citation.number if citation.confidence == "V" else "",
        scope=citation.scope,
        locator=citation.locator,
        confidence=CONFIDENCE_WORDS[citation.confidence],
    )


def _headline(counts: Mapping[EvidenceVerdict, int]) -> str:
    return (
        f"Of {wording.count(sum(counts.values()), 'claim')}, {counts['holds']} hold, {counts['fails']} fail and "
        f"{counts['depends']} depend."
    )


def _lead(verdicts: Verdicts) -> str:
    counts = verdicts.counts()
    rest = len(verdicts.verdicts) - sum(counts.values())
    lead = "What three texts for students say about BatchNorm and LayerNorm, each sentence put to the test."
    if counts["inconclusive"] or counts["not run"]:
        were = "was" if counts["not run"] == 1 else "were"
        lead += f" {counts['inconclusive']} inconclusive, {counts['not run']} {were} not run."
    if rest:
        lead += f" {wording.count(rest, 'more claim')} only the literature can decide."
    return lead


def _experiments(verdicts: Verdicts) -> tuple[ExperimentView, ...]:
    numbers = Counter(m.experiment for m in verdicts.measurements)
    about = verdicts.experiments
    return tuple(ExperimentView(id_, *about.get(id_, ("", "")), n) for id_, n in sorted(numbers.items()))


def _origin(verdicts: Verdicts) -> tuple[tuple[str, str], ...]:
    made = verdicts.provenance
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    lines = [
        ("Records", "shipped with normkit" if verdicts.is_shipped else f"measured here, tier {verdicts.tier}"),
        ("Machine", f"{made['processor']}, {made['cores']} cores, {made['platform']}"),
        ("Versions", versions),
        ("Measured", _when(made["measured_from"], made["measured_to"])),
        ("Work", f"{wording.duration(made['measured_s'])} of one core, {wording.count(len(verdicts.records), 'job')}"),
        ("Rules", f"SHA-256 {made['rules_hash'][:16]}…, evidence {made['evidence_hash'][:16]}…"),
    ]
    if made["n_machines"] > 1:
        lines[1] = ("Machine", f"{lines[1][1]}, and {made['n_machines'] - 1} more")
    return tuple(lines)


def _when(first: str, last: str) -> str:
    if not first:
        return "nothing was measured"
    return f"{first[:16].replace('T', ' ')} to {last[:16].replace('T', ' ')} UTC"
