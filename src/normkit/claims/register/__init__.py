"""The register of claims, read from the JSON files beside this one."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from normkit.claims.claim import Citation, Claim, ConditionRule, Contradiction, Document, Source
from normkit.claims.pilots import Pilot
from normkit.errors import ArgumentError
from normkit.lab.canonical import hash_of

FOLDER = Path(__file__).parent


@cache
def register() -> Mapping[str, Claim]:
    """Every claim by its id, in the order of the documents.

    Example:
        >>> register()["001-06"].statement
        'LayerNorm computes the same in training and in use.'
    """
    documents = {fields["id"]: Document(**fields) for fields in _read("documents")}
    citations = _citations()
    evidence: dict[str, list[dict[str, Any]]] = _read("evidence")
    claims = {}
    for fields in _read("claims"):
        conditions = tuple(ConditionRule(**rule) for rule in evidence.get(fields["id"], ()))
        cited = tuple(citations[id_] for id_ in fields.pop("citations"))
        document = documents[fields.pop("document")]
        claims[fields["id"]] = Claim(document=document, citations=cited, conditions=conditions, **fields)
    return MappingProxyType(claims)


@cache
def contradictions() -> tuple[Contradiction, ...]:
    """Where the documents contradict each other, or themselves."""
    return tuple(Contradiction(tuple(fields["claims"]), fields["what"]) for fields in _read("contradictions"))


@cache
def pilots() -> tuple[Pilot, ...]:
    """The surprises of small trials, each with what decides it."""
    return tuple(
        Pilot(**{**fields, "conditions": tuple(ConditionRule(**rule) for rule in fields["conditions"])})
        for fields in _read("pilots")
    )


@cache
def evidence_hash(experiment: str | None = None) -> str:
    """SHA-256 of what decides which claim and pilot, in canonical JSON: all, or what asks an experiment's rules."""
    evidence = {**_read("evidence"), **{pilot["id"]: pilot["conditions"] for pilot in _read("pilots")}}
    if experiment is None:
        return hash_of(evidence)
    own = {id_: [rule for rule in rules if f"{experiment}-" in rule["expression"]] for id_, rules in evidence.items()}
    return hash_of({id_: rules for id_, rules in own.items() if rules})


def claim(id_: str) -> Claim:
    """A claim by its id.

    Raises:
        ArgumentError: there is none; the message names the nearest.
    """
    known = register()
    if id_ not in known:
        first, last = next(iter(known)), list(known)[-1]
        raise ArgumentError(f"claims: expected a claim from {first} to {last}, got {id_!r}{_near(id_, known)}")
    return known[id_]


def _near(id_: str, known: Iterable[str]) -> str:
    """The ids that look most like one, digits written out: "1-3" is 001-03."""
    parts = re.findall(r"\d+", id_)
    full = f"{int(parts[0]):03d}-{int(parts[1]):02d}" if len(parts) == 2 and len(id_) < 20 else id_
    matches = difflib.get_close_matches(full, list(known), n=3, cutoff=0.6)
    return f"; did you mean {', '.join(matches)}?" if matches else "; `normkit claims --list` has them all."


def _citations() -> dict[str, Citation]:
    found = _read("literature")
    sources = {fields["id"]: Source(**fields) for fields in found["sources"]}
    return {fields["id"]: Citation(**{**fields, "source": sources[fields["source"]]}) for fields in found["citations"]}


def _read(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
