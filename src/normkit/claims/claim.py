"""A claim as the register has it: what a document says, what its words are worth, and what would decide it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ClaimKind = Literal["definition", "empirical", "mechanism", "cost", "attribution"]
TextVerdict = Literal["right", "incomplete", "garbled", "wrong", "self-contradictory"]
LiteratureVerdict = Literal["supported", "contested", "refuted"]
Confidence = Literal["V", "R", "U"]


@dataclass(frozen=True)
class Document:
    """A text that claims were taken from."""

    id: str
    number: str  # the first part of its claims' ids
    name: str
    publisher: str


@dataclass(frozen=True)
class Source:
    """A publication."""

    id: str
    authors: str
    year: int
    title: str
    url: str


@dataclass(frozen=True)
class Citation:
    """What a publication found.

    Attributes:
        finding: in words.
        number: as published, with its unit; "" unless it was verified at the source.
        scope: of what it was found.
        locator: where in the publication; "place not noted" where nobody wrote it down.
        confidence: V read at the source, R recalled with confidence, U recalled and not sure.
    """

    id: str
    source: Source
    finding: str
    number: str
    scope: str
    locator: str
    confidence: Confidence


@dataclass(frozen=True)
class ConditionRule:
    """What decides a claim in one named condition.

    Attributes:
        name: "batch size 2"; "" for a claim with no more than one.
        expression: over hypotheses, as :func:`normkit.claims.logic.evaluate` takes it.
        axis, at: "batch size" and 2, where the conditions of a claim lie along a scale: a verdict that depends then
            says between which of them it turns.
    """

    name: str
    expression: str
    axis: str = ""
    at: float | None = None


@dataclass(frozen=True)
class Claim:
    """One factual claim of a document, in words of this project.

    Attributes:
        conditions: () for a claim that only the literature can decide.
    """

    id: str
    document: Document
    statement: str
    kind: ClaimKind
    text: TextVerdict
    text_reason: str
    literature: LiteratureVerdict
    literature_reason: str
    citations: tuple[Citation, ...]
    conditions: tuple[ConditionRule, ...]


@dataclass(frozen=True)
class Contradiction:
    """Claims of the same or of different documents that cannot all be right."""

    claims: tuple[str, ...]
    what: str
