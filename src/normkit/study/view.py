"""From verdicts to what the learning page shows: plain data, nothing computed that was not measured."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from normkit._version import __version__
from normkit.claims.claim import Citation
from normkit.claims.findings import Finding
from normkit.claims.judge import judge
from normkit.claims.register import register
from normkit.claims.rulebook import rulebook
from normkit.claims.verdicts import EvidenceVerdict, Verdict, Verdicts, families_of, named
from normkit.report.claims_view import CONFIDENCE_WORDS
from normkit.report.palette import looks
from normkit.report.strips import in_words
from normkit.study import content, examples
from normkit.study.grid import NAMES, charts

# Evidence -> the class that colours its mark.
_MARKS = {"holds": "holds", "fails": "fails", "depends": "depends"}

_VERBS: Mapping[EvidenceVerdict, str] = {
    "holds": "hold",
    "fails": "fail",
    "depends": "depend on conditions",
    "inconclusive": "are inconclusive",
    "not run": "were not run",
}


def page(verdicts: Verdicts) -> dict[str, Any]:
    """Everything that the template reads."""
    claims = {verdict.claim.id: _claim(verdict) for verdict in verdicts.verdicts}
    found = findings(verdicts)
    decided_by = _decided_by()
    drawn = charts(verdicts.measurements)
    norms = list(dict.fromkeys(norm for chart in drawn for norm in chart["norms"]))
    documents: dict[str, dict[str, Any]] = {}
    for verdict in verdicts.verdicts:
        document = verdict.claim.document
        entry = documents.setdefault(
            document.id, {"title": f"{document.number} · {document.name} ({document.publisher})", "claims": []}
        )
        entry["claims"].append(claims[verdict.claim.id])
    return {
        "definition": content.DEFINITION,
        "facts": [_with_evidence(said, found, decided_by) for said in content.FACTS],
        "table": [
            {
                "topic": row.topic,
                "sides": [
                    {"norm": norm, **_with_evidence(said, found, decided_by)}
                    for norm, said in (("BatchNorm", row.batch), ("LayerNorm", row.layer))
                ],
            }
            for row in content.TABLE
        ],
        "questions": [_with_evidence(question, found, decided_by) for question in content.QUESTIONS],
        "claims": claims,
        "looks_of": {id_: _MARKS.get(claim["evidence"], "open") for id_, claim in claims.items()},
        "documents": list(documents.values()),
        "counts": ", ".join(f"{n} {_VERBS[verdict]}" for verdict, n in verdicts.counts().items() if n) + ".",
        "tensor": examples.tensors(),
        "feature": examples.feature(),
        "runs": {"charts": drawn, "names": NAMES, "looks": {norm: asdict(look) for norm, look in looks(norms).items()}},
        "machine": machine(verdicts.provenance),
        "version": __version__,
    }


def findings(verdicts: Verdicts) -> dict[str, Finding]:
    """What was found of all that the page rests on; what no claim names is judged among all."""
    rules = rulebook()
    rests_on = (id_ for said in content.everything_said() for id_, _ in said.expects)
    judged = dict.fromkeys([*verdicts.findings, *rests_on])
    families = families_of(verdict.claim for verdict in verdicts.verdicts)
    return judge([rules[id_] for id_ in judged], verdicts.measurements, families)


def _with_evidence(
    said: content.Said | content.Question, found: Mapping[str, Finding], decided_by: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """What is said, and what was measured of each hypothesis that it rests on."""
    rules = rulebook()
    return {
        "said": said,
        "evidence": [
            {
                "id": id_,
                "statement": rules[id_].statement,
                "outcome": found[id_].outcome,
                "effect": in_words(rules[id_], found[id_]),
                "look": _MARKS.get(found[id_].outcome, "open"),
                # Of the claims that a hypothesis decides those that are answered here, if there are any.
                "claims": [claim for claim in said.claims if claim in decided_by[id_]] or decided_by[id_],
            }
            for id_, _ in said.expects
        ],
    }


def _decided_by() -> dict[str, list[str]]:
    """Hypothesis -> the claims that it decides."""
    found: dict[str, list[str]] = defaultdict(list)
    for claim in register().values():
        for id_ in named(claim.conditions):
            found[id_].append(claim.id)
    return found


def machine(provenance: Mapping[str, Any]) -> str:
    """Where and when the runs were made, as a sentence; "" without any."""
    if not provenance.get("measured_to"):
        return ""
    torch = provenance["versions"].get("torch", "an unknown version")
    return (
        f"Runs made on {provenance['processor']} ({provenance['cores']} cores) with torch {torch}, "
        f"{str(provenance['measured_to'])[:10]}."
    )


def _claim(verdict: Verdict) -> dict[str, Any]:
    claim = verdict.claim
    said = f"{claim.literature}. {claim.literature_reason}".rstrip(". ") + "."
    evidence = verdict.evidence if claim.conditions else "for the literature alone"
    return {
        "id": claim.id,
        "statement": claim.statement,
        "text": claim.text.capitalize(),
        "reason": claim.text_reason,
        "evidence": evidence,
        "condition": verdict.condition,
        "literature": f"{said[0].upper()}{said[1:]}",
        "citations": [_citation(citation) for citation in claim.citations],
    }


def _citation(citation: Citation) -> dict[str, str]:
    """A published finding and how sure we are of it; a number only where it was read at the source."""
    number = citation.number if citation.confidence == "V" else ""
    return {
        "found": ": ".join(part.rstrip(".") for part in (citation.finding, number) if part) + ".",
        "who": f"{citation.source.authors} {citation.source.year}",
        "url": citation.source.url,
        "locator": citation.locator,
        "confidence": CONFIDENCE_WORDS[citation.confidence],
    }
