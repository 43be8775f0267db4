"""Statements of which some are known, some not: "E05-H1 and not E09-H2", over four outcomes instead of two."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from normkit.errors import ArgumentError

Outcome = Literal["holds", "fails", "inconclusive", "not run"]

_TOKEN = re.compile(r"\s*(E\d\d-[A-Za-z0-9_.-]+|and\b|or\b|not\b|\(|\))")

# Of several unknowns, that a measurement is missing is told before that it does not decide.
_UNKNOWN: tuple[Outcome, ...] = ("not run", "inconclusive")
_OPPOSITE: Mapping[Outcome, Outcome] = {"holds": "fails", "fails": "holds"}


def names(expression: str) -> tuple[str, ...]:
    """The hypotheses that an expression speaks of, each once.

    Example:
        >>> names("E05-H1 and not (E09-H2 or E05-H1)")
        ('E05-H1', 'E09-H2')
    """
    return tuple(dict.fromkeys(token for token in _tokens(expression) if token.startswith("E")))


def evaluate(expression: str, outcomes: Mapping[str, Outcome]) -> Outcome:
    """What an expression comes to.

    "and" fails as soon as one part fails, and holds only if all do; "or" the other way round; what is unknown stays
    unknown. So no missing measurement can make anything hold that could still fail.

    Args:
        expression: hypotheses with "and", "or", "not" and parentheses.
        outcomes: of each hypothesis; one that is not there is not run.

    Raises:
        ArgumentError: the expression is not well formed.

    Example:
        >>> evaluate("E01-H1 and not E02-H1", {"E01-H1": "holds", "E02-H1": "inconclusive"})
        'inconclusive'
    """
    tokens = _tokens(expression)
    found = _either(tokens, outcomes, expression)
    if tokens:
        raise _malformed(expression)
    return found


def all_of(parts: list[Outcome]) -> Outcome:
    """What "and" makes of these."""
    if "fails" in parts:
        return "fails"
    return next((unknown for unknown in _UNKNOWN if unknown in parts), "holds")


def _either(tokens: list[str], outcomes: Mapping[str, Outcome], whole: str) -> Outcome:
    parts = [_both(tokens, outcomes, whole)]
    while tokens and tokens[0] == "or":
        tokens.pop(0)
        parts.append(_both(tokens, outcomes, whole))
    # Not all of their opposites.
    return _not(all_of([_not(part) for part in parts]))


def _both(tokens: list[str], outcomes: Mapping[str, Outcome], whole: str) -> Outcome:
    parts = [_one(tokens, outcomes, whole)]
    while tokens and tokens[0] == "and":
        tokens.pop(0)
        parts.append(_one(tokens, outcomes, whole))
    return all_of(parts)


def _one(tokens: list[str], outcomes: Mapping[str, Outcome], whole: str) -> Outcome:
    token = tokens.pop(0) if tokens else ""
    if token == "not":
        return _not(_one(tokens, outcomes, whole))
    if token == "(":
        found = _either(tokens, outcomes, whole)
        if not tokens or tokens.pop(0) != ")":
            raise _malformed(whole)
        return found
    if not token.startswith("E"):
        raise _malformed(whole)
    return outcomes.get(token, "not run")


def _not(outcome: Outcome) -> Outcome:
    return _OPPOSITE.get(outcome, outcome)


def _tokens(expression: str) -> list[str]:
    tokens, place = [], 0
    text = expression.rstrip()
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise _malformed(expression)
        tokens.append(match.group(1))
        place = match.end()
    return tokens


def _malformed(expression: str) -> ArgumentError:
    return ArgumentError(
        f"claims: expected hypotheses with and, or, not and parentheses, got {expression!r}; write 'E05-H1 and E09-H2'."
    )
