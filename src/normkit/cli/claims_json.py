"""Claims and verdicts as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from normkit.claims import Claim, Verdict, Verdicts
from normkit.claims.rulebook import rulebook


def verdicts_json(verdicts: Verdicts, page: Path | None) -> str:
    """Strict JSON: a number that is not finite becomes null."""
    result = {
        "tier": verdicts.tier,
        "shipped": verdicts.is_shipped,
        "counts": verdicts.counts(),
        "claims": [_verdict(verdict, verdicts) for verdict in verdicts.verdicts],
        "cut": list(verdicts.cut),
        "notes": list(verdicts.notes),
        "failures": list(verdicts.failures),
        "interrupted": verdicts.interrupted,
        "computed": verdicts.n_computed,
        "resumed": verdicts.n_resumed,
        "wall_s": verdicts.wall_s,
        "provenance": dict(verdicts.provenance),
        "report": None if page is None else str(page),
    }
    return json.dumps(_plain(result), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def register_json(claims: Sequence[Claim]) -> str:
    """The claims as the register has them."""
    return json.dumps({"claims": [_claim(claim) for claim in claims]}, indent=2, ensure_ascii=False) + "\n"


def _claim(claim: Claim) -> dict[str, Any]:
    return {
        "id": claim.id,
        "document": claim.document.name,
        "kind": claim.kind,
        "statement": claim.statement,
        "text": claim.text,
        "text_reason": claim.text_reason,
        "literature": claim.literature,
        "literature_reason": claim.literature_reason,
        "citations": [asdict(citation) for citation in claim.citations],
    }


def _verdict(verdict: Verdict, verdicts: Verdicts) -> dict[str, Any]:
    named = dict.fromkeys(id_ for condition in verdict.conditions for id_ in condition.hypotheses)
    rules = rulebook()
    return {
        **_claim(verdict.claim),
        "evidence": verdict.evidence,
        "condition": verdict.condition,
        "conditions": [{"name": c.name, "outcome": c.outcome} for c in verdict.conditions],
        "hypotheses": [
            {**asdict(verdicts.findings[id_]), "statement": rules[id_].statement}
            for id_ in named
            if id_ in verdicts.findings
        ],
    }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
